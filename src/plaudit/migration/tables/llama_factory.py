"""Keys of LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.migration.rules import Table, different, harmless, lost, part, to
from plaudit.migration.tables.trainer import TRAINER
from plaudit.migration.tables.trl import TRL
from plaudit.migration.values import names, text

_QUANTISED = "quantised weights are not offered: the base is kept in model.precision, which takes more memory"
_KERNEL = "the kernel is chosen and proven at the start of a run (model.attention)"
_LOADER = "the data is read and tokenised once, before training"
_PICTURES = "pictures, sound and films are not offered"
_EXPORT = "exporting is `plaudit merge`"
_INFERENCE = "for inference only"
_TRACKER = "this tracker is not offered: log.sinks has tensorboard, trackio and wandb"
_OPTIMISER = "this optimiser is not offered"
_OTHER_TUNING = "belongs to a way of fine-tuning that is not offered"
_RAY = "runs are started with --processes, --gpus or torchrun"
_SPEED = "speed and memory only"
_REFERENCE = "the reference is the model's starting state, never another model"


def _prefixed(prefix: str, several: str, why: str) -> Table:
    return {f"{prefix}{name}": harmless(why) for name in several.split()}


_MODEL: Table = {
    "adapter_name_or_path": part("lora.path"),
    "adapter_folder": lost("no second adapter is loaded"),
    "cache_dir": harmless("HF_HOME says where models are kept"),
    "use_fast_tokenizer": harmless("tokenizers are always fast ones"),
    "resize_vocab": harmless("model.added_tokens resizes the embedding"),
    "split_special_tokens": lost("special tokens are never split"),
    "add_tokens": lost("only special tokens can be added: model.added_tokens"),
    "add_special_tokens": to("model.added_tokens", names, "their embeddings start at the mean of the old ones"),
    "new_special_tokens_config": lost("new embeddings start at the mean of the old ones"),
    "init_special_tokens": harmless("new embeddings start at the mean of the old ones"),
    "low_cpu_mem_usage": harmless(_SPEED),
    "rope_scaling": lost("write it into the model's config.json: positions are the model's own"),
    "flash_attn": harmless(_KERNEL),
    "shift_attn": lost("shifted sparse attention is not offered"),
    "mixture_of_depths": lost("mixture of depths is not offered"),
    "use_unsloth": harmless(_SPEED),
    "use_unsloth_gc": harmless(_SPEED),
    "enable_liger_kernel": harmless("log-probs are computed without building the logits, always"),
    "moe_aux_loss_coef": lost("no auxiliary loss for the routers of experts", off=(None, 0)),
    "disable_gradient_checkpointing": part("model.gradient_checkpointing"),
    "use_reentrant_gc": harmless(_SPEED),
    "upcast_layernorm": harmless("norms compute in fp32 as the model's own code does"),
    "upcast_lmhead_output": harmless("log-sum-exp is always computed in fp32"),
    "train_from_scratch": lost("weights come from the model's folder: save random ones there"),
    "use_v1_kernels": harmless(_SPEED),
    "hf_hub_token": harmless("`hf auth login` keeps it"),
    "ms_hub_token": harmless("models come from the Hugging Face hub or from disk"),
    "om_hub_token": harmless("models come from the Hugging Face hub or from disk"),
    "print_param_status": harmless("what is shown only"),
    "quantization_bit": lost(_QUANTISED),
    "quantization_method": harmless(_QUANTISED),
    "quantization_type": harmless(_QUANTISED),
    "double_quantization": harmless(_QUANTISED),
    "quantization_device_map": harmless(_QUANTISED),
    "fp8": lost("no training in fp8"),
    "fp8_backend": harmless("no training in fp8"),
    "fp8_enable_fsdp_float8_all_gather": harmless("no training in fp8"),
    "pure_bf16": different("bf16 weights have fp32 masters (model.precision)"),
    **_prefixed(
        "",
        "infer_backend offload_folder use_kv_cache infer_dtype vllm_maxlen vllm_gpu_util vllm_enforce_eager",
        _INFERENCE,
    ),
    **_prefixed("", "vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size", _INFERENCE),
    **_prefixed("", "sglang_config sglang_lora_backend", _INFERENCE),
    **_prefixed("export_", "dir size device quantization_bit quantization_dataset quantization_nsamples", _EXPORT),
    **_prefixed("export_", "quantization_maxlen legacy_format hub_model_id", _EXPORT),
    **_prefixed("image_", "max_pixels min_pixels do_pan_and_scan", _PICTURES),
    **_prefixed("video_", "max_pixels min_pixels fps maxlen", _PICTURES),
    **_prefixed("", "crop_to_patches use_audio_in_video audio_sampling_rate freeze_vision_tower", _PICTURES),
    **_prefixed("", "freeze_multi_modal_projector media_dir", _PICTURES),
    "freeze_language_model": lost(_PICTURES),
    "use_kt": lost("KTransformers is not offered"),
    **_prefixed("", "kt_optimize_rule cpu_infer chunk_size mode kt_maxlen kt_use_cuda_graph kt_mode", _SPEED),
    **_prefixed("", "kt_force_think", _INFERENCE),
}

_TUNING: Table = {
    "stage": part("method.name"),
    "finetuning_type": part("lora"),
    "loraplus_lr_ratio": lost("LoRA+ (two learning rates) is not offered"),
    "loraplus_lr_embedding": harmless("belongs to LoRA+"),
    "pissa_init": lost("adapters start at zero (no PiSSA)"),
    "pissa_iter": harmless("belongs to PiSSA"),
    "pissa_convert": harmless("belongs to PiSSA"),
    "create_new_adapter": lost("one adapter is trained: merge the first with `plaudit merge`"),
    **_prefixed("freeze_", "trainable_layers trainable_modules extra_modules", _OTHER_TUNING),
    **_prefixed("", "module_dropout oft_rank oft_block_size oft_target", _OTHER_TUNING),
    "use_llama_pro": lost("expanded blocks are not offered"),
    "use_galore": lost(_OPTIMISER),
    **_prefixed("galore_", "target rank update_interval scale proj_type layerwise", _OPTIMISER),
    "use_apollo": lost(_OPTIMISER),
    **_prefixed("apollo_", "target rank update_interval scale proj proj_type scale_type layerwise", _OPTIMISER),
    **_prefixed("apollo_", "scale_front", _OPTIMISER),
    "use_badam": lost(_OPTIMISER),
    **_prefixed("badam_", "mode start_block switch_mode switch_interval update_ratio mask_mode verbose", _OPTIMISER),
    "use_adam_mini": lost(_OPTIMISER),
    "use_muon": lost(_OPTIMISER),
    "use_mca": lost("Megatron is not offered"),
    "use_dft_loss": lost("the DFT loss is not offered"),
    "use_asft_loss": lost("the ASFT loss is not offered"),
    "use_eaft_loss": lost("the EAFT loss is not offered"),
    "compute_accuracy": harmless("the metrics are the method's"),
    "early_stopping_steps": part("eval.early_stopping_patience"),
    "plot_loss": harmless("report.html has the curves"),
    "include_effective_tokens_per_second": harmless("tokens per second are always logged"),
    "use_swanlab": harmless(_TRACKER),
    **_prefixed("swanlab_", "project workspace run_name mode api_key logdir lark_webhook_url lark_secret", _TRACKER),
    **_prefixed("ray_", "run_name storage_path storage_filesystem num_workers init_kwargs", _RAY),
    **_prefixed("", "resources_per_worker placement_strategy", _RAY),
}

_LOSS: Table = {
    "pref_ftx": part("method.nll_weight"),
    "pref_bco_weight": part("method.losses"),
    "ref_model": lost(_REFERENCE),
    "ref_model_adapters": lost(_REFERENCE),
    "ref_model_quantization_bit": harmless("the reference is the model's starting state, in its precision"),
    "reward_model": part("reward.rewards"),
    "reward_model_adapters": lost("a reward model is one folder, with its adapter in it"),
    "reward_model_quantization_bit": harmless("a reward model computes in the run's precision"),
    "reward_model_type": part("reward.rewards"),
    "ppo_buffer_size": part("rollout.prompts_per_batch"),
    "ppo_score_norm": part("method.reward_scale"),
    "ppo_target": part("method.kl_target"),
    "do_sample": lost("answers are always sampled in training", off=(None, True)),
    "num_beams": lost("answers are always sampled in training", off=(None, 1)),
    "length_penalty": harmless("belongs to beam search"),
    "skip_special_tokens": harmless("answers are token ids"),
    "default_system": to("data.system_prompt", text),
    "predict_with_generate": harmless("`plaudit generate` writes completions"),
    "generation_max_length": harmless(_INFERENCE),
    "generation_num_beams": harmless(_INFERENCE),
    "sortish_sampler": different("rows are packed without padding, whatever their lengths"),
}

_DATA: Table = {
    "dataset": part("data.train"),
    "eval_dataset": part("data.eval"),
    "dataset_dir": part("data.train"),
    "template": different("the tokenizer's own chat template is used; model.chat_template names another"),
    "train_on_prompt": part("method.train_on"),
    "mask_history": part("method.train_on"),
    "mix_strategy": part("data.train"),
    "interleave_probs": part("data.train"),
    "buffer_size": harmless("belongs to streaming"),
    "max_samples": part("data.train"),
    "val_size": part("data.eval_fraction"),
    "eval_on_each_dataset": harmless("held-out sources are evaluated together"),
    "eval_num_beams": harmless(_INFERENCE),
    "overwrite_cache": harmless(_LOADER),
    "preprocessing_batch_size": harmless(_LOADER),
    "preprocessing_num_workers": harmless(_LOADER),
    "tokenized_path": harmless(_LOADER),
    "data_shared_file_system": harmless(_LOADER),
    "ignore_pad_token_for_loss": harmless("there is no padding"),
    "neat_packing": part("train.groups_per_step"),
    "tool_format": different("tools are written as the chat template does it"),
    "enable_thinking": lost("template variables are columns of the rows here: chat_template_kwargs", off=(None, True)),
    "reserved_label_len": harmless("data.overlong says what is cut"),
    "disable_shuffling": part("data.shuffle"),
    "streaming": different("the data is read, checked and counted before training"),
}

_SHARED = (
    *("model_name_or_path", "model_revision", "trust_remote_code", "lora_r", "lora_alpha", "lora_dropout"),
    *(
        "lora_target_modules",
        "lora_modules_to_save",
        "use_rslora",
        "use_dora",
        "beta",
        "label_smoothing",
        "ld_alpha",
        "loss_type",
    ),
    *("desirable_weight", "undesirable_weight", "simpo_gamma", "max_length", "packing", "max_completion_length"),
    *("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens"),
)
"""Keys that mean what they do in TRL, under the names in `LLAMA_FACTORY_NAMES`."""

LLAMA_FACTORY: Table = {
    **TRAINER,
    **{name: TRL[name] for name in _SHARED},
    **_MODEL,
    **_TUNING,
    **_LOSS,
    **_DATA,
    "num_ppo_epochs": part("rollout.ppo_epochs"),
    "whiten_rewards": part("method.whiten_rewards"),
    "kl_coef": part("method.kl_weight"),
    "vf_coef": part("method.value_weight"),
}

LLAMA_FACTORY_NAMES: Mapping[str, str] = {
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "additional_target": "lora_modules_to_save",
    "pref_loss": "loss_type",
    "pref_beta": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "cutoff_len": "max_length",
    "ppo_epochs": "num_ppo_epochs",
    "ppo_whiten_rewards": "whiten_rewards",
}
"""LLaMA-Factory's name → the one of TRL for the same."""

LLAMA_FACTORY_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "finetuning_type": "lora",
    "lora_r": 8,
    "lora_target_modules": "all",
    "gradient_checkpointing": True,
    "max_length": 2048,
    "dataset_dir": "data",
    "beta": 0.1,
    "simpo_gamma": 0.5,
    "cpo_alpha": 0.0,
    "temperature": 0.95,
    "top_p": 0.7,
    "top_k": 50,
    "max_new_tokens": 1024,
    "num_ppo_epochs": 4,
    "kl_coef": 0.2,
    "ppo_target": 6.0,
    "ppo_buffer_size": 1,
}
"""Defaults of LLaMA-Factory that change the result; the last five of PPO are those of the TRL that it is built on."""
