"""What a worker on a GPU measures about itself: CUDA events instead of clocks, so that measuring makes nobody wait."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.measure import Recorder, installed_versions, resident_bytes, torch_threads


class Measured(Exception):  # not an error: the last step to be measured is done
    """Ends a training where the measurement ends: neither side writes its model."""


@dataclass
class DeviceRecorder(Recorder):
    """A `Recorder` that marks the ends of optimiser steps on the device. After the last one it raises `Measured`.

    Args:
        device: "cuda" or "cpu" (where a mark is a clock, and memory the process's).
        steps: measured steps; two warm-up steps come before them (the first one sets libraries up).
    """

    device: str = "cuda"
    steps: int = 3
    ends: list[Any] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)

    warm_up = 2

    def start(self) -> None:
        """Begin to listen to optimiser steps."""
        super().start()
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def _stepped(self, *_: Any) -> None:
        if self.device == "cuda":
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.ends.append(event)
        else:
            self.ends.append(time.perf_counter())
        self.tokens.append((self.grad_tokens, self.no_grad_tokens))
        if len(self.ends) == self.warm_up + self.steps:
            raise Measured

    def device_result(self, losses: list[float]) -> dict[str, Any]:
        """Step times, peak memory and tokens of the measured window. Raises RuntimeError when steps are missing."""
        if len(self.ends) != self.warm_up + self.steps:
            raise RuntimeError(f"{len(self.ends)} optimiser steps ran, not {self.warm_up + self.steps}")
        peak = resident_bytes("VmHWM") - self.baseline_bytes
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
        window = self.ends[self.warm_up - 1 :]
        seconds = [a.elapsed_time(b) / 1000 if self.device == "cuda" else b - a for a, b in pairwise(window)]
        first, last = self.tokens[self.warm_up - 1], self.tokens[-1]
        return {
            "steps": self.steps,
            "seconds": sum(seconds),
            "step_seconds": seconds,
            "peak_bytes": peak,
            "grad_tokens": last[0] - first[0],
            "reference_tokens": last[1] - first[1],
            "losses": losses,
            "versions": installed_versions(),
            "threads": torch_threads(),
        }
