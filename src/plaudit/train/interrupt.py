"""Ctrl-C and SIGTERM: finish the optimiser step, write a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # not an error: the run did what it was told
    """The run stopped because of a signal, after writing its state.

    Args:
        signum: the signal.
        message: how to go on, for people.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.message = message


class StopRequest:
    """Remembers the first signal; a second one acts at once, as if nobody had caught it."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def catching(self) -> Iterator[StopRequest]:
        """Catch SIGINT and SIGTERM meanwhile. Outside the main thread signals cannot be caught and are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def remember(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            for s, handler in previous.items():
                signal.signal(s, handler)

        for s in previous:
            signal.signal(s, remember)
        try:
            yield self
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
