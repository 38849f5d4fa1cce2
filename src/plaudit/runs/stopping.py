"""Ask a run of this machine to stop in order: a checkpoint, a report, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from plaudit.errors import RunError
from plaudit.runs.lock import LOCK_NAME, is_locked, owner
from plaudit.runs.rundir import read_config
from plaudit.runs.state import RunState, run_state

_LOOK = 0.1
_PROC = Path("/proc")


def ask_to_stop(path: Path) -> int | None:
    """Send SIGTERM to the process that writes a run, or to the one that has started it and its fellows.

    It finishes its optimiser step, writes a checkpoint and leaves; a second time it leaves at once.

    Returns:
        The process that was asked; None where nobody writes the run.

    Raises:
        RunError: PL501, there is no run; PL507, it is written by a process that cannot be reached from here.
    """
    read_config(path)
    if not is_locked(path):
        return None
    found = owner(path)
    if found is None:
        raise _unreachable(path, "the lock of the run does not say which process holds it", "stop it where it runs")
    if not found.is_here:
        raise _unreachable(path, f"the run is written on another machine, {found.host}", "give the command there")
    if not _has_open(found.pid, path / LOCK_NAME):
        if not is_locked(path):
            return None  # it has ended meanwhile
        raise _unreachable(
            path,
            f"process {found.pid} is not the one that writes the run, as far as can be seen from here",
            "it may be in another container: give the command there, or as the user who has started it",
        )
    target = found.launcher if found.launcher is not None and _parent(found.pid) == found.launcher else found.pid
    try:
        os.kill(target, signal.SIGTERM)
    except ProcessLookupError:
        return None
    except PermissionError:
        mend = "give the command as the user who has started it"
        raise _unreachable(path, f"process {target} belongs to another user", mend) from None
    return target


def wait_for_end(path: Path, *, seconds: float | None = None) -> RunState:
    """Wait until nobody writes the run any more.

    Args:
        seconds: the longest time; None = however long it takes.

    Returns:
        Where it stands then; "running" where the time was not enough.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while is_locked(path) and (deadline is None or time.monotonic() < deadline):
        time.sleep(_LOOK)
    return run_state(path)


def _unreachable(path: Path, what: str, mend: str) -> RunError:
    return RunError("PL507", what, where=str(path), mend=mend)


def _has_open(pid: int, file: Path) -> bool:
    """Whether a process has a file open. Without /proc the held lock has to do: its text is its holder's."""
    if not _PROC.is_dir():
        return True
    try:
        descriptors = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if descriptor.samefile(file):
                return True
        except OSError:
            continue
    return False


def _parent(pid: int) -> int | None:
    """The parent of a process; None where that cannot be found out."""
    try:
        return int((_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
