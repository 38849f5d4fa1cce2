"""Rows as checked records without a tokeniser: for evaluation and conversion, and the first half of `prepare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, overload

from plaudit.config.schema import SourceConfig
from plaudit.data.book import Book, Invalid, Problems
from plaudit.data.columns import Columns
from plaudit.data.readers import Rows, RowSource, need_rows, read
from plaudit.data.records import AnyRecord, FeedbackRecord, PreferenceRecord, RankingRecord
from plaudit.data.report import Affected, FileReport, reason_table, source_lines
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind, Source

R = TypeVar("R", bound=AnyRecord, covariant=True)
Sources = RowSource | Sequence[RowSource]
"""One or several of: `SourceConfig`, path, list of dicts, `datasets.Dataset`."""
DROP_ADVICE = 'drop and count them with --invalid drop (in Python: invalid="drop")'


@dataclass(frozen=True, slots=True)
class RecordSet(Generic[R]):
    """Records in the order of their rows, each with the row it came from.

    Attributes:
        records: a row is several records where it has several rejected answers.
        sources: [len(records)] file and row of each.
        files: what happened to the rows, file by file: recognised shapes, extra columns, dropped rows by reason.
    """

    records: Sequence[R]
    sources: Sequence[Source]
    files: Sequence[FileReport]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[R, Source]]:
        return iter(zip(self.records, self.sources, strict=True))

    @property
    def rows(self) -> int:
        """Rows read."""
        return sum(f.rows for f in self.files)

    @property
    def dropped(self) -> int:
        """Rows dropped."""
        return sum(a.count for f in self.files for a in f.dropped.values())

    def summary_lines(self) -> list[str]:
        """For the terminal: one line per file, and the dropped rows by reason."""
        lines = source_lines(self.files)
        return [*lines, *reason_table(self.files).splitlines()] if self.dropped else lines


@overload
def read_records(
    sources: Sources, kind: Literal["preference"], *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[PreferenceRecord]: ...
@overload
def read_records(
    sources: Sources, kind: Literal["ranking"], *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[RankingRecord]: ...
@overload
def read_records(
    sources: Sources, kind: Literal["feedback"], *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[FeedbackRecord]: ...
@overload
def read_records(
    sources: Sources, kind: DataKind, *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[AnyRecord]: ...
def read_records(
    sources: Sources, kind: DataKind, *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[AnyRecord]:
    """Read sources and check their rows, without tokenising.

    Args:
        sources: one or several of: `SourceConfig`, path, list of dicts, `datasets.Dataset`.
        kind: what the rows are to be read as. "ranking" takes pairs too, as rankings of two answers.
        has_template: whether there is a chat template; it decides how Alpaca rows are written.
        invalid: error = a row without content or signal raises; drop = it is left out and counted.

    Raises:
        DataError: PL201-PL203 and PL209-PL210 reading and columns, PL204 bad rows, PL207 none left.
    """
    read_in = [read(source, position=position) for position, source in enumerate(source_list(sources), start=1)]
    return records_of(read_in, kind, has_template=has_template, invalid=invalid)


def records_of(
    sources: Sequence[Rows], kind: DataKind, *, has_template: bool, invalid: Invalid = "error"
) -> RecordSet[AnyRecord]:
    """`read_records` for rows that have been read.

    Raises:
        DataError: PL203 columns, PL204 bad rows, PL207 none left.
    """
    problems = Problems(DROP_ADVICE)
    records: list[AnyRecord] = []
    places: list[Source] = []
    files: list[FileReport] = []
    for rows in sources:
        columns = open_columns(rows, kind, has_template=has_template)
        file = new_report(rows)
        for record, place in checked(rows, columns, Book(file, problems, invalid)):
            records.append(record)
            places.append(place)
        take_counts(file, columns)
        files.append(file)
    found = RecordSet(records, places, files)
    problems.raise_any(found.rows)
    if not records:
        raise DataError(
            "PL207", f"no row is left of {found.rows}\n{reason_table(files)}",
            where=", ".join(f.path for f in files), mend="mend the rows",
        )  # fmt: skip
    return found


def source_list(sources: Sources) -> list[RowSource]:
    """The sources one by one; a list of rows is one source."""
    one = isinstance(sources, (str, SourceConfig)) or not isinstance(sources, (list, tuple))
    if not one and sources and all(isinstance(s, Mapping) for s in sources):
        one = True
    return [sources] if one else list(sources)


def open_columns(rows: Rows, kind: DataKind, *, has_template: bool) -> Columns:
    """The reader of the rows' columns.

    Raises:
        DataError: PL203 the columns are not those of `kind`, PL207 there are no rows.
    """
    need_rows(rows.rows, rows.name)
    columns = Columns(kind, rows.columns, has_template=has_template, file=rows.name)
    columns.check(rows.rows)
    return columns


def new_report(rows: Rows) -> FileReport:
    """An empty report on a source."""
    return FileReport(path=rows.name, rows=len(rows.rows), weight=rows.weight)


def checked(rows: Rows, columns: Columns, book: Book) -> Iterator[tuple[AnyRecord, Source]]:
    """The records of a source, row by row; bad rows go to the book."""
    for number, row in rows.rows:
        source = Source(rows.name, number)
        try:
            found = columns.records(row)
        except RowProblem as problem:
            book.refuse(source, problem.reason, problem.detail)
            continue
        for record in found:
            yield record, source


def take_counts(file: FileReport, columns: Columns) -> None:
    """What the columns' reader has counted, once all rows are read."""
    file.conventions, file.extras = dict(columns.conventions), dict(columns.extras)
    for note, count in columns.notes.items():
        if count:
            file.notes[note] = Affected(count=count)


__all__ = ["RecordSet", "read_records"]
