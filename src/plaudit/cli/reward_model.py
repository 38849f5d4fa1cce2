"""`plaudit reward-model`: score, normalise, ensemble, average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from plaudit.cli.columns import HELP, sources_of

app = typer.Typer(
    help="Use reward models: score answers, fix the scale, combine several.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_SOURCE = "A run directory, model folder, adapter folder or hub id"
_OUTPUT = "Folder to write; it must not exist or be empty."
_BASE = typer.Option(None, help="The base model, when an adapter does not name it.")
_PRECISION = typer.Option("auto", help="auto, fp32 or bf16.")
_TOKENS = typer.Option(8192, min=1, help="Packed tokens of one forward pass.")
_OVERLONG = typer.Option("error", help="Beyond the model's positions: error, or truncate (the oldest tokens; counted).")
_INVALID = typer.Option("error", help="Rows that cannot be used: error, or drop (and count).")
_PLAIN = typer.Option(
    None, "--plain-text/--chat", help="Models from elsewhere: text rows as they are, or in the chat template (default)."
)
_EOS = typer.Option(None, "--eos/--no-eos", help="Models from elsewhere: whether EOS ends plain text; default is yes.")


@app.command("score")
def score(
    model: str = typer.Argument(..., help=f"{_SOURCE}, or an ensemble folder."),
    data: list[str] = typer.Argument(..., help="Pairs, rankings, lists of answers, feedback or demonstrations."),  # noqa: B008
    output: Path = typer.Option(None, "--output", "-o", help="File for the JSONL; default is stdout."),  # noqa: B008
    base: str = _BASE,
    precision: str = _PRECISION,
    tokens: int = _TOKENS,
    overlong: str = _OVERLONG,
    invalid: str = _INVALID,
    plain_text: bool = _PLAIN,
    eos: bool = _EOS,
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
) -> None:
    """Write the rows with the score of every answer: score, chosen_score and rejected_score, scores or judge_scores."""
    from plaudit.api import score_answers
    from plaudit.cli.generate import check_rows_file

    if output is not None:
        check_rows_file(output)
    rows = score_answers(
        model,
        sources_of(data, column),
        base=base,
        precision=precision,
        invalid=invalid,
        tokens=tokens,
        overlong=overlong,
        plain_text=plain_text,
        append_eos=eos,
    )
    if output is None:
        for row in rows:
            typer.echo(_line(row))
    else:
        with output.open("w", encoding="utf-8") as file:
            file.writelines(_line(row) + "\n" for row in rows)
    _say(rows.notes, err=output is None)


@app.command("normalise")
def normalise(
    model: str = typer.Argument(..., help=f"{_SOURCE}, or an ensemble folder."),
    data: list[str] = typer.Argument(..., help="Rows with reference answers; every answer counts once."),  # noqa: B008
    std: float = typer.Option(None, help="Target standard deviation; default is the model's own unit (gain 1)."),
    output: Path = typer.Option(  # noqa: B008
        None,
        "--output",
        "-o",
        help="New folder for a normalised copy; default keeps the numbers in the model's folder.",
    ),
    base: str = _BASE,
    precision: str = _PRECISION,
    tokens: int = _TOKENS,
    overlong: str = _OVERLONG,
    invalid: str = _INVALID,
    plain_text: bool = _PLAIN,
    eos: bool = _EOS,
) -> None:
    """Fix the scale: reference answers get mean 0, and a standard deviation if one is given."""
    from plaudit.api import normalise_reward_model

    done = normalise_reward_model(
        model,
        data,
        std=std,
        output=output,
        base=base,
        precision=precision,
        invalid=invalid,
        tokens=tokens,
        overlong=overlong,
        plain_text=plain_text,
        append_eos=eos,
    )
    _say(done.notes)


@app.command("ensemble")
def ensemble(
    output: Path = typer.Argument(..., help=_OUTPUT),  # noqa: B008
    members: list[str] = typer.Argument(..., help=f"Two or more: {_SOURCE.lower()}."),  # noqa: B008
    reference: list[str] = typer.Option(  # noqa: B008
        ..., help="Rows with answers on which every member gets mean 0 and std 1; can be given several times."
    ),
    combine: str = typer.Option("mean", help="mean, min (worst case), or uwo (mean - weight x variance)."),
    uncertainty_weight: float = typer.Option(0.5, min=0, help="The weight of uwo."),
    base: str = _BASE,
    precision: str = _PRECISION,
    tokens: int = _TOKENS,
    overlong: str = _OVERLONG,
    invalid: str = _INVALID,
    plain_text: bool = _PLAIN,
    eos: bool = _EOS,
) -> None:
    """Put reward models on one scale and combine their scores; the members stay where they are."""
    from plaudit.api import ensemble_reward_models

    done = ensemble_reward_models(
        output,
        members,
        reference,
        combine=combine,
        uncertainty_weight=uncertainty_weight,
        base=base,
        precision=precision,
        invalid=invalid,
        tokens=tokens,
        overlong=overlong,
        plain_text=plain_text,
        append_eos=eos,
    )
    _say(done.notes)


@app.command("average")
def average(
    output: Path = typer.Argument(..., help=_OUTPUT),  # noqa: B008
    members: list[str] = typer.Argument(..., help="Two or more run directories, model folders or adapter folders."),  # noqa: B008
    check: list[str] = typer.Option(  # noqa: B008
        [], help="Pairs or rankings on which the average may not be worse than its members; several times."
    ),
    tolerance: float = typer.Option(0.02, min=0, max=1, help="By how much it may be, as a difference of accuracies."),
    unchecked: bool = typer.Option(False, "--unchecked", help="Do not compare what the members started from."),
    base: str = _BASE,
    tokens: int = _TOKENS,
    overlong: str = _OVERLONG,
    invalid: str = _INVALID,
) -> None:
    """Average the weights of reward models that started from one model and one head (WARM)."""
    from plaudit.api import average_reward_models

    done = average_reward_models(
        output,
        members,
        check=check or None,
        tolerance=tolerance,
        unchecked=unchecked,
        base=base,
        invalid=invalid,
        tokens=tokens,
        overlong=overlong,
    )
    _say(done.notes)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)


def _say(notes: list[str], *, err: bool = False) -> None:
    for note in notes:
        typer.echo(note, err=err)
