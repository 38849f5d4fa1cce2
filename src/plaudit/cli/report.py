"""`plaudit report`."""

from __future__ import annotations

from pathlib import Path

import typer


def command(run: Path = typer.Argument(..., help="A run directory.")) -> None:  # noqa: B008  # typer reads defaults
    """Write a run's report.html again from its record."""
    from plaudit.config.changed import changed_keys
    from plaudit.methods import available
    from plaudit.runs.report import write_report
    from plaudit.runs.rundir import read_config

    available()  # a method's file says what its metrics are; one of the user's own is not run for a report
    typer.echo(str(write_report(run, changed_keys(read_config(run.expanduser())))))
