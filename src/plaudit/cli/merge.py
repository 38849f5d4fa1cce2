"""`plaudit merge`."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    source: Path = typer.Argument(..., help="A run directory, or an adapter folder."),  # noqa: B008
    output: Path = typer.Argument(..., help="Folder to write; it must not exist or be empty."),  # noqa: B008
    base: str = typer.Option(None, help="The base model, when the adapter does not name it."),
    precision: str = typer.Option("auto", help="fp32, bf16, or auto: the base checkpoint's own."),
) -> None:
    """Merge an adapter into its base model and write a folder that transformers loads."""
    from plaudit.api import merge

    for line in merge(source, output, base=base, precision=precision).notes:
        typer.echo(line)
