"""`plaudit doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from plaudit.cli.columns import HELP, columns_of


def command(
    data: str = typer.Argument(..., metavar="DATA", help="Pairs, feedback, rankings, demonstrations or prompts."),
    against: list[str] = typer.Option(  # noqa: B008
        [], "--against", metavar="EVAL", help="Evaluation data whose prompts must not be in DATA; several times."
    ),
    fix: Path = typer.Option(None, "--fix", metavar="OUT", help="Write a cleaned copy, of the same form."),  # noqa: B008
    log: Path = typer.Option(  # noqa: B008
        None, "--log", help="One line of JSON per removed or changed row. Default: OUT with .log.jsonl."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace OUT and its log; never DATA."),
    keep: list[str] = typer.Option(  # noqa: B008
        [], "--keep", metavar="CHECK", help="--fix does nothing about this check (names: --json); several times."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object, for machines."),
    kind: str = typer.Option(
        None, "--kind", help="preference, feedback, ranking, completion or prompt. Default: by the columns."
    ),
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
    workers: int = typer.Option(None, min=1, help="Processes. Default: one per core for many rows."),
) -> None:
    """Find what is wrong with a data file: repeats, contradictions, bias, leaks, personal data, broken text.

    Exit status: 0 nothing fails (warnings may be there), 1 something fails (with --fix: in the cleaned copy), 2 a
    mistake in the command, or a file that cannot be read.
    """
    from plaudit.api import doctor
    from plaudit.cli.doctor_view import show

    found = doctor(
        data,
        against=against or None,
        fix=fix,
        log=log,
        overwrite=overwrite,
        keep=keep,
        kind=kind,
        columns=columns_of(column),
        workers=workers,
    )
    if as_json:
        import json

        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        show(found)
    if found.failed:
        raise typer.Exit(1)
