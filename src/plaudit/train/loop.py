"""The training loop: one for every method. Where its steps come from is a `StepSource`'s matter.

An interrupted run goes on by the same command and ends with the same bytes: the order of the data is a function of
seed and step, and a checkpoint holds everything else that a step depends on, rollouts included. It is written before
any evaluation of its step, so a crash while evaluating loses nothing.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from plaudit.config.schema import RunConfig
from plaudit.errors import TrainingError
from plaudit.methods.base import Method, Role
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.runs.alert_history import History
from plaudit.runs.alerts import Alert, AlertRules
from plaudit.runs.metrics import is_better
from plaudit.runs.observer import Observers
from plaudit.train.checkpoint_store import CheckpointStore
from plaudit.train.evaluation import Evaluation
from plaudit.train.interrupt import Halted, Interrupted, StepAbandoned, StopRequest
from plaudit.train.kl_grid import KLGrid
from plaudit.train.moving_reference import MovingReference
from plaudit.train.optimizer import (
    clip_by_role,
    learning_rate_factor,
    norm_over,
    set_learning_rates,
    step_unless_not_finite,
)
from plaudit.train.parallel import World
from plaudit.train.progress import Progress
from plaudit.train.schedule import Schedule
from plaudit.train.source import StepSource
from plaudit.train.step import StepRunner, Stream, Totals

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
    weights: Mapping[Role, Mapping[str, torch.nn.Parameter]]
    """the masters of each trained role"""
    peaks: Mapping[Role, float]
    """peak learning rate of each"""
    limits: Mapping[Role, float | None]
    """gradient norm that each is clipped at"""
    runner: StepRunner
    world: World
    source: StepSource
    """what each step trains on"""
    evaluation: Evaluation
    schedule: Schedule
    observers: Observers
    alerts: AlertRules
    store: CheckpointStore
    grid: KLGrid
    identity: Mapping[str, str] = field(default_factory=dict)
    """what the run started from, as fingerprints; a resumed run must start from the same"""
    sampler: Sampler | None = None
    moving: MovingReference | None = None
    progress: Progress = field(default_factory=Progress)
    stop: StopRequest = field(default_factory=StopRequest)
    last_eval: dict[str, float] = field(default_factory=dict)
    _pending: Totals = field(default_factory=Totals)
    _window: tuple[float, int, int] = (0.0, 0, 0)
    """start of the current log window: time, step, computed tokens"""

    # -- the run

    def run(self) -> None:
        """Train to the end of the schedule, or until early stopping, an alert of `watch.stop` or a signal.

        Raises:
            Interrupted: after a signal, Halted: after such an alert; both with the state written.
            TrainingError: PL402 for a loss or gradient that is not finite, PL403 and PL404 at the first step.
        """
        with self.stop.catching():
            self._first_evaluation()
            self._start_clock()
            while self.progress.step < self.schedule.total_steps and not self._stopped_early():
                try:
                    self._train_step()
                except StepAbandoned:
                    self._leave()
                done = self.progress.step
                signum = self._agreed_signal()
                # A log window spans no planned checkpoint, and one that a signal asks for holds the window's sums: a
                # resumed
                # run writes the same lines.
                if done == 1 or done % (self.config.log.every or 1) == 0 or self.schedule.checkpoints_after(done):
                    self._report_step()
                if signum or self.schedule.checkpoints_after(done) or self.progress.crossed or self.progress.stopping:
                    self.store.save(self)
                if signum:
                    raise Interrupted(signum, f"stopped after step {done} of {self.schedule.total_steps}", done)
                self._behind_checkpoint()

    def _leave(self) -> NoReturn:
        """Stop before the next step, which has not begun; before the first one there is nothing to keep."""
        done = self.progress.step
        if done:
            self.store.save(self)
        signum = max(self.world.gather(self.stop.signum))
        raise Interrupted(signum, f"stopped after step {done} of {self.schedule.total_steps}", done)

    def _first_evaluation(self) -> None:
        done = self.progress.step
        if done:
            self._behind_checkpoint()
        elif self.config.eval.at_start and self.schedule.eval_every is not None:
            self._evaluate()
        elif self.schedule.eval_every is not None:
            # A part tells whether eval.best_metric exists before hours are spent on steps.
            self.try_evaluation()

    def try_evaluation(self) -> dict[str, float]:
        """Evaluate a small part: nothing of it stays.

        Raises:
            TrainingError: PL405, `eval.best_metric` is none of the metrics.
        """
        metrics = self._evaluated(part=True)
        self._check_best_metric(metrics)
        return metrics

    def _behind_checkpoint(self) -> None:
        """What follows a step's checkpoint: an evaluation, a model of the KL grid, a stop. A run that is killed
        meanwhile does it again."""
        crossed = self.progress.crossed is not None
        if self.schedule.evaluates_after(self.progress.step) or (crossed and self.schedule.eval_every is not None):
            self._evaluate()
            self._start_clock()
        if crossed:
            numbers = {n: v for n, v in self.progress.last_metrics.items() if n == "reward"} | self.last_eval
            if told := self.grid.keep(self.progress, numbers):
                self.observers.on_message(told)
            self._start_clock()
        self._stop_if_told()

    def _stop_if_told(self) -> None:
        """Raise Halted where an alert of `watch.stop` was raised and the run would go on."""
        told, done = self.progress.stopping, self.progress.step
        if told is None:
            return
        if told["code"] not in self.config.watch.stop:
            self.progress.stopping = None  # the user has taken it out: the same cause does not count again
        elif done < self.schedule.total_steps and not self._stopped_early():
            where = f"after step {done} of {self.schedule.total_steps}"
            message = f"{told['code']} has stopped the run {where}: {told['message']}"
            raise Halted(told["code"], done, message, self.progress.best_step)

    def _agreed_signal(self) -> int:
        return max(self.world.gather(self.stop.signum)) if self.world.size > 1 else self.stop.signum

    def _stopped_early(self) -> bool:
        patience = self.config.eval.early_stopping_patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    # -- one step

    def _train_step(self) -> None:
        step, own = self.progress.step, Totals()
        streams = self.source.streams(step, own)
        if streams:
            self._optimise(step, streams, own)
        self._pending.merge(own)
        if streams and self.method.updates_state():
            self.method.after_step(own.read(self.world))
        self.source.after_step(step, own)
        self.progress.step += 1
        if self.moving and (share := self.method.reference_mix(self.progress.step)):
            self.moving.move(share)

    def _optimise(self, step: int, streams: Sequence[Stream], own: Totals) -> None:
        before = self.runner.computed_tokens
        self._train_mode(True)
        self.runner.gradients(streams, own)
        self.progress.computed_tokens += self.runner.computed_tokens - before
        self._check_first_gradients(step, streams)
        self.world.sum_gradients(self.masters.parameters)
        norms = clip_by_role(self.weights, self.limits)
        for role, found in norms.items():
            name = "grad_norm" if role != "critic" else "critic/grad_norm"
            own.add(name, found.detach(), torch.ones_like(found))
        norm = norm_over(norms.values())
        factor = learning_rate_factor(self.config.train, step, self.schedule.total_steps)
        set_learning_rates(self.optimizer, self.peaks, factor)
        step_unless_not_finite(self.optimizer, norm)
        self.masters.publish()
        self.masters.clear_gradients()

    def _train_mode(self, on: bool) -> None:
        # Of those that are trained: a reference with a model of its own stays as it is.
        for role in set(self.method.terms.values()):
            self.runner.models[role].train(on)

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        assert self.config.train.learning_rate is not None
        return self.config.train.learning_rate * learning_rate_factor(
            self.config.train, step, self.schedule.total_steps
        )

    def _check_first_gradients(self, step: int, streams: Sequence[Stream]) -> None:
        # A term without a factor (a critic that learns alone at first) or without a signal reaches nothing.
        if step != 0 or any(set(s.roles()) != set(s.method.terms.values()) or not s.computed() for s in streams):
            return
        missing = self.masters.without_gradient()
        if missing and len(missing) == len(self.masters.weights):
            raise TrainingError(
                "PL403",
                "no trainable parameter received a gradient",
                where=missing[0],
                mend="check lora.target_modules and lora.modules_to_save, and report it if they are as usual",
            )
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
        pairs = {name: (total, count) for name, (total, count) in values.items()}
        self._pending.add_host(pairs, self.world, self.model.device)

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
        if self.progress.step == 1:
            self._check_kl(metrics)
        self.observers.on_step(self.progress.step, self.schedule.total_steps, metrics)
        self._check_alerts(metrics)
        self.grid.look(self.progress, self.alerts.recent("kl", metrics))
        broken = [n for n in ("loss", "grad_norm", "critic/grad_norm") if not math.isfinite(metrics.get(n, 0.0))]
        if broken:
            raise TrainingError(
                "PL402",
                f"{' and '.join(broken)} not finite {_between(first + 1, self.progress.step)}; the weights were not "
                "updated with it",
                mend="lower train.learning_rate, check the data for extreme rows, or use model.precision=fp32, "
                "and start another run (run.dir=…); the same command goes on from the last checkpoint as it was",
                where=_between(first + 1, self.progress.step),
            )

    def _check_alerts(self, metrics: Mapping[str, float]) -> None:
        for alert in self.alerts.check(self.progress.step, metrics):
            self.observers.on_alert(alert)
            if alert.code in self.config.watch.stop and self.progress.stopping is None:
                self.progress.stopping = {"code": alert.code, "message": alert.message}

    def _check_kl(self, metrics: Mapping[str, float]) -> None:
        """What the KL is to decide needs a method that measures it."""
        asked = [f"watch.stop={code}" for code in self.config.watch.stop if code.startswith("kl_")]
        asked += ["checkpoint.kl_grid"] if self.grid.values else []
        if asked and "grad_norm" in metrics and "kl" not in metrics:
            raise TrainingError(
                "PL405", f"{self.method.name} does not measure the KL to a reference (metric kl)", where=asked[0],
                mend="remove it, or use a method that does",
            )  # fmt: skip

    def _check_invariants(self, metrics: Mapping[str, float]) -> None:
        """At the very first step the policy is its own reference, and what sampled: some metrics are known."""
        if self.progress.step != 1 or (self.config.lora is not None and self.config.lora.dropout > 0):
            return
        # fp32 sums of a few hundred log-probs agree to about 1e-4; bf16 depends on how a sequence was packed.
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.25
        for name, expected in self.method.at_start.items():
            # A metric is absent when nothing counted in it: the rewards of a class without an answer.
            if abs(metrics.get(name, expected) - expected) > tolerance:
                raise TrainingError(
                    "PL404",
                    f"{name} is {metrics[name]:.4g} at the first step, not {expected:g}: what the policy is held "
                    "against is not its starting state",
                    mend="delete the cache of reference log-probs (run.reference_cache) and report this",
                    where=name,
                )

    # -- evaluation

    def _evaluate(self) -> None:
        self.last_eval = self._evaluated()
        self.observers.on_eval(self.progress.step, self.last_eval)
        self._check_alerts({name: value for name, value in self.last_eval.items() if History.watches(name)})
        self._judge()
        if self.sampler is not None and (self.world.is_main or self.model.sharded):
            self.observers.on_samples(self.progress.step, list(self.sampler()))
        self.world.barrier()

    def _evaluated(self, *, part: bool = False) -> dict[str, float]:
        self._train_mode(False)
        metrics = self.evaluation.measure(self.progress.step, part=part)
        self._train_mode(True)
        return {f"eval/{name}": value for name, value in metrics.items()}

    def _judge(self) -> None:
        name = self.config.eval.best_metric
        assert name is not None
        if self.progress.best_step is None and self.progress.evaluations_without_gain == 0:
            self._check_best_metric(self.last_eval)
        value = self.last_eval.get(name, math.nan)  # one without it, as of answers that all failed, is no better
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
