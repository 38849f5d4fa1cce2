"""`plaudit watch`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import typer

from plaudit.errors import SIGNALLED


def command(
    run: Path = typer.Argument(..., metavar="RUN", help="A run directory; it need not be there yet."),  # noqa: B008  # typer reads defaults
    wait: bool = typer.Option(False, "--wait", help="Stay when the run is stopped, until somebody goes on with it."),
    stop: bool = typer.Option(False, "--stop", help="Ask the run to stop in order, and watch it end."),
) -> None:
    """Follow a run from another terminal: progress, curves, alerts, the last sample.

    Ends when the run ends, with its exit status: 0 at its end, 3 by watch.stop, 2 or 1 after an error, 128 + signal
    when it was stopped. Ctrl-C leaves the run alone.
    """
    from plaudit.api import watch_run
    from plaudit.methods import available

    available()  # a method's file says what its metrics are
    try:
        state = watch_run(run, sys.stdout, wait=wait, stop=stop)
    except KeyboardInterrupt:
        typer.echo("the run is left alone", err=True)
        raise typer.Exit(SIGNALLED + signal.SIGINT) from None
    asked = stop and state.phase == "stopped"
    raise typer.Exit(0 if asked else state.exit_status or 0)
