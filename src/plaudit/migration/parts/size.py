"""The size of a step, the number of steps, the learning rate's way, the optimiser.

Their unit is a micro-batch of one device; ours is the optimiser step over all processes, counted in prompts.
"""

from __future__ import annotations

from math import gcd

from plaudit.migration.draft import Draft, shown
from plaudit.migration.values import boolean, number, plain, text, whole

_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "adamw", "adam"), "adamw"),
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused", "paged_adamw", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "adamw_torch_8bit", "ao_adamw_8bit"), "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
}
_SCHEDULES = {
    **{name: name for name in ("linear", "cosine", "constant")},
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    "cosine_with_restarts": "cosine",
    "polynomial": "linear",
}
_NEAREST = {"inverse_sqrt": "cosine", "warmup_stable_decay": "constant", "one_cycle": "cosine", "rex": "linear"}


def step(draft: Draft) -> None:
    """train.groups_per_step, and for sampled answers rollout.prompts_per_batch."""
    given = [n for n in (*_BATCH, "batch_size") if draft.says(n) and n in draft.dialect.table]
    rows = draft.get(_BATCH[0], whole)
    parts = draft.get(_BATCH[1], whole)
    total = draft.get("batch_size", whole) if draft.dialect.tool == "axolotl" else None
    if total is None and (rows is None or parts is None):
        draft.notes.append("the batch could not be read: train.groups_per_step is ours, 32")
        return
    if total is not None:  # of one process; axolotl makes gradient_accumulation_steps from it
        parts = max(1, total // (rows or 1))
    across = (rows or 1) * (parts or 1) * draft.processes
    text_ = f"{rows} × {parts} × {draft.processes} process{'es' if draft.processes > 1 else ''}"
    if draft.trainer in ("grpo", "rloo"):
        _of_completions(draft, across, (rows or 1) * draft.processes, text_, given)
        return
    if draft.trainer == "ppo":
        _of_ppo(draft, across, text_, given)
        return
    if draft.trainer == "online_dpo":
        draft.write("rollout.prompts_per_batch", across, note=text_)
    draft.write("train.groups_per_step", across, *_BATCH, note=text_)
    draft.differ(
        *given, text=f"train.groups_per_step: {across} = {text_}: the split into micro-batches follows by itself"
    )
    if _packs(draft) and draft.method.name == "sft":
        draft.differ(
            "packing",
            "neat_packing",
            text="a row of their batch is several of ours packed together: raise train.groups_per_step",
        )
        draft.notes.append(
            "with packing, a step there has several rows in each of its places: raise train.groups_per_step"
        )
    else:
        draft.idle(
            "packing", "neat_packing", text="rows are always packed, without padding and without contact between them"
        )


def _packs(draft: Draft) -> bool:
    """Whether a row of their batch holds several of the data; that of LLaMA-Factory's pretraining does unless told."""
    asked: bool | None = draft.get("packing", boolean)
    if draft.dialect.tool == "llama-factory" and asked is not False:
        return bool(asked or draft.get("neat_packing", boolean) or draft.get("stage", text) == "pt")
    return bool(asked)


def _of_completions(draft: Draft, step_: int, micro: int, text_: str, given: list[str]) -> None:
    """GRPO and RLOO count completions: G of them are one of our groups."""
    answers = draft.get("num_generations", whole) or draft.method.default_completions
    batch = draft.get("generation_batch_size", whole)
    several = draft.get("steps_per_generation", whole)
    batch = batch if batch is not None else micro * several if several is not None else step_
    prompts, sampled = max(1, -(-step_ // answers)), max(1, -(-batch // answers))
    if sampled % prompts:
        sampled = sampled * prompts // gcd(sampled, prompts)
    note = f"{text_} completions / {answers} for each prompt"
    draft.write("train.groups_per_step", prompts, *_BATCH, note=note)
    draft.differ(*given, text=f"train.groups_per_step: {prompts} = {note}")
    names = ("generation_batch_size", "steps_per_generation")
    if sampled != prompts:
        draft.write("rollout.prompts_per_batch", sampled, *names, note=f"{batch} completions are sampled at once")
    else:
        draft.idle(*names, text="one step for each rollout batch")
    if step_ % answers:
        draft.notes.append(
            f"a step there had {step_} completions, which are no whole prompts; here it has {prompts} prompts"
        )


def _of_ppo(draft: Draft, across: int, text_: str, given: list[str]) -> None:
    if draft.dialect.tool == "llama-factory":
        size, batch = across, across * (draft.get("ppo_buffer_size", whole) or 1)
    else:
        size, batch = max(1, across // (draft.get("num_mini_batches", whole) or 1)), across
    draft.write("train.groups_per_step", size, *_BATCH, note=text_)
    draft.differ(*given, text=f"train.groups_per_step: {size}")
    names = ("num_mini_batches", "ppo_buffer_size")
    if batch != size:
        draft.write("rollout.prompts_per_batch", batch, *names)
    else:
        draft.idle(*names, text="one minibatch for each rollout batch")


def length(draft: Draft) -> None:
    """Epochs and steps: with max_steps theirs leaves the epochs out, too."""
    limit = draft.get("max_steps", whole)
    episodes = draft.get("total_episodes", whole)
    if limit is not None and limit > 0:
        draft.write("train.max_steps", limit, "max_steps")
        draft.idle("num_train_epochs", text="max_steps comes first, there and here")
        return
    draft.idle("max_steps", text="no limit")
    if episodes is not None and draft.trainer == "ppo":
        _episodes(draft, episodes)
        return
    draft.copy("train.epochs", "num_train_epochs", number)


def _episodes(draft: Draft, episodes: int) -> None:
    step_ = draft.lines["train.groups_per_step"].value
    passes = draft.get("num_ppo_epochs", whole) or 1
    steps = max(1, episodes // step_) * passes
    draft.write("train.max_steps", steps, "total_episodes", note=f"{episodes} answers, {passes} passes, {step_} a step")
    draft.idle("num_train_epochs", text="total_episodes comes first")


def way(draft: Draft) -> None:
    """The schedule of the learning rate and its warm-up."""
    name = draft.get("lr_scheduler_type", text)
    name = name.rpartition(".")[2].lower() if name is not None else None
    extra = draft.get("lr_scheduler_kwargs", plain) or {}
    extra = extra if isinstance(extra, dict) else {}
    schedule = _SCHEDULES.get(name or "")
    if name is not None and schedule is None:
        schedule = _NEAREST.get(name, "linear")
        draft.write("train.schedule", schedule, note=f"in the place of {name}")
        draft.miss("lr_scheduler_type", text=f"there is no {name}: {schedule} is written in its place")
    elif name is not None:
        draft.write("train.schedule", schedule, "lr_scheduler_type")
    _end(draft, schedule, dict(extra))
    _warmup(draft, name)


def _end(draft: Draft, schedule: str | None, extra: dict[str, object]) -> None:
    """min_lr, min_lr_rate and cosine_min_lr_ratio → train.min_lr_ratio."""
    rate = draft.get("learning_rate", number)
    ratio: float | None = draft.get("cosine_min_lr_ratio", number)
    if "min_lr_rate" in extra:
        ratio = float(number(extra.pop("min_lr_rate")))
    if "min_lr" in extra and rate:
        ratio = float(number(extra.pop("min_lr"))) / rate
    names = ("lr_scheduler_kwargs", "cosine_min_lr_ratio")
    if extra.get("num_cycles") in (1, 0.5):
        extra.pop("num_cycles")
    if ratio and schedule != "constant":
        draft.write("train.min_lr_ratio", ratio, *names)
    if extra:
        draft.miss("lr_scheduler_kwargs", text=f"without a counterpart: {shown(extra)}")


def _warmup(draft: Draft, name: str | None) -> None:
    steps, ratio = draft.get("warmup_steps", number), draft.get("warmup_ratio", number)
    names = ("warmup_steps", "warmup_ratio")
    if name == "constant":
        draft.write("train.warmup_fraction", 0.0, note="their constant schedule has no warm-up")
        draft.idle(*names, text="their constant schedule has no warm-up: constant_with_warmup has")
    elif steps and steps >= 1:
        draft.write("train.warmup_steps", int(steps), "warmup_steps")
        draft.idle("warmup_ratio", text="warmup_steps comes first, there and here")
    elif steps:
        draft.write("train.warmup_fraction", float(steps), "warmup_steps", note="below 1 it is a share of the steps")
    elif ratio and not draft.unread(*names):
        note = "at most 100 steps there" if draft.dialect.tool == "axolotl" and not draft.says("warmup_ratio") else ""
        draft.write("train.warmup_fraction", float(ratio), "warmup_ratio", note=note)
        draft.idle("warmup_steps", text="0: warmup_ratio counts")
    elif not draft.unread(*names):
        draft.write("train.warmup_fraction", 0.0, *names)


def optimiser(draft: Draft) -> None:
    """Its name, its moments, the clip."""
    name = draft.get("optim", text)
    name = name.rpartition(".")[2].lower() if name is not None else None
    if name in _OPTIMIZERS:
        draft.write("train.optimizer", _OPTIMIZERS[name], "optim")
        if name.startswith("paged_adamw") and _OPTIMIZERS[name] == "adamw":
            draft.differ("optim", text="train.optimizer: adamw; the state is not paged, which is memory only")
    elif name is not None:
        draft.write("train.optimizer", "adamw", note=f"in the place of {name}")
        draft.miss(
            "optim", text=f"{name} is not offered: adamw is written in its place, and wants its own learning rate"
        )
    first, second = draft.get("adam_beta1", number), draft.get("adam_beta2", number)
    if first is not None or second is not None:
        betas = [first if first is not None else 0.9, second if second is not None else 0.999]
        draft.write("train.betas", betas, "adam_beta1", "adam_beta2")
    clip = draft.get("max_grad_norm", number)
    if clip is not None:
        draft.write("train.max_grad_norm", clip if clip > 0 else None, "max_grad_norm")
