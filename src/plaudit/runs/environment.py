"""What a run ran on: recorded so that a difference between two runs can be explained."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("plaudit", "torch", "transformers", "peft", "datasets", "safetensors", "tokenizers", "numpy")
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTHONHASHSEED",
    "WORLD_SIZE",
)
"""Environment variables that change speed or results. No other variable is recorded: they may hold secrets."""


@cache  # to read a package's own description takes longer than a small run's step
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str | None]:
    """Installed version of each package that bears on results; None when it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state(directory: Path) -> dict[str, Any] | None:
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "uncommitted_changes": bool(_git(directory, "status", "--porcelain"))}


def collect() -> dict[str, Any]:
    """Python, platform, packages, processors, thread settings, git state of the working directory, command line."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "cpu_count": os.cpu_count(),
        "cpus_usable": affinity,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "working_directory": os.getcwd(),
        "git": _git_state(Path.cwd()),
        "argv": sys.argv,
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two environments and may change results: Python, platform, packages, threads."""
    changes: list[str] = []
    for key in ("python", "platform", "cpus_usable"):
        if old.get(key) != new.get(key):
            changes.append(f"{key}: {old.get(key)} → {new.get(key)}")
    for section in ("packages", "variables"):
        before, after = old.get(section) or {}, new.get(section) or {}
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                changes.append(f"{name}: {before.get(name)} → {after.get(name)}")
    return changes
