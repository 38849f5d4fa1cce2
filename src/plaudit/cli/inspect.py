"""`plaudit inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from plaudit.cli.train import OPEN

SETTINGS = {"context_settings": OPEN["context_settings"]}


def command(
    ctx: typer.Context,
    arguments: list[str] = typer.Argument(  # noqa: B008
        None,
        metavar="DATA",
        help="Files of rows, or hub ids. Behind them: whatever a training command takes, such as --max-length 512 "
        "--overlong drop, KEY=VALUE or CONFIG.yaml.",
    ),
    model: str = typer.Option(None, "--model", help="Path or hub id; only its tokenizer and its config.json are read."),
    method: str = typer.Option(None, "--method", help="Which method's data they are. Default: by the columns."),
    config: list[Path] = typer.Option([], "--config", help="A configuration file; several are merged."),  # noqa: B008
    row: list[str] = typer.Option([], "--row", help="Show this row, by its number in the file; several times."),  # noqa: B008
    rows: int = typer.Option(
        None,
        "--rows",
        min=1,
        help="Show so many rows: the first; with --longest the longest; with --dropped so many of each reason.",
    ),
    longest: bool = typer.Option(False, "--longest", help="Show the longest rows."),
    dropped: bool = typer.Option(False, "--dropped", help="Show rows that are not used, as they are, by reason."),
    tokens: bool = typer.Option(False, "--tokens", help="Show every token by itself, with its id."),
    full: bool = typer.Option(False, "--full", help="Shorten nothing."),
    html: Path = typer.Option(None, "--html", help="Write a page that needs no network."),  # noqa: B008
    as_json: bool = typer.Option(False, "--json", help="Print the figures and examples as JSON."),
) -> None:
    """Show what would be trained on: rendered rows with trained and masked tokens, lengths, what is dropped, packing.

    The mask is read back from the micro-batches that training would compute. No weights are loaded. The exit status is
    2 where options or rows would keep training from starting.
    """
    from plaudit.inspection.examples import Choice
    from plaudit.inspection.interface import inspect_from_arguments
    from plaudit.inspection.page import check_page

    told = _told(arguments or [], model)
    if not told and not config:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)
    if html is not None:
        check_page(html)
    choice = Choice(tuple(row), rows, longest, dropped)
    found = inspect_from_arguments(method, config, told, choice)
    page = None if html is None else found.write_html(html, tokens=tokens, full=full)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        from plaudit.cli.inspect_view import show

        show(found, tokens=tokens, full=full)
    if page is not None:
        typer.echo(f"wrote {page}", err=as_json)
    if found.problem is not None:
        raise found.problem


def _told(arguments: list[str], model: str | None) -> list[str]:
    """The arguments as training takes them: sources get their flag. They are what stands in front, and files of rows
    that do not follow a flag."""
    from plaudit.config.flags import ROW_FILES, YAML_FILES

    told: list[str] = []
    in_front = True
    for before, word in zip(["", *arguments], arguments, strict=False):
        in_front &= not word.startswith("-") and "=" not in word and not word.endswith(YAML_FILES)
        a_value = before.startswith("--") and "=" not in before
        told += (
            ["--data", word] if in_front or (word.endswith(ROW_FILES) and "=" not in word and not a_value) else [word]
        )
    return [*(["--model", model] if model is not None else []), *told]
