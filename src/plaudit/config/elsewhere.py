"""Option names of other tools: those that mean the same here, and what to use in the place of the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from plaudit.config.origins import LOSS_OPTIONS, explain_loss

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
    "num-generations": "rollout.completions_per_prompt",
    "num-iterations": "rollout.ppo_epochs",
    "num-ppo-epochs": "rollout.ppo_epochs",
    "max-completion-length": "rollout.max_new_tokens",
    "response-length": "rollout.max_new_tokens",
    "reward-funcs": "reward.rewards",
    "reward-model-path": "reward.rewards",
}
"""Flag of other tools → key that means the same."""

_STEP = "say how many prompts make a step with train.groups_per_step and how many tokens fit in memory with "
_STEP += "train.tokens_per_microbatch; the split into micro-batches follows and does not change the result"
_DTYPE = "use model.precision=bf16 or fp32; trained weights are always kept in fp32"
_SPLIT = "write it behind the name: data.train=name:split or name:subset:split, and data.eval for held-out data"
_PROCESSES = "start several processes with --gpus N (or --processes N) on the command line, or with torchrun; "
_PROCESSES += "train.sharding=fsdp spreads the weights over them"
_DEVICE = "a GPU is used where torch sees one: CUDA_VISIBLE_DEVICES=1 before the command chooses one, and an empty one "
_DEVICE += "hides them all; --gpus N uses several"
_UPLOAD = "nothing is uploaded; the trained model is in the folder model/ of the run"
_WHEN = "say every how many steps: eval.every, checkpoint.every, log.every"
_DATA = "the data is read and tokenised once, before training"
_TRAIN_ON = "use method.train_on of sft: completion, assistant or sequence"
_PACKED = "batches are always packed, without padding and without contact between examples"

REPLACED: dict[str, str] = {
    "per_device_train_batch_size": _STEP,
    "gradient_accumulation_steps": _STEP,
    "batch_size": _STEP,
    "auto_find_batch_size": "train.tokens_per_microbatch=auto measures before the first step how many tokens fit",
    "group_by_length": _PACKED,
    "packing": _PACKED,
    "padding_free": _PACKED,
    "per_device_eval_batch_size": "evaluation packs by train.tokens_per_microbatch too",
    "config": "give the file without a flag: plaudit dpo config.yaml",
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
    "max_seq_length": "use data.max_length, and data.overlong for longer rows",
    "truncation_mode": "use data.overlong: truncate_prompt or truncate_completion",
    "assistant_only_loss": _TRAIN_ON,
    "completion_only_loss": _TRAIN_ON,
    "dataset_text_field": "map the column: --column text=NAME",
    "dataset_config": _SPLIT,
    "dataset_train_split": _SPLIT,
    "dataset_test_split": _SPLIT,
    "dataset_num_proc": _DATA,
    "dataloader_num_workers": _DATA,
    "streaming": "streaming is not supported: the data is read, checked and counted before training",
    "ref_model": "the reference is the model's starting state; in `plaudit tr_dpo` it follows the policy",
    "sync_ref_model": "use `plaudit tr_dpo`, which moves its reference; other methods never do",
    "reference_free": "use a method without a reference: `plaudit cpo`, `plaudit simpo` or `plaudit orpo`",
    "loss_weights": "nll_weight is that of the likelihood; `plaudit mpo` weighs DPO, BCO and the likelihood",
    "stage": "the method is the command: `plaudit sft`, `plaudit reward`, `plaudit dpo`, `plaudit kto`",
    "finetuning_type": "lora=true trains an adapter; without it all weights are trained",
    "lora_rank": "use lora.r",
    "lora_target": "use lora.target_modules",
    "cutoff_len": "use data.max_length, and data.overlong for longer rows",
    "template": "the tokenizer's own chat template is used; model.chat_template replaces it",
    "precompute_ref_log_probs": "reference log-probs are always cached on disk (run.reference_cache)",
    "disable_dropout": "the model's own dropout is always off; lora.dropout is the adapter's",
    "deepspeed": _PROCESSES,
    "fsdp": _PROCESSES,
    "accelerate_config": _PROCESSES,
    "num_processes": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "device": _DEVICE,
    "use_cpu": _DEVICE,
    "no_cuda": _DEVICE,
    "device_map": _DEVICE,
    "gpus": _PROCESSES,
    "processes": _PROCESSES,
    "push_to_hub": _UPLOAD,
    "hub_model_id": _UPLOAD,
}
"""Known names of other tools (snake case) that are no keys here → what to use instead."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An option of another tool that some methods have here.

    Attributes:
        option: its name here.
        method: the method that is taught to whoever gives it to one that does not have it.
        note: how its values differ.
    """

    option: str
    method: str
    note: str = ""


MOVED: Mapping[str, Moved] = {
    "beta": Moved("beta", "dpo"),
    "pref_beta": Moved("beta", "dpo"),
    "rpo_alpha": Moved("nll_weight", "dpo"),
    "pref_ftx": Moved("nll_weight", "dpo"),
    "cpo_alpha": Moved("nll_weight", "cpo"),
    "nll_weight": Moved("nll_weight", "dpo"),
    "label_smoothing": Moved("label_smoothing", "dpo", "`plaudit robust_dpo` corrects for flipped labels too"),
    "dpo_label_smoothing": Moved("label_smoothing", "dpo"),
    "use_weighting": Moved("weighting", "dpo", "the value is wpo"),
    "ld_alpha": Moved("ld_alpha", "dpo"),
    "f_divergence_type": Moved("divergence", "fdpo"),
    "f_alpha_divergence_coef": Moved("alpha", "fdpo", "1 minus the value there"),
    "discopop_tau": Moved("tau", "discopop"),
    "ref_model_mixup_alpha": Moved("alpha", "tr_dpo"),
    "ref_model_sync_steps": Moved("every", "tr_dpo"),
    "simpo_gamma": Moved("gamma", "simpo"),
    "gamma_beta_ratio": Moved("gamma_beta_ratio", "simpo"),
    "desirable_weight": Moved("desirable_weight", "kto"),
    "undesirable_weight": Moved("undesirable_weight", "kto"),
    "kto_chosen_weight": Moved("desirable_weight", "kto"),
    "kto_rejected_weight": Moved("undesirable_weight", "kto"),
    "pref_bco_weight": Moved("losses", "mpo", "the weight of bco_pair in it"),
    "center_rewards_coefficient": Moved("centre_weight", "reward"),
}
"""Options of losses in other tools (snake case) → where they are here."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """What can be said about an option that a method does not have.

    Attributes:
        method: the method's name; None while it is not known.
        options: the method's own options.
        elsewhere: the method's own table of other tools' names.
    """

    method: str | None = None
    options: Collection[str] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def explain_own(self, name: str) -> str | None:
        """What the method itself says about an option: also where another section has a key of this name."""
        name = name.replace("-", "_").removeprefix("method.")
        return None if name in self.options else self.elsewhere.get(name)

    def explain(self, name: str, value: Any = None) -> str | None:
        """What to use instead of another tool's option; None for a name that is not known."""
        if (own := self.explain_own(name)) is not None:
            return own
        name = name.replace("-", "_").removeprefix("method.")
        if name in self.options:
            return None
        if name in LOSS_OPTIONS:
            return explain_loss(name, value, self.method)
        if (moved := MOVED.get(name)) is not None:
            return self._moved(moved)
        return REPLACED.get(name)

    def _moved(self, moved: Moved) -> str:
        note = f"; {moved.note}" if moved.note else ""
        if moved.option in self.options:
            return f"it is method.{moved.option} here{note}"
        missing = f"{self.method or 'this method'} does not have it"
        return f"{missing}; it is method.{moved.option} of `plaudit {moved.method}`{note}"
