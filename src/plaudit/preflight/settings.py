"""Settings that are allowed and seldom meant."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plaudit.preflight.findings import Finding
from plaudit.train.prepared import Prepared

_FEW_STEPS = 10


def learning_rate(prepared: Prepared) -> Iterator[Finding]:
    """Whether the learning rate is usual for this kind of training."""
    trainer = prepared.trainer
    rate, kind = trainer.config.train.learning_rate, "full fine-tuning" if trainer.config.lora is None else "LoRA"
    unusual = trainer.alerts.at_start()
    for alert in unusual:
        yield Finding("WARN", "learning rate", alert.message, alert.advice)
    if not unusual:
        yield Finding("OK", "learning rate", f"{rate:g}, usual for {kind}")


def steps(prepared: Prepared) -> Iterator[Finding]:
    """How many optimiser steps there are, and whether the schedule fits them."""
    train, schedule = prepared.config.train, prepared.trainer.schedule
    total = schedule.total_steps
    epochs = total / schedule.steps_per_epoch
    text = f"{total:,} of {train.groups_per_step:,} prompts each; epochs: {epochs:.3g}"
    if total < _FEW_STEPS and total != train.max_steps:  # whoever asks for so few knows it
        mend = "lower train.groups_per_step, or raise train.epochs"
        yield Finding("WARN", "steps", f"{text}. Few for anything to be learned", mend)
    elif train.warmup_steps is not None and train.warmup_steps >= total:
        text = f"the learning rate rises for {train.warmup_steps:,} steps, and the run has only {total:,}"
        yield Finding("WARN", "steps", text, "lower train.warmup_steps, or give train.warmup_fraction instead")
    else:
        yield Finding("OK", "steps", text)
    yield from _idle(prepared)


def _idle(prepared: Prepared) -> Iterator[Finding]:
    """Whether a step has a micro-batch for every process: one without computes nothing of it."""
    work, processes = prepared.work, prepared.world.size
    if work.micro_batches is None or work.micro_batches.step > processes - 0.5:
        return
    share = math.ceil(work.tokens.step / processes)
    text = (
        f"a step has {work.micro_batches.step:.2g} micro-batches for {processes} processes, and some have nothing to do"
    )
    mend = f"train.tokens_per_microbatch={share} or auto, a larger train.groups_per_step, or fewer processes"
    yield Finding("WARN", "steps", text, mend)
