"""Ctrl-C, SIGTERM and alerts that end a run: finish the optimiser step, write a checkpoint, say how to go on, leave."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


class Halted(Exception):  # not an error either: the run did what watch.stop says
    """The run stopped because of an alert in `watch.stop`, with its checkpoint and its model written.

    Args:
        code: of the alert.
        step: optimiser steps done.
        message: what, why and how to go on, for people.
        best_step: of the model in `best/`; None where nothing was evaluated.
    """

    def __init__(self, code: str, step: int, message: str, best_step: int | None = None) -> None:
        super().__init__(message)
        self.code, self.step, self.message, self.best_step = code, step, message, best_step


class StepAbandoned(Exception):
    """A signal came before the step had changed anything (while answers were sampled)."""


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
        previous = {s: signal.getsignal(s) or signal.SIG_DFL for s in (signal.SIGINT, signal.SIGTERM)}

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


def resume_line(place: str, if_exists: str) -> str:
    """How to go on with the run in `place`: by the same command, unless that would refuse or start another run."""
    program = Path(sys.argv[0])
    command = [*(["plaudit"] if program.name == "plaudit" else ["python", str(program)]), *sys.argv[1:]]
    if if_exists == "resume":
        return f"resume with:\n  {shlex.join(command)}"
    instead = f"run.dir={shlex.quote(place)} run.if_exists=resume"
    return f"resume with {instead}, in place of its own, in:\n  {shlex.join(command)}"
