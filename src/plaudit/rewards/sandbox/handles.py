"""File descriptors that are opened for one sandbox, and closed whatever happens."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import Self


class Handles:
    """Owns descriptors until they are shut or given away, and whatever else has to be put away at the end."""

    def __init__(self) -> None:
        self._fds: set[int] = set()
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for fd in list(self._fds):
            self.shut(fd)
        self.stack.__exit__(kind, error, at)

    def pipe(self) -> tuple[int, int]:
        """The end that is read and the end that is written."""
        ends = os.pipe()
        self._fds.update(ends)
        return ends

    def shut(self, *fds: int) -> None:
        """Close some now."""
        for fd in fds:
            self._fds.discard(fd)
            os.close(fd)

    def give(self, fd: int) -> int:
        """Somebody else closes it."""
        self._fds.discard(fd)
        return fd

    def readable(self, data: bytes) -> int:
        """Bytes that can be read from the descriptor, and not be changed through it."""
        if not hasattr(os, "memfd_create"):
            return self._file(data)
        fd = os.memfd_create("plaudit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._fds.add(fd)
        _write(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd

    def _file(self, data: bytes) -> int:
        with tempfile.NamedTemporaryFile() as file:
            _write(file.fileno(), data)
            fd = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.add(fd)
        return fd


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.lseek(fd, 0, os.SEEK_SET)


_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, SHRINK, GROW and WRITE."""
