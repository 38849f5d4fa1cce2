"""`plaudit migrate`."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    source: list[str] = typer.Argument(  # noqa: B008
        ..., metavar="FILE | -- COMMAND...", help="A YAML, JSON, Python or shell file; or a command behind --."
    ),
    output: Path = typer.Option(  # noqa: B008
        None, "--output", "-o", help="The YAML file to write; it must not be there yet. Default: stdout."
    ),
    tool: str = typer.Option(None, "--from", help="trl, llama-factory or axolotl. Default: recognised by its keys."),
    method: str = typer.Option(
        None, "--method", help="The trainer there (dpo, sft, grpo, …) or a method here. Default: found out."
    ),
    processes: int = typer.Option(
        None,
        min=1,
        help="Processes that trained there: the size of a step depends on it. Default: the launcher's, or 1.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object with the configuration, for machines."),
    strict: bool = typer.Option(
        False, "--strict", help="Exit status 2 where something that changes the result has no counterpart."
    ),
) -> None:
    """Turn a configuration of TRL, LLaMA-Factory or axolotl into one of plaudit's, and list what has no counterpart.

    Nothing is run: scripts and commands are only read. The configuration goes to stdout (or -o), what became of each
    key to stderr.
    """
    from plaudit.api import migrate
    from plaudit.cli.migrate_view import show
    from plaudit.errors import USER_ERROR

    given = source[0] if len(source) == 1 and not source[0].startswith("-") else source
    found = migrate(given, output, tool=tool, method=method, processes=processes)
    if as_json:
        import json

        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, default=str))
    elif output is None:
        typer.echo(found.text, nl=False)
    if not as_json:
        show(found, str(output) if output is not None else None)
    if strict and found.lossy:
        raise typer.Exit(USER_ERROR)
