"""axolotl's configurations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.migration.conftest import Migrate, accounts

DPO = """
    base_model: some/model
    model_type: LlamaForCausalLM
    tokenizer_type: AutoTokenizer
    load_in_8bit: false
    load_in_4bit: true
    strict: false

    rl: dpo
    rl_beta: 0.2
    chat_template: chatml
    datasets:
      - path: some/pairs
        split: train
        type: chatml.intel
      - path: own.jsonl
        ds_type: json
        type:
          field_prompt: ask
          field_chosen: good
          field_rejected: bad
    dataset_prepared_path:
    val_set_size: 0.05
    output_dir: ./out

    adapter: qlora
    sequence_len: 2048
    sample_packing: false
    pad_to_sequence_len: true

    lora_r: 64
    lora_alpha: 32
    lora_dropout: 0.05
    lora_target_linear: true
    lora_fan_in_fan_out:

    wandb_project: pairs
    wandb_entity:

    gradient_accumulation_steps: 8
    micro_batch_size: 2
    num_epochs: 2
    optimizer: adamw_bnb_8bit
    lr_scheduler: cosine
    cosine_min_lr_ratio: 0.1
    learning_rate: 5e-6

    train_on_inputs: false
    group_by_length: false
    bf16: auto
    fp16:
    tf32: false
    gradient_checkpointing: true
    logging_steps: 1
    flash_attention: true
    warmup_steps: 10
    evals_per_epoch: 4
    saves_per_epoch: 1
    debug:
    deepspeed:
    weight_decay: 0.1
    fsdp:
    special_tokens:
"""


def test_dpo(migrate: Migrate) -> None:
    found = migrate(DPO, processes=2)
    run = found.resolved.run
    assert (found.tool, found.resolved.method.name) == ("axolotl", "dpo")
    assert found.resolved.method_config.model_dump()["beta"] == 0.2
    assert [(s.path, s.columns) for s in run.data.train] == [
        ("some/pairs:train", {"prompt": "question"}),
        ("own.jsonl", {"prompt": "ask", "chosen": "good", "rejected": "bad"}),
    ]
    assert (run.data.max_length, run.data.overlong, run.data.eval_fraction) == (2048, "drop", 0.05)
    train = run.train
    assert (train.groups_per_step, train.epochs, train.learning_rate, train.weight_decay) == (32, 2, 5e-6, 0.1)
    assert (train.optimizer, train.min_lr_ratio, train.warmup_steps) == ("adamw_8bit", 0.1, 10)
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.dropout, run.lora.target_modules) == (64, 32, 0.05, "all-linear")
    assert (run.log.sinks, run.log.project, run.log.every) == (("wandb",), "pairs", 1)
    assert {o.setting.key for o in found.of("missing") if o.changes} == {"load_in_4bit", "adapter"}
    said = accounts(found)
    assert {said[key][0] for key in ("chat_template", "evals_per_epoch", "micro_batch_size")} == {"different"}


@pytest.mark.parametrize(
    ("settings", "method", "options"),
    [
        ("rl: ipo\nrl_beta: 0.2", "ipo", {"tau": 0.2, "normalisation": "mean"}),
        ("rl: kto\nkto_desirable_weight: 1.2", "kto", {"desirable_weight": 1.2}),
        ("rl: orpo\norpo_alpha: 0.15", "orpo", {"lam": 0.15}),
        ("rl: simpo\nsimpo_gamma: 0.8\ncpo_alpha: 0", "simpo", {"gamma": 0.8, "nll_weight": 0}),
        ("rl: dpo\ndpo_use_weighting: true", "dpo", {"weighting": "wpo"}),
        ("rl: dpo\ndpo_norm_loss: true", "dpo_norm", {}),
        ("reward_model: true", "reward", {}),
        ("train_on_inputs: false", "sft", {"train_on": "assistant"}),
        ("train_on_inputs: true", "sft", {"train_on": "sequence"}),
    ],
)
def test_its_methods(migrate: Migrate, settings: str, method: str, options: dict[str, Any]) -> None:
    text = "base_model: m\ndatasets:\n  - path: some/rows\n    type: chat_template\nmicro_batch_size: 4\n"
    found = migrate(text + settings + "\n")
    given = found.resolved.method_config.model_dump()
    assert found.resolved.method.name == method
    assert {name: given[name] for name in options} == options
    assert not found.lossy


def test_special_tokens(migrate: Migrate) -> None:
    text = "base_model: m\ndatasets:\n  - path: some/rows\nmicro_batch_size: 4\nspecial_tokens:\n"
    assert not migrate(text + "  pad_token: <pad>\n").lossy
    found = migrate(text + "  additional_special_tokens: [<a>, <b>]\n")
    assert found.resolved.run.model.added_tokens == ("<a>", "<b>")
    part, said = accounts(migrate(text + "  eos_token: <end>\n"))["special_tokens"]
    assert (part, "eos_token" in said) == ("missing", True)


def test_its_defaults(migrate: Migrate) -> None:
    run = migrate(
        "base_model: m\ndatasets:\n  - path: some/rows\nmicro_batch_size: 4\nlearning_rate: 1e-4\n"
    ).resolved.run
    assert (run.train.schedule, run.train.warmup_fraction, run.train.epochs) == ("cosine", 0.03, 1)
    assert (run.data.max_length, run.data.overlong, run.model.gradient_checkpointing) == (512, "drop", False)


def test_grpo(migrate: Migrate) -> None:
    text = """
    base_model: some/model
    rl: grpo
    trl:
      beta: 0.001
      max_completion_length: 256
      use_vllm: true
      num_generations: 4
      reward_funcs: ["rewards.random_number", "rewards.right"]
      reward_weights: [1.0, 2.0]
      scale_rewards: false
    vllm:
      host: 0.0.0.0
      port: 8000
    datasets:
      - path: some/maths
        name: main
        type: rewards.transform
    sequence_len: 1024
    micro_batch_size: 4
    gradient_accumulation_steps: 4
    max_steps: 100
    learning_rate: 5e-6
    """
    found = migrate(text)
    run = found.resolved.run
    assert run.rollout is not None
    assert run.reward is not None
    assert (run.train.groups_per_step, run.rollout.completions_per_prompt, run.train.max_steps) == (4, 4, 100)
    assert run.reward.rewards == (
        "rewards:random_number",
        {"kind": "function", "function": "rewards:right", "weight": 2.0},
    )
    assert found.resolved.method_config.model_dump()["std"] == "none"
    assert run.data.train[0].path == "some/maths:main:train"
    said = accounts(found)
    assert said["vllm.port"][0] == "missing"
    assert said["trl.use_vllm"][0] == "different"
    assert not found.lossy


def test_batch_size_is_that_of_one_process(migrate: Migrate) -> None:
    """axolotl: gradient_accumulation_steps = batch_size // micro_batch_size, and each process has as many."""
    text = "base_model: m\nlearning_rate: 1e-4\ndatasets: [{path: a/b}]\nbatch_size: 33\nmicro_batch_size: 2\n"
    assert migrate(text, processes=4).resolved.run.train.groups_per_step == 2 * 16 * 4


def test_every_file_of_a_source_is_kept(migrate: Migrate) -> None:
    text = """
        base_model: m
        learning_rate: 1e-4
        datasets:
          - {path: json, data_files: [a.jsonl, b.jsonl], type: chat_template, field_messages: turns}
        test_datasets:
          - {path: json, data_files: c.jsonl, type: chat_template}
    """
    data = migrate(text).resolved.run.data
    assert [(s.path, s.columns) for s in data.train] == [
        ("a.jsonl", {"messages": "turns"}),
        ("b.jsonl", {"messages": "turns"}),
    ]
    assert [s.path for s in data.eval] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("source", "lost"),
    [
        ("roles_to_train: [assistant], train_on_eos: turn, chat_template: tokenizer_default", ""),
        ("roles_to_train: [user, assistant]", "roles_to_train"),
        ("train_on_eos: last", "train_on_eos"),
        ("shards: 10", "shards"),
        (
            'type: {field_instruction: q, field_output: a, field_system: s, format: "Q: {instruction}"}',
            "field_system, format",
        ),
    ],
)
def test_what_a_source_asks_for_and_nothing_does(migrate: Migrate, source: str, lost: str) -> None:
    found = migrate(f"base_model: m\nlearning_rate: 1e-4\ndatasets: [{{path: a/b, {source}}}]\n")
    part, text = accounts(found)["datasets"]
    assert (part, found.lossy) == (("missing", True) if lost else ("taken", False))
    assert not lost or f"without a counterpart: {lost} of its sources" in text


def test_long_texts_are_cut_and_conversations_are_dropped(migrate: Migrate) -> None:
    text = "base_model: m\nlearning_rate: 1e-4\ndatasets:\n  - {path: a.jsonl, type: completion}\n"
    found = migrate(text)
    assert found.resolved.run.data.overlong == "truncate_completion"
    assert any("goes on in a further row" in note for note in found.notes)
    mixed = migrate(f"{text}  - {{path: b.jsonl, type: chat_template}}\n", "mixed.yaml")
    assert mixed.resolved.run.data.overlong == "drop"
