"""One writer per run directory."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

from plaudit.errors import RunError
from plaudit.runs.jsonl import writing

LOCK_NAME = ".lock"
LAUNCHER = "PLAUDIT_LAUNCHER"
"""Variable of the processes of `--processes N`: the process that has started them, hands signals on and waits."""
_OWNER = re.compile(r"process (\d+) on (\S+?)(?: \(started by process (\d+)\))?$")
_LOOKS = 6
"""How often a lock is tried for: whoever looks whether a run is being written (`is_locked`) holds it for a moment."""

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """An exclusive lock that the kernel releases when the process ends, however it ends.

    The file's text (pid and host of the owner) is for messages and for `owner`; the lock itself is `flock`, so a pid
    that is left behind by kill -9 never blocks anything.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            RunError: PL503, another process holds it; PL505, the directory cannot be written.
        """
        self._path = directory / LOCK_NAME
        with writing(self._path):
            self._handle: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _take(self._handle)
            except BlockingIOError:
                self.release()
                raise written_elsewhere(directory) from None
            except OSError:
                self.release()
                raise
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{_own_name()}\n".encode())
        _held.add(self)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds, or has last held, the lock of a run directory.

    Attributes:
        pid: the process that writes.
        host: the machine it is on.
        launcher: the process that has started it and its fellows (`--processes N`), or None.
    """

    pid: int
    host: str
    launcher: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


def owner(directory: Path) -> Owner | None:
    """Who has last taken the lock of a run directory; None where nobody has, or it cannot be read."""
    try:
        text = (directory / LOCK_NAME).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    match = _OWNER.match(text)
    return Owner(int(match[1]), match[2], int(match[3]) if match[3] else None) if match else None


def written_elsewhere(directory: Path) -> RunError:
    """The error that another process writes the run."""
    try:
        name = (directory / LOCK_NAME).read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        name = ""
    return RunError(
        "PL503",
        f"the run is being written by {name or 'another process'}",
        where=str(directory),
        mend="wait for it, stop it, or use another directory (run.dir=…, or run.if_exists=new)",
    )


def _own_name() -> str:
    launcher = os.environ.get(LAUNCHER)
    by = f" (started by process {launcher})" if launcher and launcher.isdecimal() else ""
    return f"process {os.getpid()} on {socket.gethostname()}{by}"


def _take(handle: int) -> None:
    for left in reversed(range(_LOOKS)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.02)


def is_locked(directory: Path) -> bool:
    """Whether a process is writing the run now. Needs only read access."""
    try:
        handle = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _release_in_child() -> None:
    # A forked data worker that outlives a killed trainer would otherwise keep the run locked.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
