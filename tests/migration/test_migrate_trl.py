"""TRL's configurations: what each means as one of ours."""

from __future__ import annotations

from typing import Any

import pytest

from plaudit.errors import ConfigError
from tests.migration.conftest import Migrate, accounts

BASE = "model_name_or_path: some/model\ndataset_name: some/data\n"

DPO = """
    model_name_or_path: some/model
    dataset_name: some/pairs
    dataset_train_split: train_prefs
    dataset_test_split: test_prefs
    learning_rate: "5e-7"
    num_train_epochs: 2
    per_device_train_batch_size: 2
    gradient_accumulation_steps: 8
    lr_scheduler_type: cosine_with_min_lr
    lr_scheduler_kwargs: {min_lr: 5.0e-8}
    warmup_ratio: 0.05
    optim: adamw_torch
    adam_beta2: 0.95
    max_grad_norm: 0
    beta: 0.01
    ld_alpha: 0.5
    label_smoothing: 0.1
    max_length: 2048
    truncation_mode: keep_end
    eval_strategy: steps
    eval_steps: 50
    save_steps: 200
    save_total_limit: 5
    logging_steps: 25
    metric_for_best_model: eval_rewards/accuracies
    report_to: [wandb, mlflow]
    seed: 7
    bf16: true
    use_peft: yes
    lora_r: 32
    lora_alpha: 16
    lora_target_modules: all-linear
    use_rslora: true
    dataset_num_proc: 8
    fsdp: full_shard
"""


def test_dpo_with_much_of_what_there_is(migrate: Migrate) -> None:
    found = migrate(DPO, "dpo.yaml", processes=4)
    run, method = found.resolved.run, found.resolved.method_config
    assert (found.tool, found.trainer, found.resolved.method.name) == ("trl", "dpo", "dpo")
    assert run.model.path == "some/model"
    assert [s.path for s in (*run.data.train, *run.data.eval)] == ["some/pairs:train_prefs", "some/pairs:test_prefs"]
    train = run.train
    assert (train.groups_per_step, train.epochs, train.learning_rate) == (64, 2, 5e-7)
    assert (train.schedule, train.warmup_fraction, train.max_grad_norm) == ("cosine", 0.05, None)
    assert train.min_lr_ratio == pytest.approx(0.1)
    assert (train.betas, train.seed, train.sharding) == ((0.9, 0.95), 7, "fsdp")
    assert (run.data.max_length, run.data.overlong) == (2048, "truncate_prompt")
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.dropout, run.lora.rslora) == (32, 16, 0.05, True)
    assert (run.eval.every, run.eval.best_metric) == (50, "eval/rewards/accuracies")
    assert (run.checkpoint.every, run.checkpoint.keep, run.log.every, run.log.sinks) == (200, 5, 25, ("wandb",))
    assert (method.beta, method.ld_alpha) == (0.01, 0.5)  # type: ignore[attr-defined]
    assert method.label_smoothing == 0  # type: ignore[attr-defined]
    said = accounts(found)
    assert said["label_smoothing"] == ("different", said["label_smoothing"][1])
    assert "does not read it" in said["label_smoothing"][1]
    assert "64 = 2 × 8 × 4 processes" in said["per_device_train_batch_size"][1]
    assert said["dataset_num_proc"][0] == "missing"
    assert not found.lossy


def test_defaults_that_differ_are_written_and_said(migrate: Migrate) -> None:
    found = migrate(BASE, "dpo.yaml")
    train, data = found.resolved.run.train, found.resolved.run.data
    assert (train.learning_rate, train.groups_per_step, train.epochs, train.warmup_fraction) == (1e-6, 8, 3, 0)
    assert (data.max_length, data.overlong) == (1024, "truncate_completion")
    assert found.resolved.run.model.gradient_checkpointing
    line = next(line for line in found.text.splitlines() if "learning_rate" in line)
    assert line.endswith("# TRL's default")
    assert "beta" not in found.text, "0.1 here and there"


LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss_type: hinge\nbeta: 0.3": ("hinge", {"beta": 0.3}),
    "loss_type: ipo\nbeta: 0.3": ("ipo", {"tau": 0.3, "normalisation": "mean"}),
    "loss_type: robust\nlabel_smoothing: 0.2": ("robust_dpo", {"label_smoothing": 0.2}),
    "loss_type: robust": ("robust_dpo", {"label_smoothing": 0.0}),
    "loss_type: exo_pair\nlabel_smoothing: 0.01": ("exo", {"label_smoothing": 0.01}),
    "loss_type: nca_pair": ("nca", {"beta": 0.1}),
    "loss_type: sppo_hard": ("sppo", {"beta": 0.1}),
    "loss_type: aot_unpaired": ("aot", {"unpaired": True, "beta": 0.1}),
    "loss_type: apo_down": ("apo_down", {}),
    "loss_type: discopop\ndiscopop_tau: 0.1": ("discopop", {"tau": 0.1, "beta": 0.1}),
    "loss_type: sigmoid_norm\nbeta: 2": ("dpo_norm", {"beta": 2}),
    "loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.5]": (
        "dpo",
        {"nll_weight": 0.5, "nll_aggregation": "token-mean"},
    ),
    "loss_type: [sigmoid, bco_pair, sft]\nloss_weights: [0.8, 0.2, 1.0]": (
        "mpo",
        {"losses": {"dpo": 0.8, "bco_pair": 0.2}, "nll_weight": 1, "nll_aggregation": "token-mean"},
    ),
    "loss_type: [sigmoid, hinge]": ("mpo", {"losses": {"dpo": 1, "hinge": 1}, "nll_weight": 0}),
    "f_divergence_type: alpha_divergence\nf_alpha_divergence_coef: 0.3": (
        "fdpo",
        {"divergence": "alpha", "alpha": 0.7},
    ),
    "f_divergence_type: js_divergence": ("fdpo", {"divergence": "js"}),
    "sync_ref_model: true": ("tr_dpo", {"alpha": 0.6, "every": 512, "update": "soft"}),
    "sync_ref_model: true\nref_model_mixup_alpha: 1.0\nref_model_sync_steps: 64": (
        "tr_dpo",
        {"update": "hard", "every": 64},
    ),
    "use_weighting: true": ("dpo", {"weighting": "wpo"}),
    "rpo_alpha: 1.0": ("dpo", {"nll_weight": 1.0, "nll_aggregation": "token-mean"}),
}


@pytest.mark.parametrize("settings", LOSSES)
def test_the_losses_of_dpo(migrate: Migrate, settings: str) -> None:
    method, options = LOSSES[settings]
    found = migrate(BASE + settings, "dpo.yaml")
    assert found.resolved.method.name == method
    given = found.resolved.method_config.model_dump()
    assert {name: given[name] for name in options} == pytest.approx(options) if method != "mpo" else True
    if method == "mpo":
        assert {name: given[name] for name in options} == options
    assert not found.lossy


OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("assistant_only_loss: true", "sft", {"train_on": "assistant"}),
    "kto": ("desirable_weight: 1.5", "kto", {"desirable_weight": 1.5, "beta": 0.1}),
    "reward": ("center_rewards_coefficient: 0.01", "reward", {"centre_weight": 0.01}),
    "orpo": ("beta: 0.2", "orpo", {"lam": 0.2}),
    "cpo": ("cpo_alpha: 0.5", "cpo", {"nll_weight": 0.5}),
}


@pytest.mark.parametrize("trainer", OTHERS)
def test_the_other_trainers(migrate: Migrate, trainer: str) -> None:
    settings, method, options = OTHERS[trainer]
    found = migrate(BASE + settings, "x.yaml", method=trainer)
    assert found.resolved.method.name == method
    given = found.resolved.method_config.model_dump()
    assert {name: given[name] for name in options} == options
    assert not found.lossy


def test_simpo_is_a_loss_of_cpo(migrate: Migrate) -> None:
    settings = "loss_type: simpo\nsimpo_gamma: 1.0\nbeta: 2.5\n"
    alone = migrate(BASE + settings + "cpo_alpha: 0\n").resolved.method_config.model_dump()
    assert (alone["beta"], alone["gamma"], alone["nll_weight"]) == (2.5, 1.0, 0)
    beside = migrate(BASE + settings).resolved.method_config.model_dump()
    assert (beside["nll_weight"], beside["nll_aggregation"]) == (1.0, "token-mean"), "cpo_alpha is 1 by default"


def test_the_hinge_of_cpo_is_slic_on_its_own_scale(migrate: Migrate) -> None:
    found = migrate(BASE + "loss_type: hinge\nbeta: 0.5\ncpo_alpha: 2.0", method="cpo")
    given = found.resolved.method_config.model_dump()
    assert (found.resolved.method.name, given["delta"], given["nll_weight"]) == ("slic", 2.0, 4.0)


def test_what_trl_trains_on_by_default_is_said(migrate: Migrate) -> None:
    found = migrate(BASE + "packing: true\n", "sft.yaml")
    assert found.resolved.method_config.model_dump()["train_on"] == "sequence"
    assert accounts(found)["packing"][0] == "different"
    assert any("raise train.groups_per_step" in note for note in found.notes)


def test_kto_keeps_its_order(migrate: Migrate) -> None:
    assert migrate(BASE, "kto.yaml").resolved.run.data.shuffle is False
    assert migrate(BASE, "dpo.yaml").resolved.run.data.shuffle is True


GRPO = """
    model_name_or_path: some/model
    dataset_name: some/maths
    reward_funcs: [accuracy_reward, my_lib.rewards.tidy, get_soft_overlong_punishment]
    num_generations: 8
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 8
    steps_per_generation: 16
    num_iterations: 2
    max_completion_length: 1024
    temperature: 0.9
    top_k: 0
    top_p: 0.95
    mask_truncated_completions: true
    use_vllm: true
    vllm_mode: colocate
    vllm_gpu_memory_utilization: 0.4
    log_completions: true
"""


def test_grpo_counts_completions_and_we_count_prompts(migrate: Migrate) -> None:
    found = migrate(GRPO, "grpo.yaml", processes=2)
    run = found.resolved.run
    assert found.resolved.method.name == "dapo", "TRL's default loss"
    assert run.rollout is not None
    assert run.train.groups_per_step == 8, "4 × 8 × 2 completions / 8"
    assert run.rollout.prompts_per_batch == 16, "4 × 2 × 16 completions / 8"
    assert (run.rollout.completions_per_prompt, run.rollout.ppo_epochs, run.rollout.max_new_tokens) == (8, 2, 1024)
    assert (run.rollout.temperature, run.rollout.top_k, run.rollout.top_p) == (0.9, None, 0.95)
    assert run.rollout.dynamic_sampling is False
    method = found.resolved.method_config.model_dump()
    assert (method["clip_low"], method["clip_high"], method["truncated"]) == (0.2, 0.2, "mask")
    assert run.reward is not None
    assert run.reward.rewards == ("math", "my_lib.rewards:tidy")
    assert run.reward.shaping == ({"soft_overlong": {"longest": 1280, "cache": 256}},)
    assert not found.lossy


@pytest.mark.parametrize(
    ("settings", "method", "options"),
    [
        ("loss_type: grpo", "grpo", {"aggregation": "seq-mean-token-mean", "std": "sample"}),
        ("loss_type: bnpo", "grpo", {"aggregation": "token-mean"}),
        ("loss_type: dr_grpo", "grpo", {"aggregation": "seq-mean-token-sum-norm", "std": "sample"}),
        ("loss_type: dr_grpo\n    scale_rewards: false", "dr_grpo", {}),
        ("loss_type: grpo\n    scale_rewards: batch", "grpo", {"std": "batch"}),
        ("loss_type: cispo\n    epsilon_high: 5.0", "cispo", {"ratio_cap": 5.0}),
        (
            "loss_type: grpo\n    importance_sampling_level: sequence\n    epsilon: 3e-4",
            "gspo",
            {"clip_low": 3e-4, "clip_high": 3e-4},
        ),
        ("loss_type: grpo\n    beta: 0.04", "grpo", {"kl_weight": 0.04, "kl_estimator": "k3_corrected"}),
        ("loss_type: grpo\n    beta: 0.04\n    use_bias_correction_kl: false", "grpo", {"kl_estimator": "k3"}),
        ("loss_type: grpo\n    delta: 4.0", "grpo", {"dual_clip": 4.0}),
    ],
)
def test_the_losses_of_grpo(migrate: Migrate, settings: str, method: str, options: dict[str, Any]) -> None:
    found = migrate(GRPO + "    " + settings + "\n", method="grpo")
    assert found.resolved.method.name == method
    given = found.resolved.method_config.model_dump()
    assert {name: given[name] for name in options} == options


def test_a_mask_that_would_mask_nothing_is_left_out(migrate: Migrate) -> None:
    once = GRPO.replace("num_iterations: 2", "num_iterations: 1").replace("steps_per_generation: 16", "")
    found = migrate(once + "    off_policy_mask_threshold: 0.5\n", "grpo.yaml")
    assert accounts(found)["off_policy_mask_threshold"][0] == "different"
    again = migrate(GRPO + "    off_policy_mask_threshold: 0.5\n", "grpo.yaml")
    assert again.resolved.method_config.model_dump()["off_policy_mask"] == 0.5


def test_a_step_of_less_than_a_prompt_is_said(migrate: Migrate) -> None:
    found = migrate(GRPO.replace("gradient_accumulation_steps: 8", "gradient_accumulation_steps: 1"), "grpo.yaml")
    assert found.resolved.run.train.groups_per_step == 1
    assert any("no whole prompts" in note for note in found.notes)


def test_rloo_online_dpo_and_ppo(migrate: Migrate) -> None:
    base = "model_name_or_path: m\ndataset_name: d\nreward_model_path: some/reward\n"
    rloo = migrate(base + "reward_clip_range: [-5, 5]\n", method="rloo").resolved.run
    assert rloo.rollout is not None
    assert rloo.reward is not None
    assert (rloo.rollout.completions_per_prompt, rloo.train.groups_per_step) == (2, 4)
    assert rloo.reward.shaping == ({"clip": {"low": -5, "high": 5}},)
    online = migrate(base + "missing_eos_penalty: 1.0\nbeta: [0.2]\n", method="online_dpo").resolved
    assert online.run.rollout is not None
    assert (online.run.rollout.temperature, online.run.rollout.max_new_tokens) == (0.9, 64)
    method = online.method_config.model_dump()
    assert (method["beta"], method["truncated"], method["truncated_penalty"]) == (0.2, "subtract", 1.0)
    settings = base.replace("model_name_or_path", "sft_model_path") + "num_mini_batches: 4\ntotal_episodes: 6400\n"
    ppo = migrate(settings + "gradient_accumulation_steps: 8\nvf_coef: 0.2\n").resolved
    assert ppo.run.rollout is not None
    assert ppo.run.model.path == "m"
    assert (ppo.run.rollout.prompts_per_batch, ppo.run.train.groups_per_step) == (64, 16)
    assert (ppo.run.train.max_steps, ppo.run.rollout.max_new_tokens) == (1600, 53)
    assert ppo.method_config.model_dump()["value_weight"] == 0.2


def test_dropout_of_an_adapter_is_left_out_where_answers_are_sampled(migrate: Migrate) -> None:
    found = migrate(GRPO + "    use_peft: true\n    lora_dropout: 0.1\n", "grpo.yaml")
    assert found.resolved.run.lora is not None
    assert found.resolved.run.lora.dropout == 0
    assert accounts(found)["lora_dropout"][0] == "different"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("max_steps: 100", {"max_steps": 100, "epochs": None}),
        ("max_steps: -1", {"max_steps": None, "epochs": 3}),
        ("warmup_steps: 50", {"warmup_steps": 50}),
        ("warmup_steps: 0.1", {"warmup_fraction": 0.1}),
        ("lr_scheduler_type: constant\nwarmup_ratio: 0.1", {"schedule": "constant", "warmup_fraction": 0.0}),
        (
            "lr_scheduler_type: constant_with_warmup\nwarmup_ratio: 0.2",
            {"schedule": "constant", "warmup_fraction": 0.2},
        ),
        ("lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.2}", {"min_lr_ratio": 0.2}),
        ("optim: adamw_bnb_8bit", {"optimizer": "adamw_8bit"}),
        ("optim: paged_adamw_32bit", {"optimizer": "adamw"}),
        ("optim: paged_adamw_8bit\ndeepspeed: zero3.json", {"optimizer": "paged_adamw_8bit", "sharding": "replicated"}),
        ("deepspeed: configs/zero3.json", {"sharding": "fsdp"}),
        ("deepspeed: configs/ds_z1.json", {"sharding": "replicated"}),
    ],
)
def test_steps_schedules_and_optimisers(migrate: Migrate, settings: str, expected: dict[str, Any]) -> None:
    train = migrate(BASE + settings, "dpo.yaml").resolved.run.train.model_dump()
    assert {name: train[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "key", "word"),
    [
        ("optim: adafactor", "optim", "adafactor is not offered"),
        ("lr_scheduler_type: inverse_sqrt", "lr_scheduler_type", "there is no inverse_sqrt"),
        ("load_in_4bit: true", "load_in_4bit", "quantised"),
        ("neftune_noise_alpha: 5", "neftune_noise_alpha", "NEFTune"),
        ("cliprange_vlaue: 0.1", "cliprange_vlaue", "did you mean cliprange_value?"),
        ("report_too: wandb", "report_too", "did you mean report_to?"),
        ("sync_ref_model: true\nloss_type: hinge", "sync_ref_model", "only plain DPO"),
        ("sync_ref_model: true\nloss_type: kto", "sync_ref_model", "never moves"),
        (
            "sync_ref_model: true\nref_model_sync_steps: 64\nloss_type: grpo\nreward_funcs: [a.b]",
            "ref_model_sync_steps",
            "mixed is not offered",
        ),
    ],
)
def test_what_changes_the_result_and_has_no_counterpart(migrate: Migrate, settings: str, key: str, word: str) -> None:
    trainer = "kto" if "kto" in settings else "grpo" if "grpo" in settings else "dpo"
    found = migrate(BASE + settings, method=trainer)
    part, text = accounts(found)[key]
    assert (part, found.lossy) == ("missing", True)
    assert word in text


@pytest.mark.parametrize(
    ("settings", "name", "word"),
    [
        ("loss_type: sapo", "grpo.yaml", "plaudit cispo"),
        ("loss_type: apo_zero_unpaired", "kto.yaml", "plaudit apo_zero"),
        ("loss_type: ipo\ncpo_alpha: 1", "cpo.yaml", "plaudit ipo"),
        ("loss_type: [aot, sft]\nloss_weights: [0.5, 1]", "dpo.yaml", "cannot be mixed"),
    ],
)
def test_a_loss_without_a_counterpart_is_an_error(migrate: Migrate, settings: str, name: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        migrate(BASE + settings, name)
    assert caught.value.code == "PL104"
    assert word in str(caught.value)
    assert "config" not in str(caught.value.where) or ":3" in str(caught.value.where)


def test_an_option_that_our_method_does_not_have_is_said(migrate: Migrate) -> None:
    found = migrate(GRPO + "    loss_type: cispo\n    delta: 4.0\n", "grpo.yaml")
    assert accounts(found)["delta"] == ("missing", "cispo has nothing like it here")
    assert found.lossy


def test_a_method_of_ours_can_be_asked_for_in_its_place(migrate: Migrate) -> None:
    found = migrate(GRPO + "    loss_type: sapo\n", method="cispo")
    assert found.resolved.method.name == "cispo"
    assert accounts(found)["loss_type"] == ("different", "--method cispo was given")


def test_values_that_do_not_fit_are_reported_together(migrate: Migrate) -> None:
    with pytest.raises(ConfigError) as caught:
        migrate(BASE + "learning_rate: fast\nper_device_train_batch_size: many\n", "dpo.yaml")
    assert caught.value.code == "PL100"
    assert "dpo.yaml:3  learning_rate  expected a number, got 'fast'" in caught.value.what
    assert "dpo.yaml:4  per_device_train_batch_size  expected a number" in caught.value.what


def test_a_mixture_of_data_sets(migrate: Migrate) -> None:
    settings = """
    model_name_or_path: m
    datasets:
      - {path: a/b, name: en, split: "train[:10%]"}
      - {path: json, data_files: rows.jsonl}
    test_split_size: 0.1
    """
    data = migrate(settings, "dpo.yaml").resolved.run.data
    assert [s.path for s in data.train] == ["a/b:en:train[:10%]", "rows.jsonl"]
    assert data.eval_fraction == 0.1


def test_every_file_of_a_builder_is_kept(migrate: Migrate) -> None:
    text = """
        model_name_or_path: m
        packing: false
        datasets:
          - {path: json, data_files: [a.jsonl, b.jsonl]}
          - {path: json, data_files: {train: c.jsonl, test: d.jsonl}, split: test}
    """
    assert [s.path for s in migrate(text).resolved.run.data.train] == ["a.jsonl", "b.jsonl", "d.jsonl"]


def test_weights_beside_a_punishment_of_length(migrate: Migrate) -> None:
    text = """
        model_name_or_path: m
        dataset_name: a/b
        scale_rewards: group
        reward_funcs: [accuracy_reward, get_soft_overlong_punishment, my.module.tidy]
    """
    found = migrate(f"{text}    reward_weights: [1.0, 1.0, 0.5]\n")
    tidy = {"kind": "function", "function": "my.module:tidy", "weight": 0.5}
    assert found.resolved.as_dict()["reward"]["rewards"] == ["math", tidy]
    assert not found.lossy
    found = migrate(f"{text}    reward_weights: [2.0, 0.1, 0.5]\n", "weighed.yaml")
    assert found.resolved.as_dict()["reward"]["rewards"] == [{"kind": "math", "weight": 2.0}, tidy]
    assert found.lossy, "the punishment's weight is not kept"
