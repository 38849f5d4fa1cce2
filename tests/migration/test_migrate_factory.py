"""LLaMA-Factory's configurations, with the data sets that dataset_info.json explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.migration.conftest import Migrate, accounts

INFO = {
    "pairs": {
        "file_name": "pairs.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "turns", "chosen": "chosen", "rejected": "rejected"},
    },
    "asked": {"file_name": "asked.jsonl", "columns": {"prompt": "question", "response": "reply"}},
    "hub": {"hf_hub_url": "some/pairs", "split": "train_prefs", "columns": {"chosen": "good", "rejected": "bad"}},
}

DPO = """
    ### model
    model_name_or_path: some/model
    trust_remote_code: true

    ### method
    stage: dpo
    do_train: true
    finetuning_type: lora
    lora_rank: 8
    lora_target: all
    pref_beta: 0.2
    pref_loss: sigmoid

    ### dataset
    dataset: pairs,hub
    template: qwen3_nothink
    cutoff_len: 4096
    max_samples: 1000
    preprocessing_num_workers: 16

    ### output
    output_dir: saves/pairs
    logging_steps: 10
    save_steps: 500
    plot_loss: true
    overwrite_output_dir: true
    report_to: none

    ### train
    per_device_train_batch_size: 1
    gradient_accumulation_steps: 8
    learning_rate: 5.0e-6
    num_train_epochs: 3.0
    lr_scheduler_type: cosine
    warmup_ratio: 0.1
    bf16: true
    ddp_timeout: 180000000
    resume_from_checkpoint: null
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Where its data lies: beside the folder of the configurations, as in its repository."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    return tmp_path


def test_dpo(migrate: Migrate, repository: Path) -> None:
    found = migrate(DPO, "examples/train/dpo.yaml")
    run = found.resolved.run
    assert (found.tool, found.resolved.method.name) == ("llama-factory", "dpo")
    assert found.resolved.method_config.model_dump()["beta"] == 0.2
    first, second = run.data.train
    assert (first.path, first.columns, first.limit) == (
        str(repository / "data" / "pairs.json"),
        {"conversations": "turns"},
        1000,
    )
    assert (second.path, second.columns) == ("some/pairs:train_prefs", {"chosen": "good", "rejected": "bad"})
    assert (run.data.max_length, run.data.overlong) == (4096, "truncate_prompt")
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.target_modules, run.lora.dropout) == (8, 16, "all-linear", 0)
    assert (run.train.groups_per_step, run.train.warmup_fraction, run.train.schedule) == (8, 0.1, "cosine")
    assert (run.run.dir, run.model.precision, run.model.gradient_checkpointing) == ("saves/pairs", "bf16", True)
    said = accounts(found)
    assert said["template"][0] == "different"
    assert said["plot_loss"] == ("missing", "report.html has the curves")
    assert not found.lossy


@pytest.mark.parametrize(
    ("settings", "method", "options"),
    [
        ("pref_loss: hinge", "hinge", {"beta": 0.2}),
        ("pref_loss: ipo", "ipo", {"tau": 0.2, "normalisation": "mean"}),
        ("pref_loss: simpo\n    simpo_gamma: 0.7", "simpo", {"beta": 0.2, "gamma": 0.7, "nll_weight": 0}),
        (
            "pref_loss: orpo",
            "orpo",
            {"lam": 0.2, "nll_over": "completion", "nll_aggregation": "sequence-mean", "nll_weight": 1},
        ),
        ("pref_ftx: 0.5", "dpo", {"nll_weight": 0.5, "nll_aggregation": "sequence-mean"}),
        ("dpo_label_smoothing: 0.1", "dpo", {"label_smoothing": 0.1}),
        ("pref_bco_weight: 0.25", "mpo", {"losses": {"dpo": 0.8, "bco_pair": 0.2}, "nll_weight": 0, "beta": 0.2}),
        ("pref_loss: kto_pair", "kto", {"beta": 0.2}),
    ],
)
def test_its_losses(migrate: Migrate, repository: Path, settings: str, method: str, options: dict[str, Any]) -> None:
    text = DPO.replace("    pref_loss: sigmoid\n", "" if "pref_loss" in settings else "    pref_loss: sigmoid\n")
    found = migrate(text + f"    {settings}\n", "examples/x.yaml")
    given = found.resolved.method_config.model_dump()
    assert found.resolved.method.name == method
    assert {name: given[name] for name in options} == options
    assert (found.resolved.run.data.convert == "pairs_to_feedback") == (method == "kto")
    assert not found.lossy


@pytest.mark.parametrize(
    ("settings", "method", "train_on"),
    [
        ("stage: sft", "sft", "assistant"),
        ("stage: sft\nmask_history: true", "sft", "completion"),
        ("stage: sft\ntrain_on_prompt: true", "sft", "sequence"),
        ("stage: pt", "sft", "sequence"),
        ("stage: rm", "reward", None),
        ("stage: kto\nkto_chosen_weight: 1.5", "kto", None),
    ],
)
def test_the_other_stages(migrate: Migrate, repository: Path, settings: str, method: str, train_on: str | None) -> None:
    text = f"model_name_or_path: m\ndataset: asked\nfinetuning_type: full\n{settings}\n"
    found = migrate(text, "examples/x.yaml")
    assert found.resolved.method.name == method
    assert found.resolved.method_config.model_dump().get("train_on") == train_on
    assert found.resolved.run.lora is None
    source = found.resolved.run.data.train[0]
    whole_text = {"text": "question"}  # of the prompt alone, as there
    assert source.columns == (whole_text if settings == "stage: pt" else {"instruction": "question", "output": "reply"})


def test_ppo(migrate: Migrate, repository: Path) -> None:
    text = """
    model_name_or_path: some/model
    reward_model: saves/reward
    stage: ppo
    finetuning_type: lora
    dataset: asked
    per_device_train_batch_size: 2
    gradient_accumulation_steps: 4
    ppo_buffer_size: 2
    ppo_target: 4.0
    ppo_epochs: 2
    max_new_tokens: 512
    top_p: 0.9
    """
    found = migrate(text, "examples/ppo.yaml")
    run, method = found.resolved.run, found.resolved.method_config.model_dump()
    assert run.rollout is not None
    assert run.reward is not None
    assert (run.train.groups_per_step, run.rollout.prompts_per_batch, run.rollout.ppo_epochs) == (8, 16, 2)
    assert (run.rollout.max_new_tokens, run.rollout.top_p, run.rollout.top_k) == (512, 0.9, 50)
    assert run.rollout.temperature == 0.95
    assert (method["kl_controller"], method["kl_target"], method["kl_weight"]) == ("adaptive", 4.0, 0.2)
    assert run.reward.rewards == ({"kind": "model", "path": "saves/reward"},)
    assert run.data.train[0].columns == {"instruction": "question"}, "prompts have no answers"
    assert run.data.max_length == 2048 + 512


def test_without_its_table_of_data_sets(migrate: Migrate) -> None:
    found = migrate(DPO.replace("dataset: pairs,hub", "dataset: pairs\n    dataset_dir: nowhere"))
    assert found.resolved.run.data.train[0].path == "pairs:train"
    assert accounts(found)["dataset"][0] == "different"
    assert any("was not found" in note for note in found.notes)


def test_what_it_has_and_we_have_not(migrate: Migrate, repository: Path) -> None:
    lost = {"quantization_bit": "4", "use_galore": "true", "loraplus_lr_ratio": "16.0", "ref_model": "other/model"}
    found = migrate(DPO + "".join(f"    {k}: {v}\n" for k, v in lost.items()), "examples/x.yaml")
    changing = {o.setting.key for o in found.of("missing") if o.changes}
    assert changing == set(lost)


@pytest.mark.parametrize("settings", ["packing: true", "neat_packing: true", "stage: pt"])
def test_packing_makes_its_steps_larger(migrate: Migrate, repository: Path, settings: str) -> None:
    text = "model_name_or_path: m\ndataset: asked\nstage: sft\n"
    assert not any("packing" in note for note in migrate(text, "examples/x.yaml").notes)
    text = text.replace("stage: sft\n", "") if "stage" in settings else text
    found = migrate(f"{text}{settings}\n", "examples/y.yaml")
    assert any("raise train.groups_per_step" in note for note in found.notes)
    if "packing" in settings:
        assert accounts(found)[settings.partition(":")[0]][0] == "different"


def test_a_long_text_is_cut_and_not_dropped(migrate: Migrate, repository: Path) -> None:
    found = migrate("model_name_or_path: m\ndataset: asked\nstage: pt\n", "examples/x.yaml")
    assert found.resolved.run.data.overlong == "truncate_completion"
    assert any("goes on in a further row" in note for note in found.notes)


def test_thinking_that_is_switched_off_asks_for_something(migrate: Migrate, repository: Path) -> None:
    text = "model_name_or_path: m\ndataset: asked\nstage: sft\nenable_thinking: "
    assert migrate(f"{text}false\n", "examples/x.yaml").lossy
    assert not migrate(f"{text}true\n", "examples/y.yaml").lossy
