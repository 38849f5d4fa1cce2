"""Keys of transformers' TrainingArguments, which all three tools hand on."""

from __future__ import annotations

from plaudit.migration.rules import Rule, Table, different, harmless, lost, part, to
from plaudit.migration.values import boolean, number, whole

_LOADER = "the data is read and tokenised once, before training"
_PROCESSES = "gradients are summed once per step; there is nothing to set"
_SPEED = "speed and memory only"
_SCREEN = "what is shown only"
_UPLOAD = "nothing is uploaded: the trained model is in the folder model/ of the run"
_RESUME = "the same command goes on where a run stopped (run.if_exists)"
_BATCH = "train.groups_per_step"
_EVAL = "eval.every"
_SAVE = "checkpoint.every"
_EVALUATION = "evaluation packs by train.tokens_per_microbatch, and its result does not depend on it"


def _loss(why: str) -> Rule:
    return lost(why, off=(None, False, 0, ""))


TRAINER: Table = {
    # -- the size of a step, and how many there are
    "per_device_train_batch_size": part(_BATCH),
    "gradient_accumulation_steps": part(_BATCH),
    "auto_find_batch_size": different("train.tokens_per_microbatch: auto measures what fits; a step stays as large"),
    "num_train_epochs": part("train.epochs"),
    "max_steps": part("train.max_steps"),
    "dataloader_drop_last": lost("the last rows of an epoch are always trained on"),
    "average_tokens_across_devices": harmless("a mean over tokens is always over the whole step, of all processes"),
    "train_sampling_strategy": part("data.shuffle"),
    "group_by_length": different("rows are packed without padding, whatever their lengths; the order stays random"),
    "length_column_name": harmless(_LOADER),
    # -- the optimiser
    "learning_rate": to("train.learning_rate", number),
    "lr_scheduler_type": part("train.schedule"),
    "lr_scheduler_kwargs": part("train.min_lr_ratio"),
    "warmup_steps": part("train.warmup_steps"),
    "warmup_ratio": part("train.warmup_fraction"),
    "optim": part("train.optimizer"),
    "optim_args": lost("no further options of the optimiser"),
    "optim_target_modules": lost("GaLore and the like are not offered"),
    "weight_decay": to("train.weight_decay", number),
    "adam_beta1": part("train.betas"),
    "adam_beta2": part("train.betas"),
    "adam_epsilon": to("train.eps", number),
    "max_grad_norm": part("train.max_grad_norm"),
    "label_smoothing_factor": _loss("no smoothing of next-token labels"),
    "neftune_noise_alpha": _loss("no noise on embeddings (NEFTune)"),
    # -- how it computes
    "bf16": part("model.precision"),
    "fp16": part("model.precision"),
    "bf16_full_eval": harmless("evaluation computes as training does"),
    "fp16_full_eval": harmless("evaluation computes as training does"),
    "half_precision_backend": harmless(_SPEED),
    "fp16_opt_level": harmless(_SPEED),
    "tf32": harmless(_SPEED + ": matrix products of fp32"),
    "gradient_checkpointing": to("model.gradient_checkpointing", boolean),
    "gradient_checkpointing_kwargs": harmless(_SPEED),
    "activation_checkpointing": harmless(_SPEED),
    "activation_checkpointing_kwargs": harmless(_SPEED),
    "torch_compile": harmless(_SPEED),
    "torch_compile_backend": harmless(_SPEED),
    "torch_compile_mode": harmless(_SPEED),
    "use_liger_kernel": harmless("log-probs are computed without building the logits, always"),
    "liger_kernel_config": harmless("log-probs are computed without building the logits, always"),
    "use_cache": harmless(_SPEED),
    "torch_empty_cache_steps": harmless(_SPEED),
    "use_cpu": harmless("a GPU is used where there is one: hide it with CUDA_VISIBLE_DEVICES="),
    "no_cuda": harmless("a GPU is used where there is one: hide it with CUDA_VISIBLE_DEVICES="),
    "full_determinism": different("train.seed; a CPU gives the same bits, a GPU does not promise to"),
    # -- seeds
    "seed": to("train.seed", whole),
    "data_seed": different("train.seed is that of the order too"),
    # -- evaluation
    "eval_strategy": part(_EVAL),
    "evaluation_strategy": part(_EVAL),
    "eval_steps": part(_EVAL),
    "eval_on_start": part("eval.at_start"),
    "eval_delay": different("evaluations begin at the first multiple of eval.every", off=(None, 0)),
    "do_eval": harmless("there is evaluation where there is held-out data"),
    "per_device_eval_batch_size": harmless(_EVALUATION),
    "eval_accumulation_steps": harmless(_EVALUATION),
    "eval_do_concat_batches": harmless(_EVALUATION),
    "eval_use_gather_object": harmless(_EVALUATION),
    "batch_eval_metrics": harmless(_EVALUATION),
    "prediction_loss_only": harmless(_EVALUATION),
    "include_for_metrics": harmless(_EVALUATION),
    "metric_for_best_model": part("eval.best_metric"),
    "greater_is_better": harmless("the metrics table says which way is better (docs/metrics.md)"),
    "load_best_model_at_end": different("the best checkpoint is kept in best/ beside model/, which is the last one"),
    "early_stopping_patience": part("eval.early_stopping_patience"),
    # -- checkpoints
    "save_strategy": part(_SAVE),
    "save_steps": part(_SAVE),
    "save_total_limit": part("checkpoint.keep"),
    "save_only_model": harmless("checkpoints hold the whole state, so that a run can go on; model/ is the model alone"),
    "save_on_each_node": harmless("the main process writes"),
    "save_safetensors": harmless("always safetensors"),
    "enable_jit_checkpoint": harmless("a signal makes a checkpoint, always"),
    "resume_from_checkpoint": harmless(_RESUME),
    "overwrite_output_dir": harmless("a finished run is never overwritten: run.if_exists: new begins another"),
    "ignore_data_skip": harmless(_RESUME),
    "restore_callback_states_from_checkpoint": harmless(_RESUME),
    "output_dir": to("run.dir", str),
    # -- the log
    "logging_strategy": part("log.every"),
    "logging_steps": part("log.every"),
    "logging_first_step": harmless(_SCREEN),
    "logging_dir": harmless("everything is in the run directory"),
    "logging_nan_inf_filter": harmless("a step whose gradient is not finite is skipped and counted"),
    "log_on_each_node": harmless(_SCREEN),
    "log_level": harmless(_SCREEN),
    "log_level_replica": harmless(_SCREEN),
    "disable_tqdm": harmless(_SCREEN),
    "include_num_input_tokens_seen": harmless("tokens are always counted"),
    "include_tokens_per_second": harmless("tokens per second are always logged"),
    "skip_memory_metrics": harmless(_SCREEN),
    "debug": harmless(_SCREEN),
    "report_to": part("log.sinks"),
    "run_name": different("a run is named by its directory, run.dir"),
    "project": part("log.project"),
    "trackio_space_id": harmless(_UPLOAD),
    "trackio_bucket_id": harmless(_UPLOAD),
    "trackio_static_space_id": harmless(_UPLOAD),
    # -- the hub
    "push_to_hub": harmless(_UPLOAD),
    "push_to_hub_model_id": harmless(_UPLOAD),
    "push_to_hub_token": harmless(_UPLOAD),
    "hub_token": harmless(_UPLOAD),
    "hub_private_repo": harmless(_UPLOAD),
    "hub_model_id": harmless(_UPLOAD),
    "hub_strategy": harmless(_UPLOAD),
    "hub_always_push": harmless(_UPLOAD),
    "hub_revision": harmless(_UPLOAD),
    # -- processes
    "fsdp": part("train.sharding"),
    "fsdp_config": part("train.sharding"),
    "deepspeed": part("train.sharding"),
    "accelerator_config": harmless(_PROCESSES),
    "parallelism_config": harmless("neither tensor nor sequence parallelism: memory only"),
    "ddp_find_unused_parameters": harmless(_PROCESSES),
    "ddp_bucket_cap_mb": harmless(_PROCESSES),
    "ddp_broadcast_buffers": harmless(_PROCESSES),
    "ddp_static_graph": harmless(_PROCESSES),
    "ddp_backend": harmless(_PROCESSES),
    "ddp_timeout": harmless(_PROCESSES),
    "local_rank": harmless(_PROCESSES),
    # -- the data loader
    "dataloader_num_workers": harmless(_LOADER),
    "dataloader_pin_memory": harmless(_LOADER),
    "dataloader_persistent_workers": harmless(_LOADER),
    "dataloader_prefetch_factor": harmless(_LOADER),
    "dataloader_multiprocessing_context": harmless(_LOADER),
    "dataloader_in_order": harmless(_LOADER),
    "remove_unused_columns": harmless("columns that nothing reads are kept and named in the data report"),
    "label_names": harmless(_LOADER),
    "do_train": harmless("the command trains"),
    "do_predict": harmless("`plaudit generate` writes completions"),
    "past_index": harmless(_SPEED),
    "torchdynamo": harmless(_SPEED),
    "jit_mode_eval": harmless(_SPEED),
    "mp_parameters": harmless(_PROCESSES),
    "ray_scope": harmless(_PROCESSES),
    "fsdp_min_num_params": harmless(_PROCESSES),
    "fsdp_transformer_layer_cls_to_wrap": harmless(_PROCESSES),
}
"""Also names that transformers had before version 5."""
