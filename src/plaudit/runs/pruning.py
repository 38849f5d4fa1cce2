"""Remove checkpoints of runs that are not running, by rule. The trained model, the best one and those of the KL grid
are no checkpoints and are never touched.

What always stays: the newest checkpoint (the run goes on from it), that of the best evaluation, those of steps where a
model of the KL grid was kept, and every folder that was given another name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.runs import checkpoints, jsonl, ledger
from plaudit.runs.checkpoints import Stored, progress_of, size_of
from plaudit.runs.jsonl import writing
from plaudit.runs.lock import RunLock, is_locked
from plaudit.runs.rundir import CHECKPOINTS_NAME, KL_GRID_NAME, read_config


@dataclass(frozen=True, slots=True)
class Rule:
    """Which checkpoints may go.

    Attributes:
        keep: so many of the newest stay, at least 1.
        older_than: only what was written more than so many seconds ago goes; None = of any age.
        now: seconds since the epoch that ages are counted from.
    """

    keep: int = 1
    older_than: float | None = None
    now: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning a run removes, or has removed.

    Attributes:
        path: the run directory.
        going: the checkpoints that go, oldest first.
        staying: those that stay, with the reason.
        leftovers: (folder, bytes) half-written or half-deleted by a process that was killed.
        skipped: why the run is left alone; empty where it is not.
    """

    path: Path
    going: list[Stored] = field(default_factory=list)
    staying: list[tuple[Stored, str]] = field(default_factory=list)
    leftovers: list[tuple[Path, int]] = field(default_factory=list)
    skipped: str = ""

    @property
    def bytes(self) -> int:
        """What is freed."""
        return sum(c.bytes for c in self.going) + sum(size for _, size in self.leftovers)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "path": str(self.path),
            "going": [{"step": c.step, "path": str(c.path), "bytes": c.bytes} for c in self.going],
            "staying": [{"step": c.step, "bytes": c.bytes, "reason": reason} for c, reason in self.staying],
            "leftovers": [{"path": str(folder), "bytes": size} for folder, size in self.leftovers],
            "bytes": self.bytes,
            "skipped": self.skipped,
        }


def plan_pruning(path: Path, rule: Rule) -> Pruned:
    """What `prune` would remove of a run. Nothing is changed.

    Raises:
        RunError: PL501, there is no run; PL503, it is running; PL504, the newest checkpoint or the KL grid is damaged.
    """
    read_config(path)
    if is_locked(path):
        raise _running(path)
    return _plan(path, rule)


def prune(path: Path, rule: Rule) -> Pruned:
    """Remove checkpoints of a run, holding its lock, so that no process starts to write it meanwhile.

    Each is renamed before it is deleted: killed at any moment, what has a checkpoint's name is whole, and the next call
    (or the run itself) removes what is left. The ledger has what was removed.

    Raises:
        RunError: as `plan_pruning`; PL505, something cannot be deleted.
    """
    read_config(path)
    if is_locked(path):
        raise _running(path)
    lock = RunLock(path)
    try:
        plan = _plan(path, rule)
        if plan.going:
            jsonl.repair(path / ledger.LEDGER_NAME)  # a killed run may have left half a line
            details: dict[str, Any] = {"steps": [c.step for c in plan.going], "bytes": plan.bytes}
            ledger.append_event(path / ledger.LEDGER_NAME, "pruned", details)
        for checkpoint in plan.going:
            with writing(checkpoint.path):
                checkpoints.delete(checkpoint.path)
        for folder, _ in plan.leftovers:
            with writing(folder):
                shutil.rmtree(folder)
        return plan
    finally:
        lock.release()


def skipped(path: Path, rule: Rule, act: Callable[[Path, Rule], Pruned]) -> Pruned:
    """`act` on one of many runs: one that is running, or damaged, is left alone and says so."""
    try:
        return act(path, rule)
    except RunError as error:
        if error.code not in ("PL503", "PL504"):
            raise
        return Pruned(path, skipped=error.what)


def _running(path: Path) -> RunError:
    return RunError(
        "PL503",
        "the run is being written, and prunes its checkpoints by itself (checkpoint.keep)",
        where=str(path),
        mend=f"wait for its end, or stop it: plaudit runs stop {path}",
    )


def _plan(path: Path, rule: Rule) -> Pruned:
    folder = path / CHECKPOINTS_NAME
    there = checkpoints.stored(folder)
    reasons = _reasons(path, there, rule)
    going = [c for c in there if c.step not in reasons]
    staying = [(c, reasons[c.step]) for c in there if c.step in reasons]
    return Pruned(path, going, staying, [(p, size_of(p)) for p in checkpoints.unfinished(folder)])


def _reasons(path: Path, there: Sequence[Stored], rule: Rule) -> dict[int, str]:
    """Step of each checkpoint that stays → why; the weightiest reason wins."""
    if not there:
        return {}
    reasons: dict[int, str] = {}
    if rule.older_than is not None:
        reasons |= {c.step: "not old enough" for c in there if rule.now - c.written <= rule.older_than}
    reasons |= {c.step: f"one of the newest {rule.keep}" for c in there[-max(1, rule.keep) :]}
    reasons |= dict.fromkeys(_grid_steps(path), "a model of the KL grid was kept here")
    best = progress_of(there[-1].path).get("best_step")
    if isinstance(best, int):
        reasons[best] = "the best evaluation"
    reasons[there[-1].step] = "the last one: the run goes on from it"
    return reasons


def _grid_steps(path: Path) -> list[int]:
    file = path / KL_GRID_NAME
    if not file.exists():
        return []
    try:
        return [int(entry["step"]) for entry in jsonl.loads(file.read_bytes())]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            "PL504", "the list of kept models is damaged", where=str(file), mend="restore it from a copy"
        ) from error
