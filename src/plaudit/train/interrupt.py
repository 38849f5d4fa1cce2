"""Ctrl-C, SIGTERM, a lost terminal and alerts that end a run: finish the optimiser step, write a checkpoint, say how to
go on, leave."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a run in order. SIGHUP comes when its terminal is closed; where it is ignored (nohup) it stays so."""


class Interrupted(Exception):  # not an error: the run did what it was told
    """The run stopped because of a signal, after writing its state.

    Args:
        signum: the signal.
        message: how to go on, for people.
        step: optimiser steps done.
    """

    def __init__(self, signum: int, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.signum, self.message, self.step = signum, message, step


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
        """Catch SIGNALS meanwhile. Outside the main thread signals cannot be caught and are left alone."""
        previous = _handlers()

        def remember(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            for s, handler in previous.items():
                signal.signal(s, signal.SIG_DFL if handler is _leave_at_once else handler)
            if signum == signal.SIGHUP:
                let_go_of_terminal()

        for s in previous:
            signal.signal(s, remember)
        try:
            yield self
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)


@contextmanager
def leaving_in_order() -> Iterator[None]:
    """While nothing is computed yet, or any more, SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C does its own
    exception: whoever has a run directory open can say in it how the run ended."""
    previous = {s: handler for s, handler in _handlers().items() if handler is signal.SIG_DFL}
    for s in previous:
        signal.signal(s, _leave_at_once)
    try:
        yield
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def _leave_at_once(signum: int, frame: FrameType | None) -> None:
    for s in SIGNALS:
        if signal.getsignal(s) is _leave_at_once:
            signal.signal(s, signal.SIG_DFL)  # a second one need not wait for Python's turn
    if signum == signal.SIGHUP:
        let_go_of_terminal()
    raise Interrupted(signum, "stopped outside of the training steps")


def _handlers() -> dict[signal.Signals, Any]:
    """The handlers of `SIGNALS` as they are, without an ignored SIGHUP; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {s: signal.getsignal(s) or signal.SIG_DFL for s in SIGNALS}
    return {s: h for s, h in found.items() if not (s == signal.SIGHUP and h is signal.SIG_IGN)}


def let_go_of_terminal() -> None:
    """Send what is still said to nowhere if the terminal is gone: there every write fails, also that of a checkpoint's
    last word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            with suppress(OSError):
                if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                    os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)


def resume_line(place: str, if_exists: str) -> str:
    """How to go on with the run in `place`: by the same command, unless that would refuse or start another run."""
    program = Path(sys.argv[0])
    command = [*(["plaudit"] if program.name == "plaudit" else ["python", str(program)]), *sys.argv[1:]]
    if if_exists == "resume":
        return f"resume with:\n  {shlex.join(command)}"
    instead = f"run.dir={shlex.quote(place)} run.if_exists=resume"
    return f"resume with {instead}, in place of its own, in:\n  {shlex.join(command)}"
