"""Python, packages, processors: is what is installed what the program needs, and does it use what the machine has?"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from plaudit.config.load import Resolved
from plaudit.config.packages import need_training_packages
from plaudit.preflight.findings import Finding
from plaudit.runs.sinks import need_trackers

_SHOWN = ("torch", "transformers", "peft")
_GPU = (Path("/dev/nvidia0"), Path("/proc/driver/nvidia/version"))
_MANY_CORES = 4


def environment() -> Iterator[Finding]:
    """Findings about packages and the device.

    Raises:
        ConfigError: PL103, a package is missing or too old.
    """
    need_training_packages()
    import torch

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        device = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    else:
        device = f"CPU, threads: {torch.get_num_threads()}, cores: {cores}"
    yield Finding("OK", "environment", f"Python {platform.python_version()}, {versions}; {device}")
    if not torch.cuda.is_available() and any(place.exists() for place in _GPU):
        yield _unused_gpu(torch.__version__, torch.version.cuda)
    elif not torch.cuda.is_available():
        yield from _threads(torch.get_num_threads(), cores)


def trackers(resolved: Resolved) -> Iterator[Finding]:
    """Whether the trackers of `log.sinks` are installed; nothing is said where they are.

    Raises:
        RunError: PL506, one is not.
    """
    need_trackers(resolved.run.log.sinks)
    yield from ()


def _unused_gpu(version: str, cuda: str | None) -> Finding:
    if cuda is None:
        text = f"this machine has an NVIDIA GPU, and torch {version} is a build for CPUs"
        mend = "install a build of torch for CUDA, then look with: python -c 'import torch; print(torch.version.cuda)'"
    else:
        text = f"this machine has an NVIDIA GPU, and torch {version} (CUDA {cuda}) cannot use it"
        mend = "look with nvidia-smi: the driver may be older than that CUDA, or CUDA_VISIBLE_DEVICES may hide the GPU"
    return Finding("WARN", "environment", text, mend)


def _threads(threads: int, cores: int) -> Iterator[Finding]:
    given = os.environ.get("OMP_NUM_THREADS")
    if threads > cores:
        text = f"{threads} threads share {cores} cores, which makes all of them slower"
        yield Finding("WARN", "environment", text, f"OMP_NUM_THREADS={cores} in front of the command")
    elif threads == 1 and cores >= _MANY_CORES and given is not None:
        text = f"OMP_NUM_THREADS={given} leaves {cores - 1} of {cores} cores unused"
        yield Finding("WARN", "environment", text, "unset OMP_NUM_THREADS, unless other work needs the cores")
