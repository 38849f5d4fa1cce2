"""What rows are, told from their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from plaudit.data.columns import Columns, fits
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


def kind_of(rows: Sequence[NumberedRow], columns: Mapping[str, str], name: str, mend: str) -> DataKind:
    """What the rows of a source are.

    Args:
        rows: the first of them, at least one.
        columns: the source's own map of columns.
        mend: what to do where it is nothing that is known.

    Raises:
        DataError: PL203, nothing that is known.
    """
    head = rows[:HEAD]
    fitting = fitting_kinds(head, columns, KINDS)
    if not fitting:
        raise no_kind("the columns are those of no data kind", head, KINDS, f"{name}:{head[0][0]}", mend)
    if fitting[0] == "completion" and "prompt" in fitting and _open(head, columns, name):
        return "prompt"
    return fitting[0]


def fitting_kinds(rows: Sequence[NumberedRow], columns: Mapping[str, str], among: Sequence[_Kind]) -> list[_Kind]:
    """The kinds that the rows can be read as."""
    return [kind for kind in among if fits(rows, kind, columns)]


def no_kind(what: str, rows: Sequence[NumberedRow], among: Sequence[DataKind], where: str, mend: str) -> DataError:
    """The error for rows that can be read as none of some kinds, with the columns that these have."""
    shapes = "\n".join(f"  {kind}: {', or '.join(SHAPES[kind])}" for kind in among)
    has = ", ".join(map(str, rows[0][1])) if rows else "no rows"
    return DataError("PL203", f"{what}\n  found: {has}\n{shapes}", where=where, mend=mend)


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
