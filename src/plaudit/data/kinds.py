"""What rows are, told from their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from plaudit.data.columns import Columns, as_options, fits, look_alikes
from plaudit.data.conventions import SHAPES
from plaudit.data.readers import NumberedRow, Row
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind

KINDS: tuple[DataKind, ...] = ("feedback", "preference", "ranking", "completion", "prompt")
"""In the order in which they are tried: whoever has an answer and a label has feedback, not a demonstration."""
HEAD = 100
"""Rows that decide."""
_Kind = TypeVar("_Kind", bound=DataKind)


def kind_of(rows: Sequence[NumberedRow], columns: Mapping[str, str], name: str) -> DataKind:
    """What the rows of a source are.

    Args:
        rows: the first of them, at least one.
        columns: the source's own map of columns.

    Raises:
        DataError: PL203, nothing that is known.
    """
    head = rows[:HEAD]
    fitting = fitting_kinds(head, columns, KINDS)
    if not fitting:
        raise no_kind("the columns are those of no data kind", head, KINDS, f"{name}:{head[0][0]}")
    if fitting[0] == "completion" and "prompt" in fitting and _open(head, columns, name):
        return "prompt"
    return fitting[0]


def fitting_kinds(rows: Sequence[NumberedRow], columns: Mapping[str, str], among: Sequence[_Kind]) -> list[_Kind]:
    """The kinds that the rows can be read as."""
    return [kind for kind in among if fits(rows, kind, columns)]


def no_kind(what: str, rows: Sequence[NumberedRow], among: Sequence[DataKind], where: str) -> DataError:
    """The error for rows that can be read as none of some kinds: their columns, and what these most likely are."""
    names = [str(name) for name in rows[0][1]] if rows else []
    shapes = [f"  {kind}: {' or '.join(SHAPES[kind][:2])}, …" for kind in among]
    found = f"  found: {', '.join(names) or 'no rows'}"
    mend = _renaming(names, among) or "say which columns to use: --column FIELD=COLUMN, for example --column " + (
        f"prompt={names[0]}; docs/data.md has all shapes of rows" if names else "prompt=question"
    )
    return DataError("PL203", "\n".join([what, found, *shapes]), where=where, mend=mend)


def _renaming(names: Sequence[str], among: Sequence[DataKind]) -> str | None:
    """The options that would say what the columns are, as far as their names tell."""
    whole = [(kind, found) for kind in among for found, missing in [look_alikes(kind, names)] if found and not missing]
    if not whole:
        return None
    kind, columns = max(whole, key=lambda guess: len(guess[1]))
    return f"{as_options(columns)} makes them {kind} data, if that is what they are"


def _open(head: Sequence[NumberedRow], columns: Mapping[str, str], name: str) -> bool:
    """Whether conversations end with a question: prompts, not demonstrations."""
    as_completion = Columns("completion", columns, has_template=True, file=name)
    as_prompt = Columns("prompt", columns, has_template=True, file=name)
    return not any(_reads(as_completion, row) for _, row in head) and any(_reads(as_prompt, row) for _, row in head)


def _reads(columns: Columns, row: Row) -> bool:
    try:
        columns.records(dict(row))
    except RowProblem:
        return False
    return True


__all__ = ["HEAD", "KINDS", "fitting_kinds", "kind_of", "no_kind"]
