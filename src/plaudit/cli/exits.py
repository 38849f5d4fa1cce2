"""How a command ends: 0, 2 for a mistake of the user, 3 for a run that watch.stop has ended, 130 or 143 for a signal, a
traceback only where it helps."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from plaudit.errors import HALTED, SIGNALLED, USER_ERROR, PlauditError
from plaudit.runs.readers import to_nowhere
from plaudit.train.interrupt import Halted, Interrupted


@contextmanager
def guarded(debug: bool = False) -> Iterator[None]:
    """Turn errors meant for users into a message on stderr and an exit status.

    Raises:
        SystemExit: 2 for a `PlauditError`, 3 for a run that an alert has ended (watch.stop), 128 + signal number after
            an interruption.
    """
    try:
        yield
    except PlauditError as error:
        if debug:
            raise
        _say(f"{error}\n  more:  {error.page}")
        sys.exit(USER_ERROR)
    except Halted as stop:
        _say(str(stop))
        sys.exit(HALTED)
    except Interrupted as stop:
        _say(str(stop))
        sys.exit(SIGNALLED + stop.signum)
    except KeyboardInterrupt:
        if debug:
            raise
        _say("interrupted")
        sys.exit(SIGNALLED + signal.SIGINT)


@contextmanager
def going_on() -> Iterator[None]:
    """For commands that go on where they were stopped: Ctrl-C says so.

    Raises:
        typer.Exit: 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on")
        raise typer.Exit(SIGNALLED + signal.SIGINT) from None


def _say(text: str) -> None:
    try:
        sys.stderr.write(text.rstrip() + "\n")
        sys.stderr.flush()
    except BrokenPipeError:  # nobody reads it, but the exit status says the same
        to_nowhere(sys.stderr)
