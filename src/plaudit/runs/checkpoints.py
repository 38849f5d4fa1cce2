"""Which checkpoints a run has, by the names of their folders; how one is deleted so that a kill leaves none half there.

What is in them is `plaudit.train.checkpoint`'s matter; nothing here needs torch.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.runs import jsonl

_NAME = re.compile(r"step-(\d{8,})$")
HIDDEN = ".writing-"
"""Beginning of the name of a folder in which a checkpoint or a model is being written."""
GOING = ".deleting-"
"""The same of one that is being deleted."""
PROGRESS_NAME = "progress.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint on the disk."""

    path: Path
    step: int
    bytes: int
    written: float
    """seconds since the epoch"""


def name_of(step: int) -> str:
    """The folder's name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder."""
    match = _NAME.search(path.name)
    assert match, path
    return int(match.group(1))


def complete(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=step_of)


def stored(folder: Path) -> list[Stored]:
    """`complete` with what each takes; one that is deleted meanwhile is left out."""
    found = []
    for path in complete(folder):
        try:
            found.append(Stored(path, step_of(path), size_of(path), path.stat().st_mtime))
        except OSError:
            continue
    return found


def unfinished(folder: Path) -> list[Path]:
    """What a killed process has left half-written or half-deleted (or a living one is at)."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith((HIDDEN, GOING)))


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written or half-deleted."""
    for path in unfinished(folder):
        shutil.rmtree(path, ignore_errors=True)


def delete(path: Path) -> None:
    """Delete a checkpoint; killed on the way, no folder with a checkpoint's name is left incomplete."""
    if path.exists():
        going = path.with_name(f"{GOING}{path.name}")
        shutil.rmtree(going, ignore_errors=True)
        path.rename(going)
        shutil.rmtree(going)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        try:
            total += 0 if file.is_symlink() or file.is_dir() else file.stat().st_size
        except OSError:
            continue
    return total


def progress_of(path: Path) -> dict[str, Any]:
    """What the loop had done at a checkpoint.

    Raises:
        RunError: PL504, it cannot be read.
    """
    file = path / PROGRESS_NAME
    try:
        found = jsonl.loads(file.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RunError(
            "PL504",
            "the checkpoint does not say what was done at it",
            where=str(file),
            mend="delete this checkpoint's folder: the run resumes from the one before it",
        )
    return found
