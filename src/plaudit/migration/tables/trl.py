"""Keys of TRL's configurations, command line and scripts (1.16, and names of earlier versions that are in use)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.migration.rules import Table, different, harmless, lost, part, to
from plaudit.migration.tables.trainer import TRAINER
from plaudit.migration.values import text

_ENGINE = "the local engine samples from the trainer's own weights; there is no server and nothing to set"
_GAP = "the local engine's log-probs are the trainer's; for filtered sampling there is rollout.correction"
_QUANTISED = "quantised weights are not offered: the base is kept in model.precision, which takes more memory"
_VIEW = "what is shown only: log.samples and samples.jsonl"
_ENTROPY = "the entropy bonus is constant: method.entropy_weight"
_UNUSED = "belongs to a loss that is not offered"
_TEMPLATE = "template variables are columns of the rows here: chat_template_kwargs"
_PACKED = "rows are always packed, without padding and without contact between them"
_DEPRECATED = "the tokenizer's own token is used"
_DRAFT = "neither draft models nor other caches: speed only"
_SPEED = "speed and memory only"

_MODEL: Table = {
    "model_name_or_path": part("model.path"),
    "model_revision": part("model.revision"),
    "trust_remote_code": to("model.trust_remote_code"),
    "dtype": part("model.precision"),
    "torch_dtype": part("model.precision"),
    "attn_implementation": harmless("the kernel is chosen and proven at the start of a run (model.attention)"),
    "model_init_kwargs": lost("further arguments of from_pretrained"),
    "tokenizer_name_or_path": to("model.tokenizer", text),
    "chat_template_path": part("model.chat_template"),
    "use_peft": part("lora"),
    "lora_r": part("lora.r"),
    "lora_alpha": part("lora.alpha"),
    "lora_dropout": part("lora.dropout"),
    "lora_target_modules": part("lora.target_modules"),
    "lora_target_parameters": lost("adapters on single parameters (of experts) are not offered"),
    "lora_modules_to_save": part("lora.modules_to_save"),
    "lora_task_type": harmless("the method says what is trained"),
    "lora_bias": lost("biases are not trained beside an adapter", off=(None, False, "none")),
    "use_rslora": part("lora.rslora"),
    "use_dora": part("lora.dora"),
    "load_in_8bit": lost(_QUANTISED),
    "load_in_4bit": lost(_QUANTISED),
    "bnb_4bit_quant_type": harmless(_QUANTISED),
    "bnb_4bit_compute_dtype": harmless(_QUANTISED),
    "bnb_4bit_use_double_quant": harmless(_QUANTISED),
    "bnb_4bit_quant_storage": harmless(_QUANTISED),
    "use_bnb_nested_quant": harmless(_QUANTISED),
    "disable_dropout": different("the model's own dropout is always off", off=(None, True)),
    "activation_offloading": harmless(_SPEED),
    "cast_lm_head_to_fp32": harmless("log-sum-exp is always computed in fp32"),
    "router_aux_loss_coef": lost("no auxiliary loss for the routers of experts", off=(None, 0)),
    "pad_token": harmless(_DEPRECATED),
    "eos_token": lost("give a tokenizer whose end-of-turn token is this one: model.tokenizer"),
    "is_encoder_decoder": lost("encoder-decoder models are not offered"),
    "padding_value": harmless(_PACKED),
    "label_pad_token_id": harmless(_PACKED),
    "pad_to_multiple_of": harmless(_PACKED),
    "padding_free": harmless(_PACKED),
    "packing_strategy": harmless(_PACKED),
    "eval_packing": harmless(_PACKED),
    "use_num_logits_to_keep": harmless(_SPEED),
    "use_logits_to_keep": harmless(_SPEED),
    "use_liger_loss": harmless(_SPEED),
    "ref_model_init_kwargs": lost("the reference is the model's starting state"),
    "model_adapter_name": harmless("the reference is made by itself"),
    "ref_adapter_name": harmless("the reference is made by itself"),
    "force_use_ref_model": harmless("the reference is made by itself"),
    "ref_model": lost("the reference is the model's starting state, never another model"),
    "ref_model_path": lost("the reference is the model's starting state, never another model"),
}

_DATA: Table = {
    "dataset_name": part("data.train"),
    "dataset_config": part("data.train"),
    "dataset_train_split": part("data.train"),
    "dataset_test_split": part("data.eval"),
    "datasets": part("data.train"),
    "streaming": different("the data is read, checked and counted before training"),
    "dataset_streaming": different("the data is read, checked and counted before training"),
    "test_split_size": part("data.eval_fraction"),
    "dataset_text_field": part("data.train"),
    "dataset_num_proc": harmless("the data is read and tokenised once, before training"),
    "dataset_batch_size": harmless("the data is read and tokenised once, before training"),
    "dataset_kwargs": lost("no further options of the reader"),
    "tools": different("tools are a column of the rows"),
    "shuffle_dataset": part("data.shuffle"),
    "chat_template_kwargs": lost(_TEMPLATE),
    "max_length": part("data.max_length"),
    "max_seq_length": part("data.max_length"),
    "max_prompt_length": part("data.max_length"),
    "truncation_mode": part("data.overlong"),
    "packing": part("train.groups_per_step"),
    "completion_only_loss": part("method.train_on"),
    "assistant_only_loss": part("method.train_on"),
    "ignore_bias_buffers": harmless("a way around a fault of DDP, which is not used"),
    "gradient_checkpointing_use_reentrant": harmless(_SPEED),
    "env": harmless("environment variables are set in the shell"),
    "config": harmless("read too"),
}

_LOSS: Table = {
    "loss_type": part("method.name"),
    "loss_weights": part("method.losses"),
    "beta": part("method.beta"),
    "label_smoothing": part("method.label_smoothing"),
    "ld_alpha": part("method.ld_alpha"),
    "rpo_alpha": part("method.nll_weight"),
    "f_divergence_type": part("method.divergence"),
    "f_alpha_divergence_coef": part("method.alpha"),
    "use_weighting": part("method.weighting"),
    "discopop_tau": part("method.tau"),
    "reference_free": lost("use a method without a reference: cpo, simpo or orpo"),
    "sync_ref_model": part("method.name"),
    "ref_model_mixup_alpha": part("method.alpha"),
    "ref_model_sync_steps": part("method.every"),
    "precompute_ref_log_probs": harmless("reference log-probs are always cached (run.reference_cache)"),
    "precompute_ref_batch_size": harmless("reference log-probs are always cached (run.reference_cache)"),
    "precompute_ref_eval_log_probs": harmless("reference log-probs are always cached (run.reference_cache)"),
    "generate_during_eval": harmless(_VIEW),
    "desirable_weight": part("method.desirable_weight"),
    "undesirable_weight": part("method.undesirable_weight"),
    "prompt_sample_size": lost("underlying distribution matching is not offered"),
    "min_density_ratio": lost("underlying distribution matching is not offered"),
    "max_density_ratio": lost("underlying distribution matching is not offered"),
    "cpo_alpha": part("method.nll_weight"),
    "simpo_gamma": part("method.gamma"),
    "alpha": part("method.alpha"),
    "center_rewards_coefficient": part("method.centre_weight"),
}

_SAMPLING: Table = {
    "reward_funcs": part("reward.rewards"),
    "reward_model_path": part("reward.rewards"),
    "reward_model_name_or_path": part("reward.rewards"),
    "reward_weights": part("reward.rewards"),
    "reward_processing_classes": harmless("a reward model brings its tokenizer"),
    "judge": different("a judge is a reward here: docs/rewards.md"),
    "num_generations": part("rollout.completions_per_prompt"),
    "num_generations_eval": part("rollout.eval_completions"),
    "generation_batch_size": part("rollout.prompts_per_batch"),
    "steps_per_generation": part("rollout.prompts_per_batch"),
    "num_iterations": part("rollout.ppo_epochs"),
    "max_completion_length": part("rollout.max_new_tokens"),
    "max_new_tokens": part("rollout.max_new_tokens"),
    "temperature": part("rollout.temperature"),
    "top_p": part("rollout.top_p"),
    "top_k": part("rollout.top_k"),
    "min_p": part("rollout.min_p"),
    "repetition_penalty": lost("answers are sampled from the policy itself, unpenalised", off=(None, 1)),
    "generation_kwargs": lost("no further options of generation"),
    "cache_implementation": harmless(_DRAFT),
    "ds3_gather_for_generation": harmless(_ENGINE),
    "use_transformers_paged": harmless(_ENGINE),
    "use_transformers_continuous_batching": harmless(_ENGINE),
    "transformers_continuous_batching_config": harmless(_ENGINE),
    "use_vllm": different(_ENGINE),
    "vllm_importance_sampling_correction": different(_GAP, off=(None, False, True)),
    "vllm_importance_sampling_mode": harmless(_GAP),
    "vllm_importance_sampling_cap": harmless(_GAP),
    "vllm_importance_sampling_clip_max": harmless(_GAP),
    "vllm_importance_sampling_clip_min": harmless(_GAP),
    "vllm_structured_outputs_regex": lost("answers are not forced into a pattern; the reward `regex` checks one"),
    "vllm_guided_decoding_regex": lost("answers are not forced into a pattern; the reward `regex` checks one"),
    **{
        f"vllm_{name}": harmless(_ENGINE)
        for name in (
            *("mode", "model_impl", "enable_sleep_mode", "server_base_url", "server_host", "server_port"),
            *("server_timeout", "group_port", "gpu_memory_utilization", "max_model_length", "max_model_len"),
            *("tensor_parallel_size", "device", "dtype", "enable_prefix_caching"),
        )
    },
    "epsilon": part("method.clip_low"),
    "epsilon_high": part("method.clip_high"),
    "delta": part("method.dual_clip"),
    "importance_sampling_level": part("method.name"),
    "scale_rewards": part("method.std"),
    "multi_objective_aggregation": lost("rewards are summed, then normalised", off=(None, "sum_then_normalize")),
    "mask_truncated_completions": part("method.truncated"),
    "missing_eos_penalty": part("method.truncated_penalty"),
    "use_bias_correction_kl": part("method.kl_estimator"),
    "off_policy_mask_threshold": part("method.off_policy_mask"),
    "entropy_coef": part("method.entropy_weight"),
    "use_adaptive_entropy": lost(_ENTROPY),
    "entropy_coef_min": harmless(_ENTROPY),
    "entropy_coef_max": harmless(_ENTROPY),
    "entropy_coef_delta": harmless(_ENTROPY),
    "entropy_target": harmless(_ENTROPY),
    "top_entropy_quantile": lost("every token is trained on, whatever its entropy", off=(None, 1)),
    "sapo_temperature_neg": harmless(_UNUSED),
    "sapo_temperature_pos": harmless(_UNUSED),
    "vespo_k_pos": harmless(_UNUSED),
    "vespo_lambda_pos": harmless(_UNUSED),
    "vespo_k_neg": harmless(_UNUSED),
    "vespo_lambda_neg": harmless(_UNUSED),
    "normalize_advantages": lost("RLOO's advantages are not normalised; reinforce_pp does it"),
    "reward_clip_range": part("reward.shaping"),
    "max_tool_calling_iterations": lost("answers with tool calls are not offered"),
    "log_completions": harmless(_VIEW),
    "log_multimodal": harmless(_VIEW),
    "num_completions_to_print": harmless(_VIEW),
    "log_unique_prompts": harmless(_VIEW),
    "log_completions_hub_repo": harmless(_VIEW),
    "wandb_log_unique_prompts": harmless(_VIEW),
}

_PPO: Table = {
    "sft_model_path": part("model.path"),
    "kl_coef": part("method.kl_weight"),
    "kl_estimator": lost("the KL in the reward is k1", off=(None, "k1")),
    "cliprange": part("method.clip_low"),
    "cliprange_value": part("method.value_clip"),
    "vf_coef": part("method.value_weight"),
    "gamma": part("method.gamma"),
    "lam": part("method.lam"),
    "whiten_rewards": part("method.whiten_rewards"),
    "num_ppo_epochs": part("rollout.ppo_epochs"),
    "num_mini_batches": part("train.groups_per_step"),
    "response_length": part("rollout.max_new_tokens"),
    "total_episodes": part("train.max_steps"),
    "stop_token": different("an answer ends at the model's end-of-turn token; rollout.stop names texts"),
    "stop_token_id": different("an answer ends at the model's end-of-turn token; rollout.stop names texts"),
    "local_rollout_forward_batch_size": harmless(_SPEED),
    "num_sample_generations": harmless(_VIEW),
    "exp_name": different("a run is named by its directory, run.dir"),
    "world_size": harmless("counted by the launcher"),
    "num_total_batches": harmless("counted from the data"),
    "micro_batch_size": harmless("counted from the batch"),
    "local_batch_size": harmless("counted from the batch"),
    "batch_size": harmless("counted from the batch"),
    "local_mini_batch_size": harmless("counted from the batch"),
    "mini_batch_size": harmless("counted from the batch"),
}

_SCRIPT: Table = {
    "callbacks": harmless("observers of `plaudit.train` in Python; the result is the trainer's"),
    "compute_metrics": harmless("the metrics are the method's"),
    "preprocess_logits_for_metrics": harmless("the metrics are the method's"),
    "data_collator": lost("rows are laid out by plaudit; what a collator changes is lost"),
    "formatting_func": lost("rows have to be formatted before: docs/data.md"),
    "compute_loss_func": lost("a loss of your own is a method: `plaudit train --method FILE.py`"),
    "optimizers": lost("optimiser and schedule are chosen by train.optimizer and train.schedule"),
    "optimizer_cls_and_kwargs": lost("optimiser and schedule are chosen by train.optimizer and train.schedule"),
    "model_init": harmless("the model is loaded once"),
    "rollout_func": lost("answers are sampled by the engine"),
    "environment_factory": lost("environments are not offered"),
    "eval_dataset": part("data.eval"),
    "args": harmless("read too"),
    "train_dataset": part("data.train"),
    "init_lora_weights": lost("adapters start at zero", off=(None, True)),
    "inference_mode": harmless("the command trains"),
    **{
        name: lost("this option of LoRA is not offered")
        for name in (
            *("exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
            *("layer_replication", "trainable_token_indices", "loftq_config", "eva_config", "corda_config"),
        )
    },
    "fan_in_fan_out": harmless("found out from the layer"),
}

TRL: Table = {**TRAINER, **_MODEL, **_DATA, **_LOSS, **_SAMPLING, **_PPO, **_SCRIPT}
"""Every key of every configuration class of TRL 1.16 (a test holds it against a list of them)."""

LORA_CONFIG: Mapping[str, str] = {
    "r": "lora_r",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "bias": "lora_bias",
    "task_type": "lora_task_type",
}
"""peft's LoraConfig in a script → the same key of TRL's command line."""

LORA_CONFIG_DEFAULTS: Mapping[str, Any] = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""What peft does where a script says nothing; TRL's command line has defaults of its own."""

CLASSES: Mapping[str, str] = {
    "sft": "SFT",
    "dpo": "DPO",
    "kto": "KTO",
    "reward": "Reward",
    "orpo": "ORPO",
    "cpo": "CPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
    "online_dpo": "OnlineDPO",
    "ppo": "PPO",
    "bco": "BCO",
}
"""Command → what the names of its trainer and configuration begin with."""

TRL_REWARDS: Mapping[str, str] = {
    "accuracy_reward": "math",
    "reasoning_accuracy_reward": "math",
    "think_format_reward": "format",
}
"""Reward functions of TRL → the kind of ours that does the same."""

_COMMON: Mapping[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "gradient_checkpointing": True,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "dataset_train_split": "train",
    "dataset_test_split": "test",
}
_LENGTH: Mapping[str, Any] = {"max_length": 1024}
_PAIRS: Mapping[str, Any] = {**_LENGTH, "beta": 0.1, "loss_type": "sigmoid"}
_SAMPLED: Mapping[str, Any] = {
    "max_completion_length": 512,
    "temperature": 1.0,
    "num_iterations": 1,
    "epsilon": 0.2,
    "dataset_train_split": "train",
}

TRL_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sft": {**_COMMON, **_LENGTH, "learning_rate": 2e-5},
    "dpo": {**_COMMON, **_PAIRS, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 512, "discopop_tau": 0.05},
    "kto": {**_COMMON, **_PAIRS, "loss_type": "kto", "train_sampling_strategy": "sequential"},
    "reward": {**_COMMON, **_LENGTH, "learning_rate": 1e-4},
    "orpo": {**_COMMON, **_LENGTH, "beta": 0.1},
    "cpo": {**_COMMON, **_PAIRS, "cpo_alpha": 1.0, "simpo_gamma": 0.5},
    "bco": {**_COMMON, **_LENGTH, "beta": 0.1},
    "grpo": {
        **_COMMON,
        **_SAMPLED,
        "num_generations": 8,
        "beta": 0.0,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "use_bias_correction_kl": True,
    },
    "rloo": {**_COMMON, **_SAMPLED, "num_generations": 2, "beta": 0.05},
    "online_dpo": {
        **_COMMON,
        "learning_rate": 5e-7,
        "max_new_tokens": 64,
        "temperature": 0.9,
        "beta": 0.1,
        "loss_type": "sigmoid",
        "num_generations": 2,
    },
    "ppo": {
        **_COMMON,
        "learning_rate": 5e-5,
        "kl_coef": 0.05,
        "cliprange": 0.2,
        "cliprange_value": 0.2,
        "vf_coef": 0.1,
        "gamma": 1.0,
        "lam": 0.95,
        "num_ppo_epochs": 4,
        "num_mini_batches": 1,
        "response_length": 53,
        "temperature": 0.7,
    },
}
"""Command → the defaults of TRL that change the result. Those of the model are the command line's."""
