"""Keys of axolotl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.migration.rules import Table, different, harmless, lost, part, to
from plaudit.migration.tables.trainer import TRAINER
from plaudit.migration.tables.trl import TRL
from plaudit.migration.values import names, text

_KERNEL = "the kernel is chosen and proven at the start of a run (model.attention)"
_PACKED = "rows are always packed, without padding and without contact between them"
_LOADER = "the data is read and tokenised once, before training"
_QUANTISED = "quantised weights are not offered: the base is kept in model.precision, which takes more memory"
_TRACKER = "this tracker is not offered: log.sinks has tensorboard, trackio and wandb"
_WANDB = "set it as wandb's own environment variable"
_SPEED = "speed and memory only"
_LOADING = "how the model is loaded is found out from its folder"
_ENGINE = "the local engine samples from the trainer's own weights; there is no server and nothing to set"
_VIEW = "what is shown only: log.samples and samples.jsonl"
_OTHER = "belongs to a way of training that is not offered"
_RAY = "runs are started with --processes, --gpus or torchrun"
_UPLOAD = "nothing is uploaded: the trained model is in the folder model/ of the run"
_PROCESSES = "the launcher and train.sharding say where weights are"


def _several(keys: str, why: str) -> Table:
    return {key: harmless(why) for key in keys.split()}


_MODEL: Table = {
    "base_model_config": harmless(_LOADING),
    "tokenizer_name_or_path": to("model.tokenizer", text),
    "model_type": harmless(_LOADING),
    "tokenizer_type": harmless(_LOADING),
    **_several("type_of_model cls_model_config processor_type tokenizer_use_fast tokenizer_legacy", _LOADING),
    **_several("tokenizer_save_jinja_files tokenizer_use_mistral_common experimental_skip_move_to_device", _LOADING),
    **_several("is_falcon_derived_model is_llama_derived_model is_mistral_derived_model", _LOADING),
    **_several("is_qwen_derived_model low_cpu_mem_usage device device_map max_memory gpu_memory_limit", _LOADING),
    "overrides_of_model_config": lost("write it into the model's config.json"),
    "model_config": lost("write it into the model's config.json"),
    "overrides_of_model_kwargs": lost("further arguments of from_pretrained"),
    "model_kwargs": lost("further arguments of from_pretrained"),
    "rope_scaling": lost("write it into the model's config.json: positions are the model's own"),
    "special_tokens": part("model.added_tokens"),
    "tokens": to("model.added_tokens", names, "their embeddings start at the mean of the old ones"),
    "added_tokens_overrides": lost("reserved tokens keep their names: save a tokenizer with others (model.tokenizer)"),
    **_several("resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings", "speed only"),
    **_several("embeddings_skip_upcast fix_untrained_tokens", "new embeddings start at the mean of the old ones"),
    "adapter": part("lora"),
    "lora_model_dir": part("lora.path"),
    "lora_target_linear": part("lora.target_modules"),
    "lora_fan_in_fan_out": harmless("found out from the layer"),
    "peft_layers_to_transform": lost("adapters go to every layer"),
    "peft_layers_pattern": lost("adapters go to every layer"),
    "peft_layer_replication": lost("layers are not replicated"),
    "peft_init_lora_weights": lost("adapters start at zero", off=(None, True)),
    "peft_trainable_token_indices": lost("single embeddings are not trained: lora.modules_to_save"),
    "peft": lost(_QUANTISED),
    "peft_autocast_adapter_dtype": harmless("adapters are kept in fp32"),
    "peft_ensure_weight_tying": harmless("tied weights stay tied"),
    "loftq_config": lost("adapters start at zero"),
    "loraplus_lr_ratio": lost("LoRA+ (two learning rates) is not offered"),
    "loraplus_lr_embedding": harmless("belongs to LoRA+"),
    "gptq": lost(_QUANTISED),
    "bnb_config_kwargs": harmless(_QUANTISED),
    "model_quantization_config": lost(_QUANTISED),
    "model_quantization_config_kwargs": harmless(_QUANTISED),
    **_several("qlora_sharded_model_loading lora_on_cpu merge_lora merge_method", _LOADING),
    "relora": lost("ReLoRA is not offered"),
    **_several("relora_prune_ratio relora_prune_method relora_cpu_offload jagged_restart_steps", _OTHER),
    **_several("relora_steps relora_warmup_steps relora_anneal_steps jagged_restart_warmup_steps", _OTHER),
    **_several("jagged_restart_anneal_steps", _OTHER),
    "unfrozen_parameters": lost("all weights are trained, or an adapter"),
    "lisa_n_layers": lost("LISA is not offered"),
    **_several("lisa_step_interval lisa_layers_attribute", _OTHER),
    **_several(
        "flash_attention sdp_attention xformers_attention flex_attention eager_attention sage_attention", _KERNEL
    ),
    **_several("attn_implementation flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_qkv", _KERNEL),
    **_several("flash_attn_fuse_mlp flash_optimum flex_attn_compile_kwargs use_kernels", _KERNEL),
    "s2_attention": lost("shifted sparse attention is not offered"),
    **_several("unsloth_cross_entropy_loss unsloth_lora_mlp unsloth_lora_qkv unsloth_lora_o", _SPEED),
    **_several("unsloth_rms_norm unsloth_rope lora_mlp_kernel lora_qkv_kernel lora_o_kernel", _SPEED),
    **_several("llama4_linearized_experts chunked_cross_entropy chunked_cross_entropy_num_chunks", _SPEED),
    **_several("liger_rope liger_rms_norm liger_glu_activation liger_layer_norm liger_swiglu", _SPEED),
    **_several("liger_cross_entropy liger_fused_linear_cross_entropy cut_cross_entropy tiled_mlp", _SPEED),
    **_several("activation_offloading layer_offloading gc_steps", _SPEED),
    "plugins": different("what plugins change is listed by their own keys; kernels are speed only"),
    "bfloat16": part("model.precision"),
    "float16": part("model.precision"),
    "float32": part("model.precision"),
    "fp8": lost("no training in fp8"),
    "qat": lost("no quantisation while training"),
    "quantization": harmless("what is done after training"),
}

_DATA: Table = {
    "datasets": part("data.train"),
    "test_datasets": part("data.eval"),
    "pretraining_dataset": part("data.train"),
    "val_set_size": part("data.eval_fraction"),
    "chat_template": part("model.chat_template"),
    "chat_template_jinja": part("model.chat_template"),
    "default_system_message": to("data.system_prompt", text),
    "eot_tokens": lost("an answer ends where the chat template ends it"),
    "train_on_inputs": part("method.train_on"),
    "excess_length_strategy": part("data.overlong"),
    "max_prompt_len": part("data.max_length"),
    "min_sample_len": lost("short rows are trained on; `plaudit doctor` finds them", off=(None, 0)),
    "shuffle_merged_datasets": part("data.shuffle"),
    "shuffle_before_merging_datasets": part("data.shuffle"),
    "curriculum_sampling": lost("the order is random; rollout.curriculum is for sampled answers"),
    "dataset_exact_deduplication": different("`plaudit doctor DATA --fix OUT` takes repeated rows out"),
    "dataset_shard_num": lost("give a part of the file: data.train.N.limit"),
    "dataset_shard_idx": lost("give a part of the file: data.train.N.limit"),
    "streaming": different("the data is read, checked and counted before training"),
    **_several("dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory", _LOADER),
    **_several("skip_prepare_dataset push_dataset_to_hub hf_use_auth_token is_preprocess", _LOADER),
    **_several("preprocess_iterable num_dataset_shards_to_save", _LOADER),
    **_several("pad_to_sequence_len sample_packing_group_size sample_packing_bin_size batch_flattening", _PACKED),
    **_several(
        "sample_packing_sequentially eval_sample_packing multipack_real_batches sample_packing_eff_est", _PACKED
    ),
    **_several("pretraining_sample_concatenation pretrain_multipack_buffer_size pretrain_multipack_attn", _PACKED),
    **_several("sample_packing_mp_start_method total_num_tokens total_supervised_tokens dpo_padding_free", _PACKED),
    "use_pose": lost("PoSE is not offered"),
    **_several("pose_split_on_token_ids pose_max_context_len pose_num_chunks", _OTHER),
}

_LOSS: Table = {
    "rl": part("method.name"),
    "reward_model": part("method.name"),
    "process_reward_model": lost("process reward models are not trained here"),
    "num_labels": harmless("a reward model has one number"),
    "dpo_norm_loss": part("method.name"),
    "dpo_generate_during_eval": harmless(_VIEW),
    "kd_trainer": lost("distillation is not offered"),
    "trainer_cls": lost("a loss of your own is a method: `plaudit train --method FILE.py`"),
    "ref_model": lost("the reference is the model's starting state, never another model"),
}

_TRAINING: Table = {
    "batch_size": part("train.groups_per_step"),
    "eval_batch_size": harmless("evaluation packs by train.tokens_per_microbatch"),
    "embedding_lr": lost("one learning rate for all parameters"),
    "embedding_lr_scale": lost("one learning rate for all parameters"),
    "lr_groups": lost("one learning rate for all parameters"),
    "adam_epsilon2": lost("belongs to an optimiser that is not offered"),
    "adam_beta3": lost("belongs to an optimiser that is not offered"),
    "torchdistx_path": harmless("belongs to an optimiser that is not offered"),
    "lr_quadratic_warmup": lost("the rate rises by a line"),
    "cosine_min_lr_ratio": part("train.min_lr_ratio"),
    "cosine_constant_lr_ratio": lost("the rate reaches its end at the last step"),
    "lr_div_factor": lost("the one-cycle schedule is not offered"),
    "evals_per_epoch": part("eval.every"),
    "saves_per_epoch": part("checkpoint.every"),
    "save_first_step": harmless("there is a checkpoint of the start, in effect: the model itself"),
    "auto_resume_from_checkpoints": harmless("the same command goes on where a run stopped"),
    "strict": harmless("unknown keys are always errors"),
    "use_wandb": part("log.sinks"),
    "wandb_project": part("log.project"),
    "wandb_mode": part("log.sinks"),
    **_several("wandb_entity wandb_name wandb_run_id wandb_watch wandb_log_model", _WANDB),
    "use_tensorboard": part("log.sinks"),
    "use_trackio": part("log.sinks"),
    "trackio_project_name": part("log.project"),
    **_several("trackio_run_name", "a run is named by its directory, run.dir"),
    "use_mlflow": harmless(_TRACKER),
    **_several("mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hf_mlflow_log_artifacts", _TRACKER),
    "use_comet": harmless(_TRACKER),
    **_several("comet_api_key comet_workspace comet_project_name comet_experiment_key comet_mode", _TRACKER),
    **_several("comet_online comet_experiment_config use_otel_metrics otel_metrics_host otel_metrics_port", _TRACKER),
    **_several("profiler_steps profiler_steps_start axolotl_config_path", "what is shown only"),
    **_several("eval_table_size eval_table_max_new_tokens eval_max_new_tokens do_bench_eval bench_dataset", _VIEW),
    **_several("bench_split do_causal_lm_eval eval_causal_lm_metrics generate_samples", _VIEW),
    "loss_watchdog_threshold": different("watch.stop names alerts that end a run (docs/runs.md)"),
    "loss_watchdog_patience": harmless("belongs to the loss watchdog"),
    **_several("ddp world_size fsdp_version fsdp_final_state_dict_type ddp_timeout", _PROCESSES),
    **_several("sequence_parallel_degree context_parallel_size heads_k_stride ring_attn_func", _SPEED),
    **_several("tensor_parallel_size dp_shard_size dp_replicate_size expert_parallel_size", _SPEED),
    **_several("use_ray ray_run_name ray_num_workers resources_per_worker", _RAY),
    **_several("gradio_title gradio_share gradio_server_name gradio_server_port", "`plaudit serve` is for that"),
    **_several("gradio_max_new_tokens gradio_temperature inference", "`plaudit serve` is for that"),
    **_several("hub_model_id hub_strategy hub_revision save_safetensors", _UPLOAD),
}

_VLLM = "device tensor_parallel_size data_parallel_size gpu_memory_utilization dtype max_model_len host port"
_VLLM += " enable_prefix_caching enable_reasoning reasoning_parser enforce_eager serve_module worker_extension_cls"

_SHARED = (
    *("model_name_or_path", "model_revision", "trust_remote_code", "lora_r", "lora_alpha", "lora_dropout"),
    *("lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_rslora", "use_dora"),
    *("load_in_8bit", "load_in_4bit", "beta", "label_smoothing", "rpo_alpha", "loss_type", "loss_weights"),
    *("use_weighting", "desirable_weight", "undesirable_weight", "simpo_gamma", "cpo_alpha", "max_length", "packing"),
    *("precompute_ref_log_probs", "use_logits_to_keep", "center_rewards_coefficient"),
)
_OF_TRL = (
    *("max_completion_length", "use_vllm", "reward_funcs", "reward_weights", "num_generations", "log_completions"),
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "scale_rewards", "temperature", "top_p"),
    *("top_k", "min_p", "repetition_penalty", "num_iterations", "epsilon", "epsilon_high", "delta", "loss_type"),
    *("mask_truncated_completions", "importance_sampling_level", "generation_kwargs", "num_completions_to_print"),
    *("generation_batch_size", "steps_per_generation", "multi_objective_aggregation", "off_policy_mask_threshold"),
    *("reward_processing_classes", "rollout_func", "beta", "chat_template_kwargs"),
    *(name for name in TRL if name.startswith("vllm_")),
)
"""Keys of the section trl: those of TRL's GRPOConfig."""

AXOLOTL: Table = {
    **TRAINER,
    **{name: TRL[name] for name in (*_SHARED, *_OF_TRL)},
    **_MODEL,
    **_DATA,
    **_LOSS,
    **_TRAINING,
    **{f"vllm.{name}": harmless(_ENGINE) for name in _VLLM.split()},
}

AXOLOTL_NAMES: Mapping[str, str] = {
    "base_model": "model_name_or_path",
    "revision_of_model": "model_revision",
    "tokenizer_config": "tokenizer_name_or_path",
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "sequence_len": "max_length",
    "sample_packing": "packing",
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "orpo_alpha": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "dpo_loss_type": "loss_type",
    "dpo_loss_weights": "loss_weights",
    "dpo_use_weighting": "use_weighting",
    "dpo_use_logits_to_keep": "use_logits_to_keep",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    **{f"trl.{name}": name for name in _OF_TRL},
}
"""axolotl's name → the one of TRL for the same."""

AXOLOTL_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 1.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.03,
    "max_length": 512,
    "excess_length_strategy": "drop",
    "beta": 0.1,
    "simpo_gamma": 0.5,
    "cpo_alpha": 1.0,
    "lora_dropout": 0.0,
    "val_set_size": 0.0,
    "num_generations": 8,
    "max_completion_length": 512,
    "temperature": 1.0,
    "num_iterations": 1,
    "epsilon": 0.2,
    "scale_rewards": "group",
    "use_bias_correction_kl": True,
}
"""Defaults of axolotl, and of the TRL below it, that change the result."""
