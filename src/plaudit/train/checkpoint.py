"""Checkpoints that cannot be half-written.

A checkpoint is written into a hidden folder, flushed to the disk and renamed; only a folder with its final name is
ever read, so killing the process at any moment leaves the previous checkpoint intact. A manifest with sizes and
hashes is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plaudit.errors import RunError
from plaudit.runs.checkpoints import HIDDEN, PROGRESS_NAME, complete, delete, name_of, step_of

STATE = "state"
"""Folder with the tensors of a checkpoint that several processes have written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint holds."""

    step: int
    weights: dict[str, Tensor]
    """fp32 masters of everything trained, by name; empty where they are sharded"""
    optimizer: dict[str, Any]
    progress: dict[str, Any]
    """JSON: counters, method state, alert state, best metric, …"""
    random: dict[str, Any]
    frozen: dict[str, Tensor] = field(default_factory=dict)
    """fp32 weights that are not trained and yet change (a moving reference), by name"""
    source: Any = None
    """what a `StepSource` has between two steps (a rollout batch that is half used): plain values and tensors"""


def random_state() -> dict[str, Any]:
    """State of every random generator a run may use."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # the legacy generator is state too
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (
            name,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every generator back."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def hidden_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is renamed."""
    return folder / f"{HIDDEN}{step:08d}-{os.getpid()}"


def save(folder: Path, snapshot: Snapshot, extra: Callable[[Path], None] | None = None) -> Path:
    """Write a checkpoint and return its final path.

    Args:
        extra: called with the hidden folder to add files (an adapter in PEFT's format).

    Raises:
        RunError: PL505 when it cannot be written (disk full, read-only, …); the previous checkpoint stays.
    """
    hidden = hidden_folder(folder, snapshot.step)
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        for name, weights in (("weights", snapshot.weights), ("frozen", snapshot.frozen)):
            if weights:
                on_host = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
                save_file(on_host, hidden / f"{name}.safetensors")
        torch.save(snapshot.optimizer, hidden / "optimizer.pt")
        write_files(hidden, snapshot, extra)
        write_manifest(hidden, {})
        return publish(hidden, folder, snapshot.step)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # the last two are how torch and safetensors report a full disk
        shutil.rmtree(hidden, ignore_errors=True)
        raise unwritable(folder, snapshot.step, error, _size(snapshot)) from error


def _size(snapshot: Snapshot) -> int:
    """Bytes of the tensors of a checkpoint."""
    moments = [value for state in snapshot.optimizer.get("state", {}).values() for value in state.values()]
    tensors = [*snapshot.weights.values(), *snapshot.frozen.values(), *moments]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def write_files(hidden: Path, snapshot: Snapshot, extra: Callable[[Path], None] | None) -> None:
    """Write everything of a checkpoint but the tensors of weights and optimiser."""
    torch.save(snapshot.random, hidden / "random.pt")
    if snapshot.source is not None:
        torch.save(snapshot.source, hidden / "source.pt")
    progress = {"step": snapshot.step, **snapshot.progress}
    (hidden / PROGRESS_NAME).write_text(json.dumps(progress, indent=1), encoding="utf-8")
    if extra is not None:
        extra(hidden)


def publish(hidden: Path, folder: Path, step: int) -> Path:
    """Give a checkpoint that is complete its name."""
    final = folder / name_of(step)
    delete(final)
    hidden.rename(final)
    _sync(folder)
    return final


def unwritable(folder: Path, step: int, error: BaseException, needed: int = 0) -> RunError:
    """The error of a checkpoint that cannot be written.

    Args:
        needed: bytes that it takes; 0 = not known.
    """
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
    room = ""
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        room = f"; it takes {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free" if needed else ""
    return RunError(
        "PL505",
        f"the checkpoint of step {step} cannot be written: {reason}{room}",
        where=str(folder),
        mend="make room or permit writing, then give the same command: it resumes from the previous checkpoint",
    )


def is_sharded(path: Path) -> bool:
    """Whether the tensors of a checkpoint were written by several processes (`plaudit.train.sharded_checkpoint`)."""
    return (path / STATE).is_dir()


def load(path: Path, rank: int = 0, size: int = 1) -> Snapshot:
    """Read a checkpoint; of one whose tensors are sharded all but weights and optimiser.

    Args:
        rank, size: of `size` processes that read it together each checks its share of the files.

    Raises:
        RunError: PL502 when a file is missing or not what was written.
    """
    _check_manifest(path, rank, size)
    progress = json.loads((path / PROGRESS_NAME).read_text(encoding="utf-8"))
    return Snapshot(
        step=progress.pop("step"),
        weights={} if is_sharded(path) else load_file(path / "weights.safetensors"),
        optimizer={} if is_sharded(path) else _load_optimizer(path),
        progress=progress,
        random=torch.load(path / "random.pt", weights_only=True, map_location="cpu"),
        frozen=load_file(path / "frozen.safetensors") if (path / "frozen.safetensors").exists() else {},
        source=_load_source(path / "source.pt"),
    )


def _load_optimizer(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    return found


def _load_source(file: Path) -> Any:
    return torch.load(file, weights_only=True, map_location="cpu") if file.exists() else None


def prune(folder: Path, keep: int, protected: set[int]) -> list[int]:
    """Delete all but the newest `keep` checkpoints and the protected steps; returns the deleted steps."""
    removed = []
    for path in complete(folder)[:-keep]:
        if step_of(path) not in protected:
            delete(path)
            removed.append(step_of(path))
    return removed


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "manifest.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def entries_of(path: Path, rank: int = 0, size: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """(name, size and hash) of a checkpoint's files; of `size` processes each makes its share."""
    return [(name, _entry(path / name)) for name in _names(path)[rank::size]]


def _names(path: Path) -> list[str]:
    return [str(p.relative_to(path)) for p in _files(path)]


def _entry(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake2b": _digest(file)}


def write_manifest(path: Path, known: Mapping[str, Any]) -> None:
    """Write what the files of a checkpoint are, and flush them.

    Args:
        known: entries that are known already.
    """
    entries = {name: known.get(name) or _entry(path / name) for name in _names(path)}
    (path / "manifest.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    for file in (*_files(path), path / "manifest.json"):
        _sync(file)
    _sync(path)


def _check_manifest(path: Path, rank: int, size: int) -> None:
    try:
        entries = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        damaged = [name for name, entry in list(entries.items())[rank::size] if not _is_intact(path / name, entry)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged = ["manifest.json"]
    if damaged:
        raise RunError(
            "PL502",
            f"the checkpoint is damaged: {', '.join(damaged)}",
            where=str(path),
            mend="delete this folder and run the same command again: it resumes from the checkpoint before it",
        )


def _is_intact(file: Path, entry: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == entry["bytes"] and _digest(file) == entry["blake2b"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
