"""Rows of files as items to score, and the scores back beside the rows.

Only prompt and answers are needed, so rows of every kind with an answer are taken: pairs, rankings, lists of answers
without any order, feedback, demonstrations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plaudit.data.book import Book, Invalid, Problems
from plaudit.data.columns import Columns
from plaudit.data.conventions import FIELDS
from plaudit.data.readers import Row, Rows, RowSource, read
from plaudit.data.records import AnyRecord, CompletionRecord, FeedbackRecord, PreferenceRecord, PromptRecord, build
from plaudit.data.recordset import DROP_ADVICE, new_report, open_columns, source_list
from plaudit.data.report import FileReport
from plaudit.data.turns import Message, RowProblem, Turns, parse_turns
from plaudit.errors import ConfigError, DataError
from plaudit.rewards.models.accuracy import Ranked
from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import RewardModel
from plaudit.types import Source

Shape = Literal["preference", "ranking", "answers", "completion"]
"""How a row holds its answers; "answers" is a list without ranks or scores."""
_KINDS: tuple[Literal["preference", "ranking", "completion"], ...] = ("preference", "ranking", "completion")
COLUMNS: dict[Shape, tuple[str, ...]] = {
    "completion": ("score",),
    "preference": ("chosen_score", "rejected_score"),
    "ranking": ("judge_scores",),
    "answers": ("scores",),
}
"""The columns that scores are written to. A ranking's own scores stay its own; a list of answers becomes a ranking."""
_LISTS = ("completions", "responses", "answers")
_ORDERS = ("ranks", "ranking", "rank", "scores", "rewards")
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """A row with its answers.

    Attributes:
        row: the row as it was read.
        items: one; several for a pair with several rejected answers.
        shape: how the scores are laid out in the row.
    """

    row: Row
    source: Source
    items: list[Item]
    shape: Shape

    @property
    def columns(self) -> tuple[str, ...]:
        """Where its scores go."""
        return COLUMNS[self.shape]

    def with_scores(self, scores: Sequence[Sequence[float | None]]) -> Row:
        """The row with its answers' scores, [item][answer] → a number or a list in each of `columns`."""
        values: list[Any]
        if self.shape == "preference":
            worse = [s[1] for s in scores]
            values = [scores[0][0], worse[0] if len(worse) == 1 else worse]
        else:
            values = [scores[0][0] if self.shape == "completion" else list(scores[0])]
        return {**self.row, **dict(zip(self.columns, values, strict=True))}


@dataclass(slots=True)
class AnswerRows:
    """The rows of some sources, and what happened to them."""

    rows: list[AnswerRow] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        """Every item of every row."""
        return [item for row in self.rows for item in row.items]

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return sum(len(answers) for _, answers in self.items)

    @property
    def names(self) -> list[str]:
        """Of the sources."""
        return [f.path for f in self.files]

    @property
    def dropped(self) -> int:
        """Rows that could not be used."""
        return sum(a.count for f in self.files for a in f.dropped.values())


def read_answers(
    sources: RowSource | Sequence[RowSource],
    *,
    has_template: bool,
    invalid: Invalid = "error",
    as_given: bool = False,
) -> AnswerRows:
    """Read rows that have answers.

    Args:
        sources: one or several files, hub ids, lists of dicts or data sets.
        has_template: whether there is a chat template; it decides how Alpaca rows are written.
        invalid: error, or drop: rows that cannot be used are left out and counted.
        as_given: take rows with `prompt` and `completion`, as `plaudit generate` writes them, as they are: answers may
            be empty.

    Raises:
        DataError: PL201-PL203, PL209-PL210 reading and columns, PL204 bad rows, PL207 none left.
    """
    problems, found = Problems(DROP_ADVICE), AnswerRows()
    for position, source in enumerate(source_list(sources), start=1):
        rows = read(source, position=position)
        file = new_report(rows)
        found.files.append(file)
        found.rows += _rows_of(rows, has_template, Book(file, problems, invalid), as_given)
    problems.raise_any(sum(f.rows for f in found.files))
    if not found.rows:
        raise DataError("PL207", "no row is left", where=", ".join(found.names), mend="mend the rows")
    return found


def _rows_of(rows: Rows, has_template: bool, book: Book, as_given: bool) -> list[AnswerRow]:
    generated = as_given and {"prompt", "completion"} <= _first(rows).keys()
    columns = None if generated else _columns(rows, has_template)
    found = []
    for number, row in rows.rows:
        source = Source(rows.name, number)
        try:
            if columns is None:
                named = _as_named(row, rows.columns)
                item = _generated(named, rows.columns) if generated else _listed(named)
                made = AnswerRow(row, source, [item], "completion" if generated else "answers")
            else:
                records = columns.records(row)
                made = AnswerRow(row, source, [_item(r) for r in records], _shape(records[0]))
            for prompt, answers in made.items:
                parse_turns(prompt, rows.columns.get("prompt", "prompt"))
                for k, answer in enumerate(answers, start=1):
                    parse_turns(answer, f"answer {k} of {_list_column(row) or 'the row'}")
            found.append(made)
        except RowProblem as problem:
            book.refuse(source, problem.reason, problem.detail)
    return found


def _first(rows: Rows) -> Row:
    return _as_named(rows.rows[0][1], rows.columns) if rows.rows else {}


def _as_named(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with our names for the columns that `columns` names."""
    return {**row, **{field: row[column] for field, column in columns.items() if column in row}} if columns else row


def _generated(row: Row, columns: Mapping[str, str]) -> Item:
    """Prompt and answer as they are; a problem names the column as the file calls it."""
    asked, said = (columns.get(field, field) for field in ("prompt", "completion"))
    prompt = parse_turns(row.get("prompt"), asked)
    if not prompt:
        raise RowProblem("empty", f"{asked} is empty")
    return prompt, [parse_turns(row.get("completion"), said)]


def _columns(rows: Rows, has_template: bool) -> Columns | None:
    """The reader of the first kind that understands the first row; None for lists of answers without an order."""
    first = rows.rows[0][1] if rows.rows else {}
    if _is_plain_list(_first(rows)):
        return None
    for kind in _KINDS:
        if not rows.columns.keys() <= set(FIELDS[kind]):
            continue
        columns = Columns(kind, rows.columns, has_template=has_template, file=rows.name)
        try:
            columns.records(dict(first))
        except RowProblem as problem:
            if problem.reason in ("columns", "wrong_type", "missing"):
                continue
        return open_columns(rows, kind, has_template=has_template)
    return open_columns(rows, "completion", has_template=has_template)


def _is_plain_list(row: Row) -> bool:
    """Whether the row is a prompt with answers that nobody has judged."""
    column = _list_column(row)
    if column is None or "prompt" not in row or any(name in row for name in _ORDERS):
        return False
    return all(isinstance(a, (str, list)) or (isinstance(a, dict) and "role" in a) for a in row[column])


def _list_column(row: Row) -> str | None:
    return next((c for c in _LISTS if isinstance(row.get(c), list)), None)


def _listed(row: Row) -> Item:
    column = _list_column(row)
    if column is None or not row[column]:
        raise RowProblem("missing", f"needs prompt and a list of answers ({', '.join(_LISTS)})")
    return build(PromptRecord, {"prompt": row.get("prompt")}).prompt, row[column]


def _shape(record: AnyRecord) -> Shape:
    if isinstance(record, PreferenceRecord):
        return "preference"
    return "completion" if isinstance(record, (CompletionRecord, FeedbackRecord)) else "ranking"


def _item(record: AnyRecord) -> Item:
    """Prompt and answers of a record.

    Raises:
        RowProblem: the row has something for the chat template that scoring would not hand on.
    """
    for name in ("tools", "chat_template_kwargs"):
        if getattr(record, name):
            raise RowProblem("wrong_type", f"has {name}, which would be missing from the text that is scored")
    if isinstance(record, PreferenceRecord):
        return record.prompt or "", [record.chosen, record.rejected]
    if isinstance(record, CompletionRecord):
        return _last_answer(record)
    assert not isinstance(record, PromptRecord)
    if isinstance(record, FeedbackRecord):
        return record.prompt, [record.completion]
    return record.prompt, record.completions


def _last_answer(record: CompletionRecord) -> Item:
    if record.prompt is not None and record.completion is not None:
        return record.prompt, [record.completion]
    if record.messages is None or isinstance(record.messages, str):
        raise RowProblem("missing", "is plain text without a prompt; a score belongs to an answer")
    turns: list[Message] = record.messages
    start = max((i for i, m in enumerate(turns) if m.role != "assistant"), default=-1) + 1
    prompt: Turns = turns[:start]
    if not prompt or start == len(turns):
        raise RowProblem("empty", "does not end with an answer to a prompt")
    return prompt, [turns[start:]]


def score_rows(model: RewardModel, rows: Sequence[AnswerRow]) -> Iterator[tuple[AnswerRow, list[list[float]]]]:
    """Each row with the scores of its items, in order.

    Raises:
        ConfigError: PL102, a row has a column of scores already; RewardError: PL705 from scoring.
    """
    refuse_scored(rows)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        scores = iter(model.score([item for row in chunk for item in row.items]))
        for row in chunk:
            yield row, list(itertools.islice(scores, len(row.items)))


def refuse_scored(rows: Sequence[AnswerRow], more: Sequence[str] = ()) -> None:
    """Raise ConfigError PL102 where a row has a column already that its scores (or `more`) would go to."""
    taken = next(((r, c) for r in rows for c in (*r.columns, *more) if c in r.row), None)
    if taken is not None:
        raise ConfigError(
            "PL102",
            f"the rows have a column {taken[1]!r} already",
            where=str(taken[0].source),
            mend="rename or remove it; scores are never overwritten",
        )


def comparisons(sources: RowSource | Sequence[RowSource], *, has_template: bool, invalid: Invalid = "error") -> Ranked:
    """Every comparison that pairs and rankings hold; ties are none.

    Raises:
        DataError: as `plaudit.data.recordset.read_records`; PL204, a row has tools or variables for the chat template.
    """
    from plaudit.data.recordset import read_records

    found: list[tuple[Item, list[tuple[int, int]]]] = []
    for record, source in read_records(sources, "ranking", has_template=has_template, invalid=invalid):
        try:
            item = _item(record)
        except RowProblem as problem:
            raise DataError("PL204", f"the row {problem.detail}", where=str(source), mend="leave it out") from problem
        order = record.ranked()
        pairs = [(i, j) for (a, i), (b, j) in itertools.combinations(order, 2) if a < b]
        found.append((item, pairs))
    return found
