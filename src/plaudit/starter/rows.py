"""What the rows of a file are, read through training's own readers and records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from plaudit.config.schema import SourceConfig
from plaudit.data.columns import Columns, look_alikes
from plaudit.data.conventions import FIELDS
from plaudit.data.kinds import HEAD, KINDS, fitting_kinds, kind_of
from plaudit.data.readers import NumberedRow, Rows, need_rows, read
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind

WORDS: dict[DataKind, str] = {
    "preference": "pairs of a chosen and a rejected answer",
    "ranking": "rankings of several answers",
    "feedback": "single answers with a thumb up or down",
    "completion": "demonstrations",
    "prompt": "prompts without answers",
}
"""What rows of a kind are, for people."""
_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:eval|evaluation|test|valid|validation|val|dev|held[-_]?out)(?:$|[^a-z])")


@dataclass(frozen=True, slots=True)
class Reading:
    """A way to read the rows."""

    kind: DataKind
    columns: Mapping[str, str]
    """our field → the file's column, where a name is not ours"""


@dataclass(frozen=True, slots=True)
class Looked:
    """A file that was looked at.

    Attributes:
        path: as it was given.
        readings: every way in which most of the first rows can be read, what the rows most likely are first.
        beside: a file of held-out rows of the same kind that lies beside it, with its rows.
    """

    path: str
    rows: Rows
    readings: tuple[Reading, ...]
    beside: Rows | None = None

    @property
    def kind(self) -> DataKind:
        """What the rows are."""
        return self.readings[0].kind

    def reading(self, kind: DataKind) -> Reading | None:
        """The way to read them as this kind."""
        return next((reading for reading in self.readings if reading.kind == kind), None)


def look(path: str, columns: Mapping[str, str]) -> Looked:
    """Read a file and say what its rows are.

    Args:
        path: file, folder or hub id, as training takes it.
        columns: our field → the file's column, where the user has said so.

    Raises:
        DataError: PL201-PL202 and PL209-PL210 reading, PL203 rows of no kind, PL207 no rows.
    """
    rows = read(SourceConfig(path=path))
    need_rows(rows.rows, path)
    readings = _readings(rows.rows[:HEAD], columns, path)
    return Looked(path, rows, readings, _beside(path, readings[0]))


def _readings(head: Sequence[NumberedRow], columns: Mapping[str, str], path: str) -> tuple[Reading, ...]:
    named = [Reading(kind, columns) for kind in KINDS if set(columns) <= set(FIELDS[kind])]
    found = [reading for reading in named if _reads(reading, head)]
    if not columns:
        known = {reading.kind for reading in found}
        guessed = (_renamed(kind, head) for kind in KINDS if kind not in known)
        found += [reading for reading in guessed if reading is not None and _reads(reading, head)]
    if not found:
        found = [Reading(kind_of(head, columns, path), columns)]
    return tuple(found)


def _renamed(kind: DataKind, head: Sequence[NumberedRow]) -> Reading | None:
    """The reading by columns whose names say the same as ours: question and response, say."""
    found, missing = look_alikes(kind, [str(name) for name in head[0][1]])
    columns = {ours: theirs for ours, theirs in found.items() if ours != theirs}
    return Reading(kind, columns) if columns and not missing else None


def _own_kind(rows: Rows) -> DataKind | None:
    """What rows are that nobody has asked for; None where it is nothing that is known."""
    try:
        return _readings(rows.rows[:HEAD], rows.columns, rows.name)[0].kind
    except DataError:
        return None


def _reads(reading: Reading, head: Sequence[NumberedRow]) -> bool:
    """Whether most rows are of this kind, values and all."""
    if not fitting_kinds(head, reading.columns, [reading.kind]):
        return False
    columns = Columns(reading.kind, reading.columns, has_template=True, file="")
    return sum(_is_record(columns, row) for row in head) * 2 > len(head)


def _is_record(columns: Columns, row: NumberedRow) -> bool:
    try:
        columns.records(dict(row[1]))
    except RowProblem:
        return False
    return True


def _beside(path: str, reading: Reading) -> Rows | None:
    """The file in the same folder whose name says that it is held out and whose rows are of the same kind; of several
    the one whose name is most like that of `path`."""
    own = Path(path)
    if not own.is_file():
        return None
    others = [p for p in sorted(own.parent.iterdir()) if p.suffix.lower() == own.suffix.lower() and p.name != own.name]
    others = [p for p in others if p.is_file() and _HELD_OUT.search(p.stem.lower())]
    for other in sorted(others, key=lambda p: -SequenceMatcher(None, p.stem, own.stem).ratio()):
        try:
            rows = read(SourceConfig(path=str(other), columns=dict(reading.columns)))
        except DataError:
            continue  # not a file that could be used; nobody has asked for it
        if rows.rows and _own_kind(rows) == reading.kind and _reads(reading, rows.rows[:HEAD]):
            return rows
    return None


__all__ = ["WORDS", "Looked", "Reading", "look"]
