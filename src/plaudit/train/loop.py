"""The training loop: one for every offline method.

An interrupted run goes on by the same command and ends with the same bytes: the order of the data is a function of
seed and step, and a checkpoint holds everything else that a step depends on. It is written before any evaluation of
its step, so a crash while evaluating loses nothing.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
from plaudit.train.checkpoint_store import CheckpointStore
from plaudit.train.interrupt import Interrupted, StopRequest
from plaudit.train.moving_reference import MovingReference
from plaudit.train.optimizer import clip_gradients, learning_rate_factor, step_unless_not_finite
from plaudit.train.parallel import World
from plaudit.train.progress import Progress
from plaudit.train.schedule import Schedule, chunks
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import PromptGroup

Sampler = Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(slots=True)
class Trainer:
    """Everything a run needs, wired by `train.session`."""

    config: RunConfig
    method: Method
    model: ForestModel
    """what is trained"""
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
    identity: Mapping[str, str] = field(default_factory=dict)
    """what the run started from, as fingerprints; a resumed run must start from the same"""
    sampler: Sampler | None = None
    moving: MovingReference | None = None
    max_length: int | None = None
    """longest sequence that the data and the model allow"""
    progress: Progress = field(default_factory=Progress)
    stop: StopRequest = field(default_factory=StopRequest)
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
            self._start_clock()
            while self.progress.step < self.schedule.total_steps and not self._stopped_early():
                self._train_step()
                done = self.progress.step
                signum = self._agreed_signal()
                # A log window spans no planned checkpoint, and one that a signal asks for holds the window's sums: a
                # resumed
                # run writes the same lines.
                if done == 1 or done % self.config.log.every == 0 or self.schedule.checkpoints_after(done):
                    self._report_step()
                if signum or self.schedule.checkpoints_after(done):
                    self.store.save(self)
                if signum:
                    raise Interrupted(signum, f"stopped after step {done} of {self.schedule.total_steps}")
                if self.schedule.evaluates_after(done):
                    self._evaluate()
                    self._start_clock()

    def _first_evaluation(self) -> None:
        done = self.progress.step
        at_start = done == 0 and self.config.eval.at_start and self.schedule.eval_every is not None
        if at_start or self.schedule.evaluates_after(done):
            self._evaluate()
        elif done == 0 and self.schedule.eval_every is not None:
            # One batch tells whether eval.best_metric exists before hours are spent on steps.
            totals = Totals()
            batch = self.batch_of(self.eval_groups[: self.config.train.groups_per_step], 11, 0)
            self.model.eval()
            self.runner.evaluate(Stream(self.method, batch, range(len(batch.groups))), totals)
            self.model.train()
            metrics = totals.read(self.world)
            self._check_best_metric({f"eval/{name}" for name in ("loss", *metrics, *self.method.derived(metrics))})

    def _agreed_signal(self) -> int:
        return max(self.world.gather(self.stop.signum)) if self.world.size > 1 else self.stop.signum

    def _stopped_early(self) -> bool:
        patience = self.config.eval.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    # -- one step

    def batch_of(self, groups: Sequence[PromptGroup], stream: int, number: int) -> Batch:
        """A batch whose groups a method may extend, prepared with randomness that depends on seed and number alone."""
        batch = Batch([replace(g, completions=list(g.completions)) for g in groups], max_length=self.max_length)
        rng = np.random.default_rng([self.config.train.seed, stream, number])
        self.method.prepare_batch(batch, self.scorer, rng)
        return batch

    def _train_step(self) -> None:
        step = self.progress.step
        batch = self.batch_of([self.groups[i] for i in self.schedule.groups_of(step)], 10, step)
        self.model.train()
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
        if self.moving and (share := self.method.reference_mix(self.progress.step)):
            self.moving.move(share)

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        assert self.config.train.learning_rate is not None
        return self.config.train.learning_rate * learning_rate_factor(
            self.config.train, step, self.schedule.total_steps
        )

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
        self._start_clock()

    def _start_clock(self) -> None:
        self._window = (time.perf_counter(), self.progress.step, self.runner.computed_tokens)

    def pending(self) -> dict[str, list[float]]:
        """Sum and count of every metric since the last log line, over all processes; exact, because they are fp32."""
        sums, counts = self.world.sum_values(self._pending.sums), self.world.sum_values(self._pending.counts)
        return {name: [float(sums[name]), float(counts[name])] for name in sorted(sums)}

    def restore_pending(self, values: Mapping[str, Sequence[float]]) -> None:
        """Go on with what `pending` returned; the main process holds it for all."""
        self._pending = Totals()
        share = 1.0 if self.world.is_main else 0.0
        for name, (total, count) in values.items():
            self._pending.add(
                name, *(torch.tensor(x * share, dtype=torch.float32, device=self.model.device) for x in (total, count))
            )

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
            "peak_memory_gb": peak_memory_gb(self.model.device),
        }
        self.progress.last_metrics = metrics
        self._open_window()
        self._check_invariants(metrics)
        self.observers.on_step(self.progress.step, self.schedule.total_steps, metrics)
        for alert in self.alerts.check(self.progress.step, metrics):
            self.observers.on_alert(alert)
        broken = [n for n in ("loss", "grad_norm") if not math.isfinite(metrics[n])]
        if broken:
            raise TrainingError(
                "PL402",
                f"{' and '.join(broken)} not finite {_between(first + 1, self.progress.step)}; the weights were not "
                "updated with it",
                mend="lower train.learning_rate, check the data for extreme rows, or use model.precision=fp32, "
                "and start another run (run.dir=…); the same command goes on from the last checkpoint as it was",
            )

    def _check_invariants(self, metrics: Mapping[str, float]) -> None:
        """At the very first step policy and reference are the same model, so some metrics are known."""
        if self.progress.step != 1 or (self.config.lora is not None and self.config.lora.dropout > 0):
            return
        # fp32 sums of a few hundred log-probs agree to about 1e-4; bf16 depends on how a sequence was packed.
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.25
        for name, expected in self.method.at_start.items():
            # A metric is absent when nothing counted in it: the rewards of a class without an answer.
            if abs(metrics.get(name, expected) - expected) > tolerance:
                raise TrainingError(
                    "PL404",
                    f"{name} is {metrics[name]:.4g} at the first step, not {expected:g}: the reference is not the "
                    "starting state",
                    mend="delete the cache of reference log-probs (run.reference_cache) and report this",
                )

    # -- evaluation

    @torch.no_grad()
    def _evaluate(self) -> None:
        self.model.eval()
        totals = Totals()
        sums: dict[str, float] = {}
        denominators: dict[str, float] = {}
        parts = chunks(len(self.eval_groups), self.config.train.groups_per_step, self.method.min_groups)
        for number, (start, end) in enumerate(parts):
            batch = self.batch_of(self.eval_groups[start:end], 11, number)
            own, counts = self.runner.evaluate(Stream(self.method, batch, range(len(batch.groups))), totals)
            for name, value in self.world.sum_values(own).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, count in counts.items():
                denominators[name] = denominators.get(name, 0.0) + count
        coefficients = self.method.coefficients()
        loss = sum(coefficients[n] * sums[n] / denominators[n] for n in sums if denominators[n] > 0)
        metrics = {"loss": loss, **totals.read(self.world)}
        metrics |= self.method.derived(metrics)
        self.model.train()
        self.last_eval = {f"eval/{name}": value for name, value in metrics.items()}
        self.observers.on_eval(self.progress.step, self.last_eval)
        self._judge()
        if self.sampler is not None and self.world.is_main:
            self.observers.on_samples(self.progress.step, list(self.sampler()))
        self.world.barrier()

    def _judge(self) -> None:
        name = self.config.eval.best_metric
        self._check_best_metric(self.last_eval)
        value = self.last_eval[name]
        if is_better(name, value, self.progress.best):
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
                        f"stopping; the best is {_best_place(self.progress.best_step)}",
                        self.progress.step,
                    )
                )

    def _check_best_metric(self, names: Collection[str]) -> None:
        if self.config.eval.best_metric not in names:
            raise TrainingError(
                "PL405",
                f"the evaluation has no metric {self.config.eval.best_metric!r}",
                where="eval.best_metric",
                mend=f"choose one of {', '.join(sorted(names))}",
            )


def _best_place(step: int | None) -> str:
    if step is None:
        return "none of them, no value was finite"
    return f"the checkpoint of step {step}" if step else "the model as it was before the first step"


def _between(first: int, last: int) -> str:
    return f"at step {last}" if first == last else f"in one of the steps {first} to {last}"


def peak_memory_gb(device: torch.device) -> float:
    """Highest memory so far in 10⁹ bytes: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
