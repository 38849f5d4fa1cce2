"""Conversion of whole files: rows in any known shape become rows of another kind in plaudit's own column names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plaudit.config.schema import SourceConfig
from plaudit.data.book import Invalid
from plaudit.data.convert import KINDS, PAIRS_PER_PROMPT, Conversion
from plaudit.data.converters import beside
from plaudit.data.kinds import fitting_kinds, no_kind
from plaudit.data.readers import Rows, RowSource, read
from plaudit.data.records import AnyRecord, FeedbackRecord, Judged, PreferenceRecord, RankingRecord
from plaudit.data.recordset import records_of
from plaudit.data.report import Converted, FileReport, reason_table
from plaudit.data.turns import Turns
from plaudit.errors import ConfigError, DataError

Judgement = Literal["preference", "ranking", "feedback"]
KNOWN: tuple[Judgement, ...] = ("preference", "ranking", "feedback")


@dataclass(frozen=True, slots=True)
class ConvertedRows:
    """Rows of the new kind, and what happened on the way.

    Attributes:
        rows: with the columns prompt, chosen, rejected; prompt, completions, ranks or scores; or prompt, completion,
            label. Whatever else the rows said is in further columns.
        file: the rows that were read.
        report: what was converted and what was left out.
    """

    rows: list[dict[str, Any]]
    file: FileReport
    report: Converted

    def summary_lines(self) -> list[str]:
        """For the terminal."""
        kept = f"; other columns: {', '.join(self.file.extras)}" if self.file.extras else ""
        lines = [f"{self.file.path}: {self.file.rows} rows ({', '.join(self.file.conventions)}{kept})"]
        if self.file.dropped:
            lines += ["dropped:", *reason_table([self.file]).splitlines()]
        return [*lines, *self.report.lines(indent="")]


def convert_rows(
    source: RowSource,
    to: Judgement,
    *,
    from_kind: Judgement | None = None,
    columns: Mapping[str, str] | None = None,
    pairs_per_prompt: int = PAIRS_PER_PROMPT,
    feedback_threshold: float | None = None,
    invalid: Invalid = "error",
) -> ConvertedRows:
    """Read a source and convert its rows.

    Args:
        source: path, list of dicts, or `datasets.Dataset`.
        to: kind that is wanted.
        from_kind: kind of the rows; None recognises it by their columns.
        columns: map from our field names to the source's column names.
        pairs_per_prompt: most pairs that one prompt becomes; 1 = best against worst.
        feedback_threshold: for rankings with scores: an answer with at least this score is liked; None = the best is
            liked, the worst is not.
        invalid: what becomes of rows without content or signal.

    Raises:
        ConfigError: PL102, a kind that does not exist.
        DataError: PL201-PL204, PL207, PL209, PL210 reading; PL207 nothing could be converted; PL212 there is nothing
            to convert, or an option has no meaning for this conversion.
    """
    for kind in (to, from_kind or to):
        if kind not in KNOWN:
            raise ConfigError(
                "PL102", f"{kind!r} is no kind of judgement", mend=f"use one of {', '.join(KNOWN)}", where="--to"
            )
    if columns:
        source = _mapped(source, columns)
    rows = read(source)
    conversion = Conversion(_name(rows, to, from_kind), pairs_per_prompt, feedback_threshold)
    _check_options(conversion, rows.name)
    found = records_of([rows], conversion.from_kind, has_template=True, invalid=invalid)
    made, report = conversion.apply(list(found))
    result = ConvertedRows([as_row(record) for record, _ in made], found.files[0], report)
    if not made:
        raise DataError(
            "PL207", "no row could be converted\n" + "\n".join(report.lines()), where=rows.name,
            mend="mend the rows, or choose another conversion",
        )  # fmt: skip
    return result


def _mapped(source: RowSource, columns: Mapping[str, str]) -> SourceConfig:
    if not isinstance(source, (str, Path)):
        raise ConfigError(
            "PL102",
            "a column map is for files; rows in memory can be renamed",
            where="argument columns",
            mend="name the columns of the rows as the fields are called",
        )
    return SourceConfig(path=str(source), columns=dict(columns))


def _name(rows: Rows, to: Judgement, from_kind: Judgement | None) -> str:
    """The conversion that leads from the rows to `to`."""
    fitting = fitting_kinds(rows.rows, rows.columns, KNOWN)
    others = [k for k in fitting if k != to] if from_kind is None else [from_kind]
    if to in others or (fitting and not others):
        raise DataError(
            "PL212",
            f"these are {to} rows already: there is nothing to convert",
            where=rows.name,
            mend="use the file as it is, or convert into another kind (--to)",
        )
    if len(others) > 1:
        raise DataError(
            "PL203", f"the rows can be read as {' and as '.join(others)}", where=rows.name,
            mend=f"say which: --from {others[0]}",
        )  # fmt: skip
    if not others:
        what = "the columns are not those of pairs, rankings or feedback"
        raise no_kind(what, rows.rows, KNOWN, rows.name)
    return next(name for name, kinds in KINDS.items() if kinds == (others[0], to))


def _check_options(conversion: Conversion, where: str) -> None:
    for name, given, meant in (
        ("pairs_per_prompt", conversion.pairs_per_prompt != PAIRS_PER_PROMPT, conversion.to_kind == "preference"),
        ("feedback_threshold", conversion.feedback_threshold is not None, conversion.name == "ranking_to_feedback"),
    ):
        if given and not meant:
            raise DataError("PL212", f"{name} has no meaning for {conversion.name}", where=where, mend="remove it")


def as_row(record: AnyRecord) -> dict[str, Any]:
    """A record as a row that reads as the same record."""
    row: dict[str, Any] = {}
    if isinstance(record, PreferenceRecord):
        row = {name: _plain(getattr(record, name)) for name in ("prompt", "chosen", "rejected")}
    elif isinstance(record, RankingRecord):
        row = {"prompt": _plain(record.prompt), "completions": [_plain(c) for c in record.completions]}
        row |= {"ranks": _whole(record.ranks)} if record.scores is None else {"scores": record.scores}
    elif isinstance(record, FeedbackRecord):
        row = {"prompt": _plain(record.prompt), "completion": _plain(record.completion), "label": record.label}
    if isinstance(record, Judged):
        said = {"margin": record.margin, "preference": record.preference, **record.kept}
        said["votes"] = _whole(record.votes)
        row |= {name: value for name, value in said.items() if value is not None}
    for name in ("tools", "chat_template_kwargs"):
        if getattr(record, name) is not None:
            row[name] = getattr(record, name)
    if record.weight != 1:
        row["weight"] = record.weight
    return beside(row, record.extras)


def _whole(numbers: Sequence[float] | None) -> list[float] | None:
    """Ranks and counts are whole numbers as a rule, and are written as such."""
    return None if numbers is None else [int(n) if n == int(n) else n for n in numbers]


def _plain(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [m.model_dump(exclude_none=True) for m in turns]


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Each row as one line of JSON; a value that JSON does not know (a date) is written as text."""
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def check_output(output: Path) -> None:
    """Before anything is read.

    Raises:
        ConfigError: PL102, the file exists, is not JSONL by its name, or its folder is not there.
    """
    problem, mend = None, ""
    if output.suffix.lower() != ".jsonl":
        problem, mend = "the rows are written as JSONL", f"name it {output.with_suffix('.jsonl').name}"
    elif output.exists():
        problem, mend = "the file exists already", "name another file, or remove it"
    elif not output.parent.is_dir():
        problem, mend = "there is no such folder", f"make {output.parent}"
    if problem is not None:
        raise ConfigError("PL102", problem, where=str(output), mend=mend)


def write_rows(rows: Iterable[Mapping[str, Any]], output: Path) -> None:
    """Write the rows; the file appears when it is complete.

    Raises:
        ConfigError: PL102, it cannot be written.
    """
    part = output.with_name(output.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(json_lines(rows))
        part.replace(output)
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the file cannot be written: {error.strerror}",
            where=str(output),
            mend="name another file, or permit writing",
        ) from error


__all__ = ["ConvertedRows", "as_row", "check_output", "convert_rows", "json_lines", "write_rows"]
