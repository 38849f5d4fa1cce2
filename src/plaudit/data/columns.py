"""Recognise a row's columns and turn it into records.

The user's `columns:` map comes first, then the conventions of `plaudit.data.conventions`. Columns that nobody asked for
stay in `extras` and are named in the report.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from plaudit.data.conventions import (
    ALPACA_PAIR,
    CONVENTIONS,
    CONVERSION_OF,
    EXAMPLES,
    FIELDS,
    JUDGED,
    OPTIONAL_OF,
    PAIRS,
    SHAPES,
    VOTES,
    Convention,
    Row,
)
from plaudit.data.method_of import METHOD_OF
from plaudit.data.records import (
    AnyRecord,
    CompletionRecord,
    FeedbackRecord,
    PreferenceRecord,
    PromptRecord,
    RankingRecord,
    build,
)
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind

RECORDS: dict[DataKind, type[AnyRecord]] = {
    "completion": CompletionRecord,
    "preference": PreferenceRecord,
    "ranking": RankingRecord,
    "feedback": FeedbackRecord,
    "prompt": PromptRecord,
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "instruction", "problem", "input", "context", "user", "objective", "task"),
    "completion": ("response", "answer", "output", "solution", "target", "reply", "assistant", "ideal"),
    "chosen": ("chosen_response", "preferred", "better", "winner", "best", "accepted", "response_chosen", "pos"),
    "rejected": ("rejected_response", "dispreferred", "worse", "loser", "worst", "response_rejected", "neg"),
    "label": ("feedback", "is_good", "thumbs_up", "liked", "desirable", "score", "rating"),
    "completions": ("responses", "answers", "candidates", "generations", "outputs"),
    "ranks": ("ranking", "rank", "order", "positions"),
    "messages": ("message", "conversation", "dialog", "dialogue", "chat"),
    "text": ("content", "document"),
}
PICTURES = ("image", "images", "video", "videos", "audio", "audios")


class Columns:
    """Turns the rows of one file into records.

    Args:
        kind: what the method needs.
        columns: map from our field names to the file's column names.
        has_template: whether Alpaca rows can be written as messages.
        file: name for messages.

    Attributes:
        conventions: how many rows each convention recognised.
        extras: columns that were kept but mean nothing to us, with counts.
    """

    def __init__(self, kind: DataKind, columns: Mapping[str, str], *, has_template: bool, file: str) -> None:
        self.kind, self.map, self.has_template, self.file = kind, dict(columns), has_template, file
        self.conventions: Counter[str] = Counter()
        self.extras: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._cache: dict[frozenset[str], Convention | None] = {}
        for field in self.map:
            if field not in FIELDS[kind]:
                near = difflib.get_close_matches(field, FIELDS[kind], 1)
                raise DataError(
                    "PL203",
                    f"`columns` names the field {field!r}, which {kind} data does not have",
                    where=file,
                    mend=(f"did you mean {near[0]!r}? " if near else "") + f"fields are: {', '.join(FIELDS[kind])}",
                )

    def check(self, rows: Sequence[tuple[int, Row]]) -> None:
        """Refuse a file in which none of the first 100 rows has a known shape.

        Raises:
            DataError: PL203, with the columns found and expected, the closest guess and an example.
        """
        head = rows[:100]
        if not head:
            return
        number, first = head[0]
        missing = [c for c in self.map.values() if not any(c in row for _, row in head)]
        if missing:
            near = difflib.get_close_matches(missing[0], [str(k) for k in first], 1)
            raise DataError(
                "PL203",
                f"`columns` names the column {missing[0]!r}, which the file does not have\n"
                f"  found: {', '.join(map(str, first)) or 'no columns'}",
                where=f"{self.file}:{number}",
                mend=f"did you mean {near[0]!r}?" if near else "use one of the columns found",
            )
        if all(self._shape(self._renamed(row)) is None for _, row in head):
            raise self._unknown(number, self._renamed(first))

    def records(self, row: Row) -> list[AnyRecord]:
        """The record of a row; several when `rejected` is a list of answers.

        Raises:
            RowProblem: the row lacks a column, a value, or signal.
        """
        fields = self._renamed(row)
        shape = self._shape(fields)
        if shape is None:
            raise RowProblem("columns", f"has the columns {', '.join(map(str, row)) or '(none)'}; {self._needs()}")
        for name in PICTURES:
            if fields.get(name):
                raise RowProblem("wrong_type", f"has {name}; only text is supported")
        values = shape.convert(fields, self.has_template)
        for name, value in values.items():
            if value is None:
                raise RowProblem("missing", f"{name} is missing (null)")
        pair = shape in PAIRS
        if pair:
            _join_votes(fields)
        for name in self._optional(pair, values):
            if name == "votes" and name not in self.map and isinstance(fields.get(name), (int, float, str)):
                continue  # one number is no vote on two answers; it is kept like any other column
            value = fields.pop(name, None)
            if value is not None and value != "":  # an empty cell is how CSV writes null
                values[name] = value
        values["tools"] = _tools(values.get("tools"))
        values["extras"] = fields
        records = self._build(values, pair)
        self.conventions[shape.name] += 1
        self.extras.update(str(k) for k in fields)
        if shape.name.startswith("Alpaca") and not self.has_template:
            self.notes["alpaca_text"] += 1
        return records

    def _optional(self, pair: bool, values: Row) -> tuple[str, ...]:
        """Further columns that mean something; a margin or a preference is between two answers."""
        answers = values.get("completions")
        if pair or (isinstance(answers, list) and len(answers) == 2):
            return JUDGED if pair else tuple(name for name in JUDGED if name != "votes")
        return OPTIONAL_OF[self.kind]

    def fits(self, rows: Sequence[tuple[int, Row]]) -> bool:
        """Whether one of the first 100 rows has a shape of this kind; pairs are preference rows here, not rankings."""
        for _, row in rows[:100]:
            renamed = self._renamed(row)
            shape = self._shape(renamed)
            if shape is None or (self.kind == "ranking" and shape in PAIRS):
                continue
            if shape.name != ALPACA_PAIR or isinstance(renamed["output"], list):
                return True
        return False

    def _build(self, values: Row, pair: bool) -> list[AnyRecord]:
        if not pair:
            return [build(RECORDS[self.kind], values)]
        pairs = [build(PreferenceRecord, v) for v in self._expand(values)]
        self.notes["tied_pair"] += pairs[0].preference == 0.5
        self.notes["implicit_prompt"] += pairs[0].implicit_prompt
        return [RankingRecord.of_pair(p) for p in pairs] if self.kind == "ranking" else list(pairs)

    def _expand(self, values: Row) -> list[Row]:
        rejected = values.get("rejected")
        if not isinstance(rejected, list) or not rejected:
            return [values]
        if all(isinstance(r, dict) for r in rejected):
            return [values]
        self.notes["many_rejected"] += len(rejected) > 1
        return [values | {"rejected": r} for r in rejected]

    def _renamed(self, row: Row) -> Row:
        if not self.map:
            return dict(row)
        used = set(self.map.values())
        renamed = {field: row[column] for field, column in self.map.items() if column in row}
        return {k: v for k, v in row.items() if k not in used and k not in renamed} | renamed

    def _shape(self, row: Row) -> Convention | None:
        names = frozenset(row)
        if names not in self._cache:
            shapes = CONVENTIONS[self.kind]
            mapped = set(self.map)
            # a convention that uses every mapped field beats one that is only there by chance
            ranked = sorted(shapes, key=lambda s: -len(mapped & set(s.columns)))
            self._cache[names] = next((s for s in ranked if names.issuperset(s.columns)), None)
        return self._cache[names]

    def _needs(self) -> str:
        return f"{self.kind} data needs " + ", or ".join(SHAPES[self.kind])

    def _unknown(self, number: int, row: Row) -> DataError:
        names = [str(k) for k in row]
        needs = self._needs()
        other = max((k for k in CONVENTIONS if k != self.kind), key=lambda k: _fits(k, set(names)))
        conversion = CONVERSION_OF.get((other, self.kind)) if _fits(other, set(names)) else None
        guess, mend = self._guess(names, more_than=_fits(other, set(names))) if conversion is None else (None, "")
        lines = [f"the columns are not those of {self.kind} data", f"  found:    {', '.join(names) or 'none'}"]
        lines.append(f"  expected: {needs}")
        if guess:
            lines.append(f"  closest:  {guess}")
        elif _fits(other, set(names)):
            lines.append(f"  closest:  these look like {other} rows")
            mend = f"use a method for {other} data (plaudit {METHOD_OF[other]}), or a row like {EXAMPLES[self.kind]}"
        if conversion is not None:
            mend = f"convert them: data.convert: {conversion}, or `plaudit convert IN OUT --to {self.kind}`; or {mend}"
        return DataError("PL203", "\n".join(lines), where=f"{self.file}:{number}", mend=mend)

    def _guess(self, names: list[str], *, more_than: int) -> tuple[str | None, str]:
        """The convention most of whose columns have a look-alike, and the `columns:` map that would make it fit; a part
        of one only where it has more columns than another kind whose columns are all there."""
        best, missing = look_alikes(self.kind, names)
        renamed = {ours: theirs for ours, theirs in best.items() if ours != theirs}
        example = f"a row looks like {EXAMPLES[self.kind]}"
        if len(best) < len(missing) or not best:
            how = "--column FIELD=COLUMN, or in a file `columns: {<field>: <column>}`"
            return None, f"{example}; or say which columns to use: {how}"
        if missing and len(best) <= more_than:
            return None, example
        if missing:
            return f"{' + '.join(best)}, but {', '.join(missing)} is missing", example
        pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in renamed.items())
        guess = ", ".join(f"{theirs} for {ours}" for ours, theirs in renamed.items())
        return guess, f"{as_options(renamed)}, or in a file `columns: {{{pairs}}}`; {example}"


def as_options(columns: Mapping[str, str]) -> str:
    """A map of columns as a command line gives it; what has our name needs no option."""
    pairs = (f"{ours}={theirs}" for ours, theirs in columns.items() if ours != theirs)
    return " ".join(f"--column {shlex.quote(pair)}" for pair in pairs)


def look_alikes(kind: DataKind, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The shape of a kind most of whose columns have look-alikes among `names`: ({our field: column}, the fields that
    have none)."""
    best: dict[str, str] = {}
    score, missing = 0.0, list[str]()
    for shape in CONVENTIONS[kind]:
        found = _alike(shape.columns, list(names))
        if len(found) / len(shape.columns) > score:
            best, score = found, len(found) / len(shape.columns)
            missing = [c for c in shape.columns if c not in found]
    return best, missing


def fits(rows: Sequence[tuple[int, Row]], kind: DataKind, columns: Mapping[str, str]) -> bool:
    """Whether rows look like this kind of data; pairs are preference data here, not rankings."""
    if any(field not in FIELDS[kind] for field in columns):
        return False
    return Columns(kind, columns, has_template=True, file="").fits(rows)


def _alike(wanted: Sequence[str], names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for ours in wanted:
        free = [n for n in names if n not in found.values()]
        lower = {n.lower(): n for n in reversed(free)}
        words = (ours, *SYNONYMS.get(ours, ()))
        near = [m for word in words for m in difflib.get_close_matches(word, list(lower), 1, cutoff=0.8)]
        ends = [name for name in lower if name.rpartition("_")[2] in words]  # assistant_response
        candidates = [c for c in (*words, *near, *ends) if c in lower]
        if candidates:
            found[ours] = lower[candidates[0]]
    return found


def _fits(kind: DataKind, names: set[str]) -> int:
    """How many columns the largest convention has that fits; 0 when none does."""
    return max((len(s.columns) for s in CONVENTIONS[kind] if names.issuperset(s.columns)), default=0)


def _join_votes(fields: Row) -> None:
    """`votes_chosen` and `votes_rejected` as `votes`; one without the other is a column like any other."""
    if not all(name in fields for name in VOTES):
        return
    counts = [None if value == "" else value for value in (fields[name] for name in VOTES)]
    missing = [name for name, value in zip(VOTES, counts, strict=True) if value is None]
    if len(missing) == 1:
        raise RowProblem("missing", f"{missing[0]} is missing (null)")
    if missing:
        counts = []
    elif fields.get("votes") is not None:
        raise RowProblem("wrong_type", "has votes as well as votes_chosen and votes_rejected; give one of the two")
    for name in VOTES:
        del fields[name]
    if counts:
        fields["votes"] = counts


def _tools(value: Any) -> Any:
    """`tools` as a list of schemas; ShareGPT files keep it as JSON text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowProblem("wrong_type", f"tools is not valid JSON: {error.msg}") from None
