"""Memory, time and disk of a run: measured on the longest groups, added up for the files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from plaudit.errors import RunError, TrainingError
from plaudit.models.masters import Masters
from plaudit.preflight.findings import Finding
from plaudit.runs import checkpoints
from plaudit.runs.eta import duration
from plaudit.runs.plan import InWords
from plaudit.train.prepared import Prepared
from plaudit.train.rehearsal import model_bytes
from plaudit.train.roles_line import ADAM_BYTES
from plaudit.train.token_budget import size
from plaudit.train.token_choice import Choice, Line

_TIGHT = 0.85
"""Share of the memory from which little is left for what else the machine does."""
_REFERENCE_SHARE = 1 / 3
"""Of the time of a forward and backward pass that a forward pass alone takes."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was measured of micro-batches. All sizes are bytes of one process.

    Attributes:
        tokens: of the micro-batch that was timed.
        seconds: of its forward and backward pass.
        low: held between two steps, with gradients and optimiser state.
        expected: at the highest point of a mean micro-batch.
        high: at that of the largest one that there can be.
        limit: what the process could hold.
    """

    tokens: int
    seconds: float
    low: int
    expected: int
    high: int
    limit: int

    @property
    def memory(self) -> InWords:
        """For the plan."""
        return InWords(
            f"{size(self.low)} between steps, about {size(self.expected)} in a usual micro-batch, at most "
            f"{size(self.high)} of {size(self.limit)}",
            memory_between_steps_bytes=self.low,
            memory_expected_bytes=self.expected,
            memory_at_most_bytes=self.high,
            memory_limit_bytes=self.limit,
        )


def rehearse(prepared: Prepared) -> Rehearsed | None:
    """Forward and backward passes on the longest groups. All processes do it together.

    Returns:
        None where nothing tells how much memory a process has.

    Raises:
        TrainingError: PL406, it does not fit.
    """
    demand = prepared.demand()
    longest = max(workload.longest[0] for workload in demand.workloads)
    of_step = max(-(-workload.total // prepared.world.size) for workload in demand.workloads)
    tokens = max(longest, min(prepared.budget.tokens, of_step))
    prepared.say(f"check: forward and backward on the longest groups, micro-batches of up to {tokens:,} tokens")
    fit = prepared.settling.fitting(tokens, demand)
    if fit is None:
        return None
    choice, used = fit
    if choice.tokens < tokens:
        raise TrainingError(
            "PL406",
            f"micro-batches have up to {tokens:,} tokens; {choice.tokens:,} fit into the {size(choice.free)} free",
            where="train.tokens_per_microbatch",
            mend=f"train.tokens_per_microbatch=auto, or {choice.tokens}",
        )
    line = Line.through(choice.measured)
    micro_batches = prepared.work.micro_batches
    mean = prepared.work.tokens.run / micro_batches.run if micro_batches is not None else tokens
    timed = choice.measured[-1]
    return Rehearsed(
        tokens=timed.tokens,
        seconds=timed.seconds,
        low=used + _held(prepared, choice),
        expected=used + min(line.at(min(round(mean), tokens)), choice.bytes),
        high=used + choice.bytes,
        limit=used + choice.free,
    )


def _held(prepared: Prepared, choice: Choice) -> int:
    """Gradients and optimiser state, which are there at any size."""
    trained = prepared.cast.masters.parameters
    fixed = sum(w.nbytes + w.numel() * ADAM_BYTES[prepared.config.train.optimizer] for w in trained)
    return min(fixed, choice.bytes)


def memory(found: Rehearsed | None) -> Iterator[Finding]:
    """What the rehearsal says about memory."""
    if found is None:
        text = "not measured: nothing here tells how much memory a process uses"
        yield Finding("WARN", "memory", text, "pip install psutil")
        return
    if found.high > _TIGHT * found.limit:
        mend = "lower train.tokens_per_microbatch, or close other programs"
        yield Finding("WARN", "memory", f"{found.memory}: little is left", mend)
    else:
        yield Finding("OK", "memory", found.memory)


def passes(found: Rehearsed | None) -> Iterator[Finding]:
    """What the rehearsal says about the largest micro-batch."""
    if found is not None:
        text = f"the longest groups, {found.tokens:,} packed tokens, in {found.seconds:.2g} s"
        yield Finding("OK", "forward and backward", text)


def time_row(prepared: Prepared, found: Rehearsed | None) -> dict[str, InWords]:
    """How long the run will take, for the plan; {} where the answers are still to be sampled, or nothing was timed."""
    work = prepared.work
    if found is None or work.samples or not found.seconds or prepared.resumes:
        return {}
    busy = min(prepared.world.size, work.micro_batches.step) if work.micro_batches is not None else 1
    rate = found.tokens / found.seconds * busy
    once = work.tokens.epoch * _REFERENCE_SHARE if prepared.cast.reference != "none" else 0.0
    seconds = (work.tokens.run + once) / rate
    text = f"about {duration(seconds)} without evaluations ({rate:,.0f} tokens/s in a measured micro-batch)"
    return {"time": InWords(text, expected_seconds=round(seconds, 1), expected_tokens_per_second=round(rate, 1))}


@dataclass(frozen=True, slots=True)
class Files:
    """Bytes that a run writes.

    Attributes:
        checkpoint: one of them.
        model: the trained model, or adapter.
        models: how many of it there may be (the last, the best, the KL grid).
        checkpoints: how many there are at the same time: those that are kept, the best, and one that is being written.
        free: on the disk of the run directory.
        there: what an earlier start of the run has written already.
    """

    checkpoint: int
    model: int
    models: int
    checkpoints: int
    free: int
    there: int

    @property
    def most(self) -> int:
        """All of it."""
        return self.checkpoint * self.checkpoints + self.model * self.models

    @property
    def least(self) -> int:
        """Without this nothing can be kept: one checkpoint beside the one before it, and the model."""
        return 2 * self.checkpoint + self.model

    def row(self, kept: int) -> dict[str, InWords]:
        """For the plan."""
        text = f"checkpoints of {size(self.checkpoint)} ({kept} kept), the model {size(self.model)}: up to "
        return {
            "disk": InWords(
                f"{text}{size(self.most)} of {size(self.free)} free",
                checkpoint_bytes=self.checkpoint,
                model_bytes=self.model,
                disk_at_most_bytes=self.most,
                disk_free_bytes=self.free,
            )
        }


def files(prepared: Prepared) -> Files:
    """What a run will write, from the sizes of its weights.

    Raises:
        RunError: PL505, the disk has not even room for two checkpoints and the model, or cannot be written.
    """
    place = _existing(prepared.path)
    config, cast = prepared.config, prepared.cast
    best = prepared.trainer.schedule.eval_every is not None
    found = Files(
        checkpoint=_checkpoint_bytes(prepared, cast.masters),
        model=_model_bytes(prepared),
        models=1 + best + len(config.checkpoint.kl_grid),
        checkpoints=config.checkpoint.keep + 1 + best,
        free=shutil.disk_usage(place).free,
        there=sum(checkpoints.size_of(folder) for folder in checkpoints.complete(prepared.path / "checkpoints")),
    )
    if not os.access(place, os.W_OK):
        raise RunError("PL505", "the folder cannot be written", where=str(place), mend="give another run.dir")
    if found.free + found.there < found.least:
        raise RunError(
            "PL505",
            f"the disk has {size(found.free)} free; two checkpoints and the model take {size(found.least)}",
            where=str(place),
            mend="make room, give a run.dir on another disk, or train an adapter (--lora)",
        )
    return found


def disk(found: Files, kept: int) -> Iterator[Finding]:
    """Whether there is room for all that the run writes."""
    text = found.row(kept)["disk"]
    if found.free + found.there < found.most:
        yield Finding("WARN", "disk", text, "make room, lower checkpoint.keep, or give a run.dir on another disk")
    else:
        yield Finding("OK", "disk", text)


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    while not path.exists():
        path = path.parent
    return path


def _checkpoint_bytes(prepared: Prepared, masters: Masters) -> int:
    trained = masters.parameters
    moments = sum(w.numel() * ADAM_BYTES[prepared.config.train.optimizer] for w in trained)
    moving = prepared.cast.moving
    frozen = 0 if moving is None else sum(w.nbytes for w in moving.state().values())
    return sum(w.numel() * w.element_size() for w in trained) + moments + frozen


def _model_bytes(prepared: Prepared) -> int:
    model: nn.Module = prepared.cast.trained
    if prepared.config.lora is None:
        return model_bytes(model)
    return sum(w.numel() * w.element_size() for w in prepared.cast.masters.parameters)


def evaluation(prepared: Prepared) -> Iterator[Finding]:
    """One step of an evaluation and the samples that it shows: what else first fails after an hour.

    Raises:
        PlauditError: what the evaluation raises; ConfigError PL102 where eval.best_metric is none of its metrics.
    """
    trainer = prepared.trainer
    if trainer.schedule.eval_every is None:
        return
    metrics = trainer.try_evaluation()
    broken = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if "eval/loss" in broken:
        raise TrainingError(
            "PL402", "the loss of held-out rows is not finite before anything is trained", where="data.eval",
            mend="look at the rows with plaudit inspect, and at the model with model.precision=fp32",
        )  # fmt: skip
    shown = len(trainer.sampler()) if trainer.sampler is not None else 0
    best = prepared.config.eval.best_metric
    assert best is not None
    yield Finding("OK", "evaluation", f"a part of one: {best} {metrics[best]:.4g}; {shown} samples are shown")
