"""Scripts and command lines are read and never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaudit.api import migrate as program
from plaudit.errors import ConfigError
from tests.migration.conftest import Migrate, accounts

SCRIPT = """
    raise SystemExit("this must not run")
    import torch
    from trl import DPOConfig, DPOTrainer

    BASE = "some/model"
    EPOCHS = 2
    args = parse()
    rows = load_dataset("some/pairs", split="train_prefs")
    rows = rows.map(lambda row: row).select(range(10))
    held_out = load_dataset("json", data_files="held.jsonl")["train"]
    model = AutoModelForCausalLM.from_pretrained(BASE, torch_dtype=torch.bfloat16)
    adapter = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], bias="none")
    training_args = DPOConfig(
        output_dir="out",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        learning_rate=args.lr,
        num_train_epochs=EPOCHS,
        beta=0.1 * 2,
        loss_type="hinge",
        dataset_num_proc=workers(),
    )
    trainer = DPOTrainer(
        model, args=training_args, train_dataset=rows, eval_dataset=held_out, peft_config=adapter, ref_model=None
    )
    trainer.train()
"""


def test_a_script(migrate: Migrate) -> None:
    found = migrate(SCRIPT, "train.py")
    run = found.resolved.run
    assert (found.tool, found.resolved.method.name, run.model.path) == ("trl", "hinge", "some/model")
    assert [s.path for s in (*run.data.train, *run.data.eval)] == ["some/pairs:train_prefs", "held.jsonl"]
    assert run.lora is not None
    assert (run.lora.r, run.lora.dropout, run.lora.target_modules) == (16, 0.1, ("q_proj", "v_proj"))
    assert (run.train.groups_per_step, run.train.epochs) == (16, 2)
    unread = {o.setting.key: (o.setting.where.rpartition(":")[2], o.changes, o.text) for o in found.of("missing")}
    assert unread["learning_rate"][:2] == ("18", True)
    assert "could not be read without running the script: args.lr" in unread["learning_rate"][2]
    assert unread["beta"][1]
    assert unread["dataset_num_proc"][:2] == ("22", False)
    assert run.train.learning_rate == 5e-5, "ours: TRL's default was not what the script had"
    assert found.resolved.method_config.model_dump()["beta"] == 0.1
    assert found.lossy


def test_the_defaults_of_a_script_are_not_those_of_the_command_line(migrate: Migrate) -> None:
    text = """
    config = LoraConfig()
    trainer = DPOTrainer(model="m", args=DPOConfig(eval_strategy="steps"), train_dataset=load_dataset("d")["train"])
    """
    run = migrate(text, "x.py").resolved.run
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (8, 8, 0)
    assert run.data.eval == (), "only the command line of TRL takes the split test by itself"


def test_rewards_of_a_script(migrate: Migrate) -> None:
    text = """
    from mine import polite

    def short(completions, **kwargs):
        return [0.0 for _ in completions]

    trainer = GRPOTrainer(
        model="some/model",
        reward_funcs=[short, "some/reward-model", polite],
        args=GRPOConfig(output_dir="out", num_generations=4, loss_type="grpo"),
        train_dataset=load_dataset("some/prompts", "main", split="train"),
    )
    """
    found = migrate(text, "grpo.py")
    assert found.resolved.run.reward is not None
    rewards = found.resolved.run.reward.rewards
    assert rewards[:2] == ("YOUR_REWARDS.py:short", {"kind": "model", "path": "some/reward-model"})
    assert found.resolved.run.data.train[0].path == "some/prompts:main:train"
    assert "reward.rewards" in found.placeholders, "the script would train if it were imported"
    assert any("short is defined in the script" in note for note in found.notes)


def test_a_script_that_names_nothing_has_gaps_to_fill(migrate: Migrate) -> None:
    found = migrate("SFTTrainer(model=build(), train_dataset=rows())", "sft.py")
    assert found.placeholders == ("model.path", "data.train")
    assert "# TODO model.path is YOUR-MODEL" in found.text
    assert {o.setting.key for o in found.of("missing")} == {"model_name_or_path", "dataset_name"}


@pytest.mark.parametrize(
    ("text", "word"), [("def (", "not a Python file"), ("print(1)", "makes no configuration of TRL")]
)
def test_scripts_that_say_nothing(migrate: Migrate, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        migrate(text, "x.py")
    assert caught.value.code == "PL104"


SHELL = """
    #!/bin/bash
    MODEL="some/model"
    export WANDB_PROJECT=x
    pip install trl  # a comment
    accelerate launch --config_file fsdp.yaml --num_processes 4 \\
        trl/scripts/dpo.py --dataset_name some/pairs \\
        --model_name_or_path $MODEL --learning_rate 5.0e-7 \\
        --per_device_train_batch_size 2 --gradient_accumulation_steps=8 \\
        --output_dir $OUT --loss_type sigmoid sft --loss_weights 1.0 0.5 \\
        --no_remove_unused_columns --use_peft --lora_target_modules q_proj v_proj > log.txt
"""


def test_a_shell_file(migrate: Migrate) -> None:
    found = migrate(SHELL, "run.sh")
    run = found.resolved.run
    assert (run.model.path, run.train.groups_per_step, run.train.learning_rate) == ("some/model", 64, 5e-7)
    assert found.resolved.method_config.model_dump()["nll_weight"] == 0.5
    assert run.lora is not None
    assert run.lora.target_modules == ("q_proj", "v_proj")
    assert accounts(found)["output_dir"] == ("missing", "could not be read without running the script: $OUT")
    assert not found.lossy, "where results go does not change them"
    assert found.commands("c.yaml")[-1] == "plaudit dpo c.yaml --processes 4"


def test_commands(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text("model_name_or_path: m\ndataset_name: d\nbeta: 0.1\nlearning_rate: 1e-6\n")
    found = program(["trl", "dpo", "--config", str(file), "--beta", "0.3"])
    assert found.resolved.method_config.model_dump()["beta"] == 0.3
    assert found.resolved.run.train.learning_rate == 1e-6
    words = ["torchrun", "--nproc_per_node", "2", "-m", "trl.scripts.kto", "--model_name_or_path", "m"]
    assert program([*words, "--dataset_name", "d"]).resolved.run.train.groups_per_step == 16
    words = ["llamafactory-cli", "train", "--stage", "rm", "--model_name_or_path", "m", "--dataset", "d"]
    assert program([*words, "--dataset_dir", "ONLINE"]).resolved.method.name == "reward"
    file.write_text("base_model: m\ndatasets:\n  - path: d\nmicro_batch_size: 4\n")
    found = program(["axolotl", "train", str(file), "--learning-rate", "1e-5"])
    assert (found.tool, found.resolved.run.train.learning_rate) == ("axolotl", 1e-5)


@pytest.mark.parametrize(
    ("text", "name", "word"),
    [
        ("echo hello", "run.sh", "no command of TRL"),
        ("colour: blue", "x.yaml", "none of its keys is known"),
        ("model_name_or_path: m\ndataset_name: d", "x.yaml", "fit several trainers"),
        ("model_name_or_path: m\nnum_generations: 4", "x.yaml", "fit several trainers"),
        ("base_model: m\nrl: mystery", "x.yaml", "rl: mystery has no counterpart"),
        ("x", "training_args.bin", "it is not opened"),
    ],
)
def test_what_cannot_be_recognised(migrate: Migrate, text: str, name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        migrate(text, name)
    assert caught.value.code == "PL104"
    assert caught.value.mend


def test_the_tool_and_the_trainer_can_be_said(migrate: Migrate) -> None:
    assert migrate("model_name_or_path: m\ndataset_name: d", method="kto").resolved.method.name == "kto"
    assert migrate("model_name_or_path: m\ndataset_name: d", method="simpo").trainer == "cpo"
    assert migrate("model_name_or_path: m\ndataset: d\n", tool="llama-factory").resolved.method.name == "sft"


def test_what_a_script_makes_of_its_rows(migrate: Migrate) -> None:
    """A part that is held out is a share here; rows that are filtered or made anew are not read, and that is said."""
    text = """
        rows = load_dataset("some/pairs", split="train")
        rows = rows.filter(lambda row: len(row["prompt"]) < 99).shuffle(seed=1)
        rows = rows.train_test_split(test_size=0.2, seed=1)
        args = DPOConfig(output_dir="out")
        DPOTrainer("some/model", args=args, train_dataset=rows["train"], eval_dataset=rows["test"])
    """
    found = migrate(text, "train.py")
    data = found.resolved.run.data
    assert ([s.path for s in data.train], list(data.eval), data.eval_fraction) == (["some/pairs:train"], [], 0.2)
    said = {o.setting.key: o for o in found.of("missing")}
    assert set(said) == {"train_dataset.filter"}
    assert (said["train_dataset.filter"].changes, said["train_dataset.filter"].setting.where[-2:]) == (True, ":3")


def test_files_of_splits_in_a_script(migrate: Migrate) -> None:
    text = """
        files = {"train": "a.jsonl", "test": "b.jsonl"}
        rows = load_dataset("json", data_files=files)
        args = DPOConfig(output_dir="out")
        DPOTrainer("some/model", args=args, train_dataset=rows["train"], eval_dataset=rows["test"])
    """
    data = migrate(text, "train.py").resolved.run.data
    assert [s.path for s in (*data.train, *data.eval)] == ["a.jsonl", "b.jsonl"]
    several = text.replace('"a.jsonl"', '["a.jsonl", "c.jsonl"]')
    found = migrate(several, "several.py")
    assert found.placeholders == ("data.train",), "one of them would be a part of the data"


def test_the_numbers_of_a_punishment_in_a_script(migrate: Migrate) -> None:
    text = """
        punish = get_soft_overlong_punishment(max_completion_len=2048, soft_punish_cache=512)
        args = GRPOConfig(output_dir="out", max_completion_length=2048)
        GRPOTrainer("some/model", args=args, reward_funcs=["a/reward", get_soft_overlong_punishment(2048, 512)])
    """
    found = migrate(text, "train.py")
    assert "soft_overlong: {longest: 2048, cache: 512}" in found.text
    unread = migrate(text.replace("(2048, 512)", "(LONG, 512)"), "unread.py")
    assert accounts(unread)["reward_funcs"][0] == "missing"


def test_processes_of_a_configuration_of_accelerate(tmp_path: Path) -> None:
    (tmp_path / "z3.yaml").write_text("distributed_type: DEEPSPEED\nnum_processes: 8\n")
    words = ["accelerate", "launch", "--config_file", str(tmp_path / "z3.yaml"), "dpo.py", "--model_name_or_path", "m"]
    assert program([*words, "--dataset_name", "a/b"]).processes == 8
    assert program([*words[:4], "--num_processes", "2", *words[4:], "--dataset_name", "a/b"]).processes == 2


@pytest.mark.parametrize(
    ("name", "word"), [("none/x.yaml", "no such folder"), ("x.txt", ".yaml files"), ("train.yaml", "there already")]
)
def test_where_it_cannot_be_written(migrate: Migrate, tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        migrate("model_name_or_path: m\ndataset_name: a/b\nloss_type: ipo\n", "train.yaml", output=tmp_path / name)
    assert error.value.code == "PL102"
    assert not (tmp_path / "x.txt").exists()


@pytest.mark.parametrize("named", [True, False])
def test_the_reference_of_a_script_is_not_what_it_trains(migrate: Migrate, named: bool) -> None:
    other = 'AutoModelForCausalLM.from_pretrained("some/other")'
    loaded, reference = (f"ref = {other}", "ref") if named else ("", other)
    text = f"""
        model = AutoModelForCausalLM.from_pretrained("some/policy")
        {loaded}
        DPOTrainer(model, ref_model={reference}, args=DPOConfig(output_dir="o"), train_dataset=load_dataset("a/b"))
    """
    found = migrate(text, "train.py")
    assert found.resolved.run.model.path == "some/policy"
    assert accounts(found)["ref_model"][0] == "missing"


def test_a_reference_that_is_the_model_itself(migrate: Migrate) -> None:
    text = """
        model = AutoModelForCausalLM.from_pretrained("some/policy")
        DPOTrainer(model, ref_model=model, args=DPOConfig(output_dir="o"), train_dataset=load_dataset("a/b"))
    """
    assert migrate(text, "train.py").resolved.run.model.path == "some/policy"
