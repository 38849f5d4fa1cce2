"""What a worker process measures about itself. Runs in every contender's environment: torch and nothing of ours.

Both sides are timed by the same means, outside of either library: a global hook on `torch.optim` marks the end of every
optimiser step, and the model's trunk counts the tokens that pass through it.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

KIB = 1024
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy", "trl", "plaudit")


def resident_bytes(key: str = "VmRSS") -> int:
    """A line of /proc/self/status in bytes: VmRSS (now) or VmHWM (peak since the last reset)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * KIB
    raise OSError(f"/proc/self/status has no {key}")


def reset_peak() -> None:
    """Set the kernel's peak-resident mark of this process to its present size. Raises PermissionError if forbidden."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@dataclass(frozen=True)
class Mark:
    """The state at the end of one optimiser step. Tokens are counted since the start of the process."""

    wall: float
    cpu: float
    peak_bytes: int
    grad_tokens: int
    """Token positions through the trunk with gradient (padding included)."""
    no_grad_tokens: int
    """The same without gradient: the reference forward."""
    flops: float = 0.0
    """Floating-point operations, where somebody counts them."""


@dataclass
class Recorder:
    """Collects a mark per optimiser step. Make it after the imports and before the model is loaded."""

    marks: list[Mark] = field(default_factory=list)
    baseline_bytes: int = 0
    grad_tokens: int = 0
    no_grad_tokens: int = 0
    ahead_wall: float = 0.0
    """Seconds, CPU seconds and token positions of work that a side does before its first step for all steps."""
    ahead_cpu: float = 0.0
    ahead_tokens: int = 0
    ahead_flops: float = 0.0
    count_flops: Callable[[], float] | None = None
    """Floating-point operations since the start (benchmarks/flops.py)."""

    def start(self) -> None:
        """Take the memory baseline and begin to listen to optimiser steps."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        reset_peak()
        self.baseline_bytes = resident_bytes()
        register_optimizer_step_post_hook(self._stepped)

    def count_tokens(self, trunk: type[Any]) -> None:
        """Count token positions in every call of `trunk.forward` (the decoder without the head)."""
        import torch

        forward: Callable[..., Any] = trunk.forward

        @functools.wraps(forward)
        def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
            ids = args[0] if args else kwargs.get("input_ids")
            positions = ids.numel() if ids is not None else kwargs["inputs_embeds"].shape[:-1].numel()
            if torch.is_grad_enabled():
                self.grad_tokens += positions
            else:
                self.no_grad_tokens += positions
            return forward(module, *args, **kwargs)

        trunk.forward = counted

    def charge_ahead(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what computes ahead (a reference, say): its calls before the first optimiser step are charged."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu, tokens = time.perf_counter(), time.process_time(), self.no_grad_tokens
            flops = self._flops()
            try:
                return function(*args, **kwargs)
            finally:
                if not self.marks:
                    self.ahead_wall += time.perf_counter() - wall
                    self.ahead_cpu += time.process_time() - cpu
                    self.ahead_tokens += self.no_grad_tokens - tokens
                    self.ahead_flops += self._flops() - flops

        return timed

    def _flops(self) -> float:
        return 0.0 if self.count_flops is None else self.count_flops()

    def _stepped(self, *_: Any) -> None:
        peak, tokens = resident_bytes("VmHWM"), (self.grad_tokens, self.no_grad_tokens)
        self.marks.append(Mark(time.perf_counter(), time.process_time(), peak, *tokens, self._flops()))

    def result(self, losses: list[float], ahead_share: float = 0.0) -> dict[str, Any]:
        """The measured window: from the end of the first (warm-up) step to the end of the last.

        losses: one per optimiser step, the warm-up included. Raises RuntimeError when their number is not the number of
        optimiser steps that really ran.
        ahead_share: the part of the work done ahead that belongs to the window's rows; it is added to the window's time
        and tokens.
        """
        if len(losses) != len(self.marks):
            raise RuntimeError(f"{len(losses)} losses were reported for {len(self.marks)} optimiser steps")
        first, last = self.marks[0], self.marks[-1]
        return {
            "steps": len(self.marks) - 1,
            "seconds": last.wall - first.wall + ahead_share * self.ahead_wall,
            "cpu_seconds": last.cpu - first.cpu + ahead_share * self.ahead_cpu,
            "ahead_seconds": ahead_share * self.ahead_wall,
            "peak_bytes": last.peak_bytes - self.baseline_bytes,
            "baseline_bytes": self.baseline_bytes,
            "grad_tokens": last.grad_tokens - first.grad_tokens,
            "reference_tokens": last.no_grad_tokens - first.no_grad_tokens + round(ahead_share * self.ahead_tokens),
            "uncharged_tokens": first.no_grad_tokens - self.ahead_tokens,
            "flops": last.flops - first.flops + ahead_share * self.ahead_flops,
            "losses": losses,
            "versions": installed_versions(),
            "threads": torch_threads(),
        }


def trunk_of(model: str | Path) -> type[Any]:
    """The class of a saved model's trunk."""
    from transformers import MODEL_MAPPING, AutoConfig

    mapping: Any = MODEL_MAPPING
    trunk: type[Any] = mapping[type(AutoConfig.from_pretrained(model))]
    return trunk


def torch_threads() -> int:
    """Threads that torch computes with in this process."""
    import torch

    return torch.get_num_threads()


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter, where installed; the Python version too."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_job() -> dict[str, Any]:
    """The job file named on the worker's command line."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return job


def write_result(job: dict[str, Any], result: dict[str, Any]) -> None:
    """Hand the result back, by a file because libraries write to standard output. Atomic."""
    out = Path(job["out"])
    part = out.with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, out)
