"""`plaudit score`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from plaudit.cli.columns import HELP, sources_of


def command(
    data: list[str] = typer.Argument(..., help="Rows with answers: of `plaudit generate`, pairs, rankings, feedback."),  # noqa: B008
    reward: list[str] = typer.Option(  # noqa: B008
        ...,
        "--reward",
        "-r",
        help="A reward (`plaudit rewards` lists them; math:extract=boxed,weight=2 gives options), module:function, "
        "FILE.py:function, a reward model's folder, or a .yaml file; several are added.",
    ),
    output: Path = typer.Option(None, "--output", "-o", help="File for the JSONL; default is stdout."),  # noqa: B008
    overwrite: bool = typer.Option(False, "--overwrite", help="Begin the output file anew, whatever it holds."),
    retries: int = typer.Option(None, min=0, help="How often an answer is scored again after a failure. Default: 2."),
    max_reward_error_fraction: float = typer.Option(
        None, min=0, max=1, help="Stop when a larger share of the latest answers has no score. Default: 0.05."
    ),
    invalid: str = typer.Option("error", help="Rows that cannot be used: error, or drop (and count)."),
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
) -> None:
    """Score the answers in rows with any reward, and show how the scores are spread.

    Rows get the columns score (or chosen_score and rejected_score, scores, judge_scores) and score_parts; an answer
    that could not be scored has null, and score_error says why. With --output, giving the same command again goes on
    where it was stopped.
    """
    from plaudit.api import score
    from plaudit.cli.generate import check_rows_file
    from plaudit.cli.score_view import show
    from plaudit.runs.resumable import json_line

    if output is not None:
        check_rows_file(output)
    found = score(
        sources_of(data, column),
        reward,
        output=output,
        overwrite=overwrite,
        retries=retries,
        max_reward_error_fraction=max_reward_error_fraction,
        invalid=invalid,
        on_progress=_progress if sys.stderr.isatty() else None,
    )
    try:
        for row in found:
            if output is None:
                typer.echo(json_line(row))
    except KeyboardInterrupt:
        kept = f"{found.done} of {len(found.rows)} rows are in {output}: the same command goes on" if output else ""
        typer.echo(f"interrupted; {kept}" if kept else "interrupted", err=True)
        raise typer.Exit(130) from None
    show(found.summary, err=True)


def _progress(done: int, total: int) -> None:
    """One line that is written over, for a person who waits."""
    sys.stderr.write(f"\r{done} of {total} rows" + ("\n" if done == total else ""))
    sys.stderr.flush()
