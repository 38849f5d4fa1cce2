"""The processes of a sandbox, seen from outside: what they use, and how to end them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHARED = 8 << 20
"""Of every process, bytes that are not counted: the interpreter's own pages, which all of them share."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes uses.

    Attributes:
        pids: its processes.
        cpu_seconds: of those that live, and of those that they have waited for.
        memory: resident bytes.
        threads: of all processes.
    """

    pids: tuple[int, ...] = ()
    cpu_seconds: float = 0.0
    memory: int = 0
    threads: int = 0


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it has ended
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)


def children(pid: int) -> list[int]:
    """Child processes, also of its other threads."""
    with suppress(OSError):
        return [int(c) for thread in os.listdir(f"/proc/{pid}/task") for c in _children(pid, thread)]
    return []


def _children(pid: int, thread: str) -> list[bytes]:
    return _read(f"/proc/{pid}/task/{thread}/children").split()


def _walk(root: int) -> Iterator[int]:
    waiting, seen = [root], set[int]()
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            yield pid
            waiting += children(pid)


def measure(root: int) -> Usage:
    """What a process and all below it use now. Nothing where there is no /proc (macOS)."""
    cpu, memory, threads, pids = 0, 0, 0, []
    for pid in _walk(root):
        # The name in parentheses may hold spaces and parentheses of its own.
        values = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if len(values) < 22:
            continue
        pids.append(pid)
        cpu += sum(map(int, values[11:15]))
        threads += int(values[17])
        memory += max(0, int(values[21]) * _PAGE - _SHARED)
    return Usage(tuple(pids), cpu / _TICKS, memory, threads)


def kill(pid: int) -> None:
    """End a process, if it is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
