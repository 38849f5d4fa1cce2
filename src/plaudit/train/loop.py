"""The training loop: one for every offline method.

An interrupted run goes on by the same command and ends with the same bytes: the order of the data is a function of seed and step, and a
checkpoint holds everything else that a step depends on. It is written before any evaluation of its step, so a crash
while evaluating loses nothing.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from plaudit.config.schema import RunConfig
from plaudit.errors import TrainingError
from plaudit.methods.base import Batch, Method
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.runs.alerts import Alert, AlertRules
from plaudit.runs.metrics import is_better
from plaudit.runs.observer import Observers
from plaudit.train import checkpoint
from plaudit.train.interrupt import Interrupted, StopRequest
from plaudit.train.optimizer import clip_gradients, learning_rate_factor, step_unless_not_finite
from plaudit.train.parallel import World
from plaudit.train.schedule import Schedule
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import PromptGroup

Sampler = Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(slots=True)
class Progress:
    """What the loop knows besides weights and optimiser; goes into every checkpoint."""

    step: int = 0
    """optimiser steps done"""
    best: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    computed_tokens: int = 0
    train_seconds: float = 0.0


@dataclass(slots=True)
class Trainer:
    """Everything a run needs, wired by `train.session`."""

    config: RunConfig
    method: Method
    policy: ForestModel
    masters: Masters
    optimizer: torch.optim.Optimizer
    runner: StepRunner
    scorer: GroupScorer
    world: World
    groups: list[PromptGroup]
    eval_groups: list[PromptGroup]
    schedule: Schedule
    observers: Observers
    alerts: AlertRules
    store: CheckpointStore
    sampler: Sampler | None = None
    progress: Progress = field(default_factory=Progress)
    stop: StopRequest = field(default_factory=StopRequest)
    last_metrics: dict[str, float] = field(default_factory=dict)
    last_eval: dict[str, float] = field(default_factory=dict)
    _pending: Totals = field(default_factory=Totals)
    _window: tuple[float, int, int] = (0.0, 0, 0)
    """start of the current log window: time, step, computed tokens"""

    # -- the run

    def run(self) -> None:
        """Train to the end of the schedule, or until early stopping or a signal.

        Raises:
            Interrupted: after a signal, with the state written.
            TrainingError: PL402 for a loss or gradient that is not finite, PL403 and PL404 at the first step.
        """
        with self.stop.catching():
            self._first_evaluation()
            self._open_window()
            while self.progress.step < self.schedule.total_steps and not self._stopped_early():
                self._train_step()
                done = self.progress.step
                signum = self._agreed_signal()
                # A log window never spans a checkpoint, so a resumed run writes the same lines.
                if done == 1 or signum or done % self.config.log.every == 0 or self.schedule.checkpoints_after(done):
                    self._report_step()
                if signum or self.schedule.checkpoints_after(done):
                    self.store.save(self)
                if signum:
                    raise Interrupted(signum, f"stopped after step {done} of {self.schedule.total_steps}")
                if self.schedule.evaluates_after(done):
                    self._evaluate()
                    self._open_window()

    def _first_evaluation(self) -> None:
        done = self.progress.step
        at_start = done == 0 and self.config.eval.at_start and self.schedule.eval_every is not None
        if at_start or self.schedule.evaluates_after(done):
            self._evaluate()

    def _agreed_signal(self) -> int:
        return max(self.world.gather(self.stop.signum)) if self.world.size > 1 else self.stop.signum

    def _stopped_early(self) -> bool:
        patience = self.config.eval.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    # -- one step

    def batch_of(self, groups: Sequence[PromptGroup], stream: int, number: int) -> Batch:
        """A batch whose groups a method may extend, prepared with randomness that depends on the seed and its number alone."""
        batch = Batch([replace(g, completions=list(g.completions)) for g in groups])
        rng = np.random.default_rng([self.config.train.seed, stream, number])
        self.method.prepare_batch(batch, self.scorer, rng)
        return batch

    def _train_step(self) -> None:
        step = self.progress.step
        batch = self.batch_of([self.groups[i] for i in self.schedule.groups_of(step)], 10, step)
        self.policy.train()
        before, own = self.runner.computed_tokens, Totals()
        self.runner.gradients([Stream(self.method, batch, range(len(batch.groups)))], own)
        self.progress.computed_tokens += self.runner.computed_tokens - before
        self._check_first_gradients(step)
        self.world.sum_gradients(self.masters.parameters)
        norm = clip_gradients(self.masters.parameters, self.config.train.max_grad_norm)
        own.add("grad_norm", norm.detach(), torch.ones_like(norm))
        self._pending.merge(own)
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        step_unless_not_finite(self.optimizer, norm)
        self.masters.publish()
        self.masters.clear_gradients()
        if self.method.updates_state():
            self.method.after_step(own.read(self.world))
        self.progress.step += 1

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        assert self.config.train.learning_rate is not None
        return self.config.train.learning_rate * learning_rate_factor(self.config.train, step, self.schedule.total_steps)

    def _check_first_gradients(self, step: int) -> None:
        if step != 0:
            return
        missing = self.masters.without_gradient()
        if missing and len(missing) == len(self.masters.weights):
            raise TrainingError("PL403", "no trainable parameter received a gradient", where=missing[0])
        # Experts that no token was routed to have none; anything else without one is a broken graph.
        missing = [name for name in missing if "expert" not in name]
        if missing:
            raise TrainingError(
                "PL403",
                f"{len(missing)} trainable parameters received no gradient",
                where=", ".join(missing[:3]),
                mend="leave these modules out of lora.target_modules and lora.modules_to_save",
            )

    # -- what is shown

    def _open_window(self) -> None:
        self._pending = Totals()
        self._window = (time.perf_counter(), self.progress.step, self.runner.computed_tokens)

    def _report_step(self) -> None:
        metrics = self._pending.read(self.world)
        started, first, tokens = self._window
        seconds = time.perf_counter() - started
        steps = self.progress.step - first
        self.progress.train_seconds += seconds
        computed = sum(self.world.gather(self.runner.computed_tokens - tokens))
        metrics |= self.method.derived(metrics)
        metrics |= {
            "learning_rate": self.learning_rate(self.progress.step - 1),
            "epoch": self.schedule.epoch_at(self.progress.step),
            "num_tokens": float(sum(self.world.gather(self.progress.computed_tokens))),
            "tokens_per_second": computed / seconds if seconds else 0.0,
            "step_seconds": seconds / steps,
            "peak_memory_gb": peak_memory_gb(self.policy.device),
        }
        self.last_metrics = metrics
        self._open_window()
        self._check_invariants(metrics)
        self.observers.on_step(self.progress.step, self.schedule.total_steps, metrics)
        for alert in self.alerts.check(self.progress.step, metrics):
            self.observers.on_alert(alert)
        broken = [n for n in ("loss", "grad_norm") if not math.isfinite(metrics[n])]
        if broken:
            raise TrainingError(
                "PL402",
                f"{' and '.join(broken)} not finite at step {self.progress.step}; the weights were not updated with it",
                mend="lower train.learning_rate, check the data for empty or extreme rows, or use model.precision=fp32; "
                "the run resumes from its last checkpoint",
            )

    def _check_invariants(self, metrics: Mapping[str, float]) -> None:
        """At the very first step policy and reference are the same model, so some metrics are known."""
        if self.progress.step != 1 or (self.config.lora is not None and self.config.lora.dropout > 0):
            return
        # fp32 sums of a few hundred log-probs agree to about 1e-4; bf16 depends on how a sequence was packed.
        tolerance = 1e-3 if self.policy.dtype == torch.float32 else 0.25
        for name, expected in self.method.at_start.items():
            if abs(metrics[name] - expected) > tolerance:
                raise TrainingError(
                    "PL404",
                    f"{name} is {metrics[name]:.4g} at the first step and must be {expected:g}: the reference is not the "
                    "starting state",
                    mend="delete the cache of reference log-probs (run.reference_cache) and report this",
                )

    # -- evaluation

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.policy.eval()
        totals = Totals()
        sums: dict[str, float] = {}
        denominators: dict[str, float] = {}
        size = self.config.train.groups_per_step
        for number, start in enumerate(range(0, len(self.eval_groups), size)):
            batch = self.batch_of(self.eval_groups[start : start + size], 11, number)
            own, counts = self.runner.evaluate(Stream(self.method, batch, range(len(batch.groups))), totals)
            for name, value in self.world.sum_values(own).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, count in counts.items():
                denominators[name] = denominators.get(name, 0.0) + count
        coefficients = self.method.coefficients()
        loss = sum(coefficients[n] * sums[n] / denominators[n] for n in sums if denominators[n] > 0)
        metrics = {"loss": loss, **totals.read(self.world)}
        metrics |= self.method.derived(metrics)
        self.policy.train()
        self.last_eval = {f"eval/{name}": value for name, value in metrics.items()}
        self.observers.on_eval(self.progress.step, self.last_eval)
        self._judge()
        if self.sampler is not None and self.world.is_main:
            self.observers.on_samples(self.progress.step, list(self.sampler()))
        self.world.barrier()

    def _judge(self) -> None:
        name = self.config.eval.best_metric
        if name not in self.last_eval:
            raise TrainingError(
                "PL405",
                f"the evaluation has no metric {name!r}",
                where="eval.best_metric",
                mend=f"choose one of {', '.join(sorted(self.last_eval))}",
            )
        value = self.last_eval[name]
        if self.progress.best is None or is_better(name, value, self.progress.best):
            self.progress.best, self.progress.best_step = value, self.progress.step
            self.progress.evaluations_without_gain = 0
        else:
            self.progress.evaluations_without_gain += 1
            if self._stopped_early():
                self.observers.on_alert(
                    Alert(
                        "info",
                        "early_stopping",
                        f"{name} has not improved for {self.progress.evaluations_without_gain} evaluations",
                        f"stopping; the best checkpoint is step {self.progress.best_step}",
                        self.progress.step,
                    )
                )


def peak_memory_gb(device: torch.device) -> float:
    """Highest memory so far in 10⁹ bytes: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class CheckpointStore:
    """Saves and restores a trainer."""

    def __init__(self, run: Any, keep: int, world: World, export: Callable[[Any], None] | None = None) -> None:
        self.run, self.keep, self.world, self.export = run, keep, world, export

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the trainer's state; older ones are pruned, never the best."""
        progress = trainer.progress
        states = self.world.gather(checkpoint.random_state())
        if self.world.is_main and not (self.run.checkpoints / f"step-{progress.step:08d}").exists():
            snapshot = checkpoint.Snapshot(
                step=progress.step,
                weights=trainer.masters.state(),
                optimizer=trainer.optimizer.state_dict(),
                progress={
                    "best": progress.best,
                    "best_step": progress.best_step,
                    "evaluations_without_gain": progress.evaluations_without_gain,
                    "computed_tokens": progress.computed_tokens,
                    "train_seconds": progress.train_seconds,
                    "method_state": trainer.method.state.model_dump(mode="json"),
                    "alerts": trainer.alerts.state_dict(),
                },
                random={str(rank): state for rank, state in enumerate(states)},
            )
            path = checkpoint.save(self.run.checkpoints, snapshot, self.export)
            self.run.log_event("checkpoint", step=progress.step, path=path.name)
            checkpoint.prune(self.run.checkpoints, self.keep, {progress.best_step} if progress.best_step else set())
        self.world.barrier()

    def restore(self, trainer: Trainer) -> bool:
        """Bring the trainer to the newest checkpoint; False if there is none.

        Lines that the resumed run will write again are removed; the record of a complete run is left as it is.
        """
        writes = self.world.is_main and not self.run.is_complete
        if writes:
            checkpoint.clean(self.run.checkpoints)
        found = checkpoint.complete(self.run.checkpoints)
        if not found:
            if writes:
                self.run.truncate_after(-1)
            return False
        snapshot = checkpoint.load(found[-1])
        trainer.masters.load(snapshot.weights)
        trainer.optimizer.load_state_dict(snapshot.optimizer)
        values = snapshot.progress
        trainer.method.state = trainer.method.State.model_validate(values.pop("method_state"))
        trainer.alerts.load_state_dict(values.pop("alerts"))
        trainer.progress = Progress(step=snapshot.step, **values)
        own = snapshot.random.get(str(self.world.rank)) or snapshot.random["0"]
        checkpoint.restore_random_state(own)
        if writes:
            self.run.truncate_after(snapshot.step, evaluated=False)
        return True
