"""`plaudit convert`."""

from __future__ import annotations

from pathlib import Path

import typer

from plaudit.cli.columns import HELP, columns_of


def command(
    source: str = typer.Argument(..., metavar="IN", help="Rows in any known shape."),
    output: Path = typer.Argument(..., metavar="OUT", help="The .jsonl file to write, or - for stdout."),  # noqa: B008
    to: str = typer.Option(
        ...,
        "--to",
        help="What the rows become: feedback, preference or ranking; or messages: the same, texts as chat messages.",
    ),
    from_kind: str = typer.Option(None, "--from", help="What kind the rows are. Default: by their columns."),
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
    pairs_per_prompt: int = typer.Option(36, min=1, help="To pairs: most pairs per prompt; 1 = best against worst."),
    feedback_threshold: float = typer.Option(
        None, help="Rankings with scores to feedback: at least this score is liked. Default: best against worst."
    ),
    invalid: str = typer.Option("error", help="error, or drop: leave out and count rows without content or signal."),
) -> None:
    """Turn pairs, rankings and feedback into each other, or texts into chat messages, and say what was left out."""
    from plaudit.api import convert
    from plaudit.data.convert_file import json_lines

    to_stdout = str(output) == "-"
    result = convert(
        source,
        None if to_stdout else output,
        to=to,
        from_kind=from_kind,
        columns=columns_of(column),
        pairs_per_prompt=pairs_per_prompt,
        feedback_threshold=feedback_threshold,
        invalid=invalid,
    )
    if to_stdout:
        for line in json_lines(result.rows):
            typer.echo(line, nl=False)
    for line in result.summary_lines():
        typer.echo(line, err=to_stdout)
    if not to_stdout:
        typer.echo(f"wrote {output}")
