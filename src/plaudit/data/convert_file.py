"""Conversion of whole files: rows in any known shape become rows of another kind in plaudit's own column names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from plaudit.config.schema import SourceConfig
from plaudit.data.book import Invalid
from plaudit.data.convert import KINDS, PAIRS_PER_PROMPT, Conversion
from plaudit.data.converters import beside
from plaudit.data.kinds import KINDS as KINDS_OF_ROWS
from plaudit.data.kinds import fitting_kinds, kind_of, no_kind
from plaudit.data.readers import Rows, RowSource, need_rows, read
from plaudit.data.records import AnyRecord, FeedbackRecord, Judged, PreferenceRecord, PromptRecord, RankingRecord
from plaudit.data.recordset import records_of
from plaudit.data.report import Converted, FileReport, reason_table
from plaudit.data.turns import Turns
from plaudit.errors import ConfigError, DataError
from plaudit.runs.jsonl import not_jsonl
from plaudit.types import DataKind

Judgement = Literal["preference", "ranking", "feedback"]
KNOWN: tuple[Judgement, ...] = ("preference", "ranking", "feedback")
MESSAGES = "messages"
"""What rows of any kind become where their texts are to go through a chat template."""
_SPEAKERS = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}


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
    to: Judgement | Literal["messages"],
    *,
    from_kind: DataKind | None = None,
    columns: Mapping[str, str] | None = None,
    pairs_per_prompt: int = PAIRS_PER_PROMPT,
    feedback_threshold: float | None = None,
    invalid: Invalid = "error",
) -> ConvertedRows:
    """Read a source and convert its rows.

    Args:
        source: path, list of dicts, or `datasets.Dataset`.
        to: kind that is wanted; messages = the same rows, of any kind, with each text as a chat message.
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
    _check_kinds(to, from_kind)
    if columns:
        source = _mapped(source, columns)
    rows = read(source)
    if to == "messages":
        _refuse_options(rows.name, "messages", pairs_per_prompt != PAIRS_PER_PROMPT, feedback_threshold is not None)
        return _with_messages(rows, from_kind, invalid)
    conversion = Conversion(_name(rows, to, cast("Judgement | None", from_kind)), pairs_per_prompt, feedback_threshold)
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


def _check_kinds(to: str, from_kind: str | None) -> None:
    known = KINDS_OF_ROWS if to == MESSAGES else KNOWN
    for option, given, allowed in (("--to", to, (*KNOWN, MESSAGES)), ("--from", from_kind, known)):
        if given is not None and given not in allowed:
            mend = f"use one of {', '.join(allowed)}"
            raise ConfigError("PL102", f"{given!r} is no kind of rows here", mend=mend, where=option)


def _with_messages(rows: Rows, kind: DataKind | None, invalid: Invalid) -> ConvertedRows:
    """The rows as they are, each text a message."""
    need_rows(rows.rows, rows.name)
    found = records_of([rows], kind or kind_of(rows.rows, rows.columns, rows.name), has_template=True, invalid=invalid)
    report = Converted(name="text to messages", records_in=len(found))
    made: list[dict[str, Any]] = []
    texts = 0
    for record, place in found:
        row = as_row(record)
        if not row.get("prompt") and not isinstance(row.get(MESSAGES), list):
            report.leave("no_prompt", place.row)
            continue
        spoken = _spoken(row)
        texts += spoken != row
        made.append(spoken)
    report.records_out = len(made)
    if not texts:
        raise DataError(
            "PL212", "no row has a prompt that is text: there is nothing to convert", where=rows.name,
            mend="use the file as it is",
        )  # fmt: skip
    return ConvertedRows(made, found.files[0], report)


def _spoken(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `as_row` with its texts as messages; a demonstration becomes one conversation."""

    def said(value: Any, role: str) -> Any:
        return [{"role": role, "content": value}] if isinstance(value, str) else value

    spoken = {name: said(value, _SPEAKERS[name]) if name in _SPEAKERS else value for name, value in row.items()}
    if "completions" in row:
        spoken["completions"] = [said(answer, "assistant") for answer in row["completions"]]
    if "completion" in row and "label" not in row:
        return {MESSAGES: spoken.pop("prompt") + spoken.pop("completion"), **spoken}
    return spoken


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
    limited = conversion.pairs_per_prompt != PAIRS_PER_PROMPT and conversion.to_kind != "preference"
    judged = conversion.feedback_threshold is not None and conversion.name != "ranking_to_feedback"
    _refuse_options(where, conversion.name, limited, judged)


def _refuse_options(where: str, name: str, pairs_per_prompt: bool, feedback_threshold: bool) -> None:
    """Refuse the options that are given and have no meaning here."""
    for option, in_vain in (("pairs_per_prompt", pairs_per_prompt), ("feedback_threshold", feedback_threshold)):
        if in_vain:
            raise DataError("PL212", f"{option} has no meaning for {name}", where=where, mend="remove it")


def as_row(record: AnyRecord) -> dict[str, Any]:
    """A record as a row that reads as the same record."""
    row: dict[str, Any]
    if isinstance(record, PreferenceRecord):
        row = {name: _plain(getattr(record, name)) for name in ("prompt", "chosen", "rejected")}
    elif isinstance(record, RankingRecord):
        row = {"prompt": _plain(record.prompt), "completions": [_plain(c) for c in record.completions]}
        row |= {"ranks": _whole(record.ranks)} if record.scores is None else {"scores": record.scores}
    elif isinstance(record, FeedbackRecord):
        row = {"prompt": _plain(record.prompt), "completion": _plain(record.completion), "label": record.label}
    elif isinstance(record, PromptRecord):
        row = {"prompt": _plain(record.prompt)}
    else:
        own = {name: getattr(record, name) for name in ("prompt", "completion", MESSAGES, "text")}
        row = {name: _plain(turns) for name, turns in own.items() if turns is not None}
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
    if output.suffix.lower() != ".jsonl":
        raise not_jsonl(output, output.with_suffix(".jsonl").name)
    problem, mend = None, ""
    if output.exists():
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
