"""`plaudit check`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

import typer

from plaudit.cli.detach import take_detach
from plaudit.cli.launch import take_processes
from plaudit.cli.train import OPEN

SETTINGS = {"context_settings": OPEN["context_settings"]}


def command(
    ctx: typer.Context,
    arguments: list[str] = typer.Argument(  # noqa: B008
        None,
        metavar="[METHOD] [CONFIG.yaml]... [KEY=VALUE]... [--KEY VALUE]...",
        help="What the training command would be given.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the findings as JSON."),
    strict: bool = typer.Option(False, "--strict", help="Exit status 1 where there are warnings."),
) -> None:
    """Look at a run before it is started: environment, rows, template, lengths, memory, one evaluation step, disk.

    Nothing is trained and nothing is written. The exit status is 2 where something would keep the run from its end.
    Every training looks at the same by itself (run.check), and then stops before its first step.
    """
    from plaudit.cli.registry import listed
    from plaudit.preflight.interface import check_from_arguments

    given = list(arguments or [])
    if not given:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)
    method = given.pop(0) if given[0] in listed() or given[0].endswith(".py") else None
    _, _, given = take_processes(take_detach(given)[1])
    interactive = sys.stderr.isatty() and not as_json

    def say(topic: str) -> None:
        if interactive:
            typer.echo(f"looking at {topic} …", err=True)

    with redirect_stdout(sys.stderr):  # what rewards and files of one's own print is not the report
        found = check_from_arguments(method, given, say)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        from plaudit.cli.check_view import show

        show(found)
    raise typer.Exit(found.exit_status(strict=strict))
