"""`plaudit init`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from plaudit.cli.columns import HELP, columns_of
from plaudit.starter.interface import FILE, Starter


def command(
    data: str = typer.Argument(None, metavar="DATA", help="A file, folder or hub id of rows, as training takes them."),
    method: str = typer.Option(None, "--method", help="The method, by name or file. Default: what fits the rows best."),
    model: str = typer.Option(None, "--model", help="Path or hub id; its tokenizer and its config.json are read."),
    lora: bool = typer.Option(
        None, "--lora/--full", help="An adapter, or all weights. Default: by the model's size and the free memory."
    ),
    reward: list[str] = typer.Option(  # noqa: B008
        [], "--reward", help="For a method that samples answers. Default: a verifier that the rows have a column for."
    ),
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
    output: Path = typer.Option(Path(FILE), "--output", "-o", help="The file to write, or - for stdout."),  # noqa: B008
    force: bool = typer.Option(False, "--force", help="Replace the file if it exists."),
) -> None:
    """Write a commented starter configuration for a data file that it has looked at.

    With a model, lengths are counted in its tokens. Beside the file goes the JSON schema with which editors complete
    and check it. On a terminal, without DATA, it asks.
    """
    from plaudit.api import init
    from plaudit.starter.interface import check_output

    if data is None and not sys.stdin.isatty():
        _explain()
        raise typer.Exit(2)
    to_stdout = str(output) == "-"
    if not to_stdout:
        check_output(output, overwrite=force)
    if data is None:
        data, method, model = _asked(method, model)
    starter = init(
        data,
        None if to_stdout else output,
        method=method,
        model=model,
        lora=lora,
        reward=reward,
        columns=columns_of(column),
        overwrite=force,
    )
    if to_stdout:
        typer.echo(starter.text, nl=False)
    _show(starter, None if to_stdout else output)


def _asked(method: str | None, model: str | None) -> tuple[str, str | None, str | None]:
    """Data, method and model; the last two may be left open."""
    data = typer.prompt("Data (a file of rows)")
    if method is None:
        method = typer.prompt("Method (empty: what fits the rows best)", default="", show_default=False) or None
    if model is None:
        model = typer.prompt("Model (a path or hub id; empty: later)", default="", show_default=False) or None
    return data, method, model


def _explain() -> None:
    """How to call it, and what rows look like."""
    from plaudit.starter.fits import SUITED, takes
    from plaudit.starter.rows import WORDS

    typer.echo("Usage: plaudit init DATA [--method METHOD] [--model PATH] [--lora | --full] [-o plaudit.yaml]\n")
    typer.echo(
        "DATA is a .jsonl, .json, .csv or .parquet file, a folder of save_to_disk, or a hub id. A row is one of:\n"
    )
    for kind in SUITED:
        names, example = [name for name, _ in takes(kind)], next(example for _, example in takes(kind))
        typer.echo(f"  {WORDS[kind]}: {', '.join(names)}\n    {example}")
    typer.echo("\nOther names of columns are recognised too (docs/data.md), or given with --column FIELD=COLUMN.")


def _show(starter: Starter, output: Path | None) -> None:
    import textwrap

    from plaudit.cli.console import Console

    console = Console(highlight=False, stderr=output is None)

    def part(title: str, lines: list[str]) -> None:
        console.print(title, style="bold", markup=False)
        for line in lines:
            # not by rich, which fills lines up with blanks and breaks the words of commands
            indented = textwrap.wrap(line, console.width - 2, break_long_words=False, break_on_hyphens=False)
            console.print("\n".join(f"  {piece}" for piece in indented), markup=False, soft_wrap=True)

    part("seen", list(starter.seen))
    further = f"as they are, too: {', '.join(starter.others)}"
    fitting = [f"{name}: {why}" for name, why in starter.fitting]
    part("methods for these rows", [*fitting, *([further] if starter.others else [])])
    part("chosen", list(starter.chosen))
    part("next", [f"{command}   {meaning}" for command, meaning in starter.commands])
    if output is None:
        console.print(
            "`plaudit config schema -o .plaudit.schema.json` writes the schema that the first line names.", markup=False
        )
    else:
        console.print(f"wrote {output}, and the schema for editors beside it", markup=False)
