"""Where the time and memory of an online step go. Runs in every contender's environment: torch and nothing of ours.

A worker marks what is sampling and what is scoring; everything else of a step is its update: log-probs of the old
policy and of the reference, advantages, forward, backward, clipping, optimiser, metrics. So the phases add up to the
step.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Mark, Recorder, installed_versions, reset_peak, resident_bytes, torch_threads

UPDATE = "update"


@dataclass
class Spent:
    """What one phase took since the start of the process."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    grad_tokens: int = 0
    """token positions through the trunk with gradient, padding included"""
    no_grad_tokens: int = 0
    """the same without gradient"""
    peak_bytes: int = 0
    """greatest memory in this phase over the post-import baseline"""

    def since(self, earlier: Spent) -> dict[str, float]:
        """What it took after `earlier`; the peak is that of the whole run."""
        return {
            "seconds": self.seconds - earlier.seconds,
            "cpu_seconds": self.cpu_seconds - earlier.cpu_seconds,
            "grad_tokens": self.grad_tokens - earlier.grad_tokens,
            "no_grad_tokens": self.no_grad_tokens - earlier.no_grad_tokens,
            "peak_bytes": self.peak_bytes,
        }


@dataclass
class Work:
    """What was done since the start of the process: it has to be the same on both sides."""

    completions: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    """tokens in the policy's loss, every pass counted"""
    rewarded: int = 0
    reward_seconds: float = 0.0
    """inside of the reward function itself, wherever it runs"""

    def since(self, earlier: Work) -> dict[str, float]:
        """What was done after `earlier`."""
        return {name: value - getattr(earlier, name) for name, value in vars(self).items()}


@dataclass
class PhaseRecorder(Recorder):
    """A `Recorder` that knows phases. Made after the imports and before the model is loaded.

    Args:
        updates: optimiser steps on each rollout batch; a "step" of the benchmark is a rollout batch with all of them.
        device: where the model computes; "cuda" measures the device's memory and waits for it at the ends of phases.
    """

    updates: int = 1
    device: str = "cpu"
    spent: dict[str, Spent] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    _open: list[str] = field(default_factory=lambda: [UPDATE])
    _last: tuple[float, float, int, int] = (0.0, 0.0, 0, 0)
    _snapshots: list[tuple[dict[str, Spent], Work]] = field(default_factory=list)

    def start(self) -> None:
        """See `Recorder`."""
        super().start()
        if self.device == "cuda":
            self.baseline_bytes = 0
        self._last = self._now()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to `name`. Only the main thread has phases."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def rewarding(self, function: Callable[..., list[float]]) -> Callable[..., list[float]]:
        """The reward function, timed and counted inside; on either side it may run beside other work."""

        @functools.wraps(function)
        def timed(completions: list[str], **columns: Any) -> list[float]:
            start = time.perf_counter()
            found = function(completions, **columns)
            self.work.reward_seconds += time.perf_counter() - start
            self.work.rewarded += len(found)
            return found

        return timed

    def sampled(self, lengths: Sequence[int]) -> None:
        """Completions of these many tokens were sampled."""
        self.work.completions += len(lengths)
        self.work.generated_tokens += sum(lengths)

    def _now(self) -> tuple[float, float, int, int]:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time(), self.grad_tokens, self.no_grad_tokens

    def _charge(self) -> None:
        now = self._now()
        spent = self.spent.setdefault(self._open[-1], Spent())
        spent.seconds += now[0] - self._last[0]
        spent.cpu_seconds += now[1] - self._last[1]
        spent.grad_tokens += now[2] - self._last[2]
        spent.no_grad_tokens += now[3] - self._last[3]
        spent.peak_bytes = max(spent.peak_bytes, self._take_peak() - self.baseline_bytes)
        self._last = now

    def _take_peak(self) -> int:
        """The greatest memory since the last call."""
        if self.device == "cuda":
            import torch

            peak = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return peak
        peak = resident_bytes("VmHWM")
        reset_peak()
        return peak

    def _stepped(self, *_: Any) -> None:
        self._charge()
        peak = self.baseline_bytes + max(s.peak_bytes for s in self.spent.values())
        self.marks.append(Mark(self._last[0], self._last[1], peak, self.grad_tokens, self.no_grad_tokens))
        copies = {name: Spent(**vars(s)) for name, s in self.spent.items()}
        self._snapshots.append((copies, Work(**vars(self.work))))

    def result(self, losses: list[float], ahead_share: float = 0.0) -> dict[str, Any]:
        """The measured window: from the end of the first rollout batch's last optimiser step to the end of the last.

        Args:
            losses: one for each rollout batch, the first included.
            ahead_share: must be 0; nothing is computed ahead of sampling.

        Raises:
            RuntimeError: their number is not that of the rollout batches that were trained on.
        """
        batches, rest = divmod(len(self.marks), self.updates)
        if rest or len(losses) != batches or batches < 2 or ahead_share:
            raise RuntimeError(
                f"{len(losses)} losses for {len(self.marks)} optimiser steps, {self.updates} on each rollout batch"
            )
        first, last = self.marks[self.updates - 1], self.marks[-1]
        (before, done_before), (after, done) = self._snapshots[self.updates - 1], self._snapshots[-1]
        return {
            "steps": batches - 1,
            "seconds": last.wall - first.wall,
            "cpu_seconds": last.cpu - first.cpu,
            "ahead_seconds": 0.0,
            "peak_bytes": last.peak_bytes - self.baseline_bytes,
            "baseline_bytes": self.baseline_bytes,
            "grad_tokens": last.grad_tokens - first.grad_tokens,
            "reference_tokens": last.no_grad_tokens - first.no_grad_tokens,
            "uncharged_tokens": 0,
            "losses": losses,
            "versions": installed_versions(),
            "threads": torch_threads(),
            "phases": {name: spent.since(before.get(name, Spent())) for name, spent in after.items()},
            "work": done.since(done_before),
        }
