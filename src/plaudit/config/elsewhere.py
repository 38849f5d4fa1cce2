"""Option names of other tools: those that mean the same here, and what to use in the place of the others."""

from __future__ import annotations

KNOWN_ELSEWHERE: dict[str, str] = {
    "lr": "train.learning_rate",
    "model-name-or-path": "model.path",
    "model-revision": "model.revision",
    "chat-template-path": "model.chat_template",
    "dataset-name": "data.train",
    "num-train-epochs": "train.epochs",
    "lr-scheduler-type": "train.schedule",
    "warmup-ratio": "train.warmup_fraction",
    "adam-epsilon": "train.eps",
    "logging-steps": "log.every",
    "save-steps": "checkpoint.every",
    "save-total-limit": "checkpoint.keep",
    "eval-steps": "eval.every",
    "eval-on-start": "eval.at_start",
}
"""Flag of other tools → key that means the same."""

_STEP = "say how many prompts make a step with train.groups_per_step and how many tokens fit in memory with "
_STEP += "train.tokens_per_microbatch; the split into micro-batches follows and does not change the result"
_LOSS = "dpo is the sigmoid loss of the paper; `plaudit methods` lists what there is, CONTRIBUTING how to add a loss"
_DTYPE = "use model.precision=bf16 or fp32; trained weights are always kept in fp32"
_SPLIT = "write it behind the name: data.train=name:split or name:subset:split, and data.eval for held-out data"
_PROCESSES = "start several processes with torchrun --nproc-per-node N -m plaudit …"
_UPLOAD = "nothing is uploaded; the trained model is in the folder model/ of the run"
_WHEN = "say every how many steps: eval.every, checkpoint.every, log.every"
_DATA = "the data is read and tokenised once, before training"
_TRAIN_ON = "use method.train_on of sft: completion, assistant or sequence"
_PACKED = "batches are always packed, without padding and without contact between examples"

REPLACED: dict[str, str] = {
    "per_device_train_batch_size": _STEP,
    "gradient_accumulation_steps": _STEP,
    "batch_size": _STEP,
    "auto_find_batch_size": _STEP,
    "group_by_length": _PACKED,
    "packing": _PACKED,
    "padding_free": _PACKED,
    "per_device_eval_batch_size": "evaluation packs by train.tokens_per_microbatch too",
    "config": "give the file without a flag: plaudit dpo config.yaml",
    "loss_type": _LOSS,
    "f_divergence_type": _LOSS,
    "ld_alpha": _LOSS,
    "rpo_alpha": _LOSS,
    "reference_free": _LOSS,
    "use_weighting": _LOSS,
    "fp16": "fp16 is not supported: use model.precision=bf16 or fp32",
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
    "load_in_4bit": "quantised weights are not supported",
    "load_in_8bit": "quantised weights are not supported",
    "attn_implementation": "model.attention chooses between the packed and the padded path; the kernel follows",
    "use_liger_kernel": "the log-probs of the trained tokens are computed without building the logits, always",
    "optim": "use train.optimizer: adamw, adamw_8bit or paged_adamw_8bit",
    "adam_beta1": "use train.betas, for example [0.9, 0.999]",
    "adam_beta2": "use train.betas, for example [0.9, 0.999]",
    "lr_scheduler_kwargs": "use train.min_lr_ratio for the last learning rate",
    "resume_from_checkpoint": "give the same command again: an interrupted run goes on (run.if_exists=resume)",
    "overwrite_output_dir": "a finished run is never overwritten: use run.if_exists=new or another run.dir",
    "report_to": "use log.sinks, for example log.sinks=[tensorboard]",
    "run_name": "a run is named by its directory: run.dir",
    "logging_dir": "everything is in the run directory: run.dir",
    "logging_strategy": _WHEN,
    "save_strategy": _WHEN,
    "eval_strategy": _WHEN,
    "do_eval": "give data.eval or data.eval_fraction",
    "load_best_model_at_end": "the checkpoint that is best by eval.best_metric is always kept, in the folder best/",
    "metric_for_best_model": "use eval.best_metric, for example eval/loss",
    "max_prompt_length": "use data.max_length for prompt + completion, and data.overlong for longer rows",
    "max_completion_length": "use data.max_length for prompt + completion, and data.overlong for longer rows",
    "max_seq_length": "use data.max_length, and data.overlong for longer rows",
    "truncation_mode": "use data.overlong: truncate_prompt or truncate_completion",
    "assistant_only_loss": _TRAIN_ON,
    "completion_only_loss": _TRAIN_ON,
    "dataset_text_field": "map the column: data.train=[{path: …, columns: {text: NAME}}]",
    "dataset_config": _SPLIT,
    "dataset_train_split": _SPLIT,
    "dataset_test_split": _SPLIT,
    "dataset_num_proc": _DATA,
    "dataloader_num_workers": _DATA,
    "streaming": "streaming is not supported: the data is read, checked and counted before training",
    "ref_model": "the reference is the model's starting state",
    "sync_ref_model": "the reference is the model's starting state and stays as it is",
    "precompute_ref_log_probs": "reference log-probs are always cached on disk (run.reference_cache)",
    "disable_dropout": "the model's own dropout is always off; lora.dropout is the adapter's",
    "deepspeed": _PROCESSES,
    "fsdp": _PROCESSES,
    "accelerate_config": _PROCESSES,
    "push_to_hub": _UPLOAD,
    "hub_model_id": _UPLOAD,
}
"""Known names of other tools (snake case) that are no keys here → what to use instead."""
