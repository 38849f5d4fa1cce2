"""Whoever reads the output of a run may leave (`plaudit dpo … | head`): the run goes on without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import UnsupportedOperation
from typing import Any

GONE = "nobody reads the output any more; the run goes on (plaudit watch RUN follows it, Ctrl-C stops it in order)"


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Meanwhile, what is written to stdout or stderr goes nowhere once the reader of that pipe has gone, and nothing
    fails. Of stdout, stderr says so."""
    before = sys.stdout, sys.stderr
    errors: Any = _Outliving(sys.stderr)
    output: Any = _Outliving(sys.stdout, told=errors)
    sys.stdout, sys.stderr = output, errors
    try:
        yield
    finally:
        # Whatever has been put in their place meanwhile is its owner's to take away.
        if sys.stdout is output:
            sys.stdout = before[0]
        if sys.stderr is errors:
            sys.stderr = before[1]


def to_nowhere(stream: Any) -> None:
    """Send what is written to a stream nowhere, with what it still holds back, or Python would complain at its exit."""
    try:
        descriptor = stream.fileno()
    except (UnsupportedOperation, ValueError):
        return  # it has no file, or that is closed
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Outliving:
    """A text stream that may lose its reader; in all else the stream itself.

    Args:
        told: a stream for the sentence that it has.
    """

    def __init__(self, stream: Any, told: Any = None) -> None:
        self._stream, self._told = stream, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._let_go()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        to_nowhere(self._stream)  # which fails no more, so this is said once
        if self._told is not None:
            self._told.write(GONE + "\n")
            self._told.flush()
