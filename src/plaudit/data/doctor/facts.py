"""Everything that the checks need to know about a row, small enough to be kept for every row of a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from plaudit.data.columns import Columns
from plaudit.data.conventions import Row
from plaudit.data.doctor.balance import position_of
from plaudit.data.doctor.characters import broken, has_mojibake
from plaudit.data.doctor.entries import Entry, entry, plain
from plaudit.data.doctor.leaks import question, quotes, without_question
from plaudit.data.doctor.markup import role_marker, special, turn_problem
from plaudit.data.doctor.mend import EDITS, Mender
from plaudit.data.doctor.personal import Value, hide, personal
from plaudit.data.doctor.scripts import script
from plaudit.data.doctor.thresholds import LANGUAGE_CHARACTERS, SHOWN
from plaudit.data.doctor.words import digests, loose_key, numbers, numbers_key, turns_key, words
from plaudit.data.readers import NumberedRow
from plaudit.data.turns import RowProblem
from plaudit.types import DataKind


@dataclass(slots=True)
class AnswerFacts:
    """One answer.

    Attributes:
        key, loose: equal for answers that are the same up to white space; up to case and punctuation.
        length: in characters.
        standing: "rank 1", "liked", "disliked" or "answer".
        rank: 1 is best; None where nothing is compared.
    """

    key: int
    loose: int
    length: int
    standing: str
    rank: float | None


@dataclass(slots=True)
class Facts:
    """One row.

    Attributes:
        row: its number in the file.
        problem: (reason, sentence) why the readers refuse it; everything below is empty then.
        flags: check → a piece of the row that shows the fault.
        values: kind of personal data → how many values.
        prompt, prompt_loose: keys, as in `AnswerFacts`; `prompt_loose` is 0 without a prompt.
        prompt_numbers, numbers: keys of the numbers in the prompt, and in prompt and answers.
        prompt_words, words: counts.
        prompt_digest, answer_digest: MinHash, PERMUTATIONS values of 32 bits each; empty for short rows.
        label: of feedback.
        system: key of the system prompt; None without one, and for text.
        chat: messages and not text.
        script, answer_scripts: see `scripts`.
        sample: beginnings of prompt and answers, for the language; None for rows that are not sampled.
        position: (column, side) where the row says at which place the better answer was shown.
        shown: the beginning of the prompt, masked.
        mended: the same row after `mend`, where that changes anything.
        edits: check → places that `mend` changes.
    """

    row: int
    problem: tuple[str, str] | None = None
    flags: dict[str, str] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    prompt: int = 0
    prompt_loose: int = 0
    answers: tuple[AnswerFacts, ...] = ()
    prompt_numbers: int = 0
    numbers: int = 0
    prompt_words: int = 0
    words: int = 0
    prompt_digest: bytes = b""
    answer_digest: bytes = b""
    label: bool | None = None
    system: int | None = None
    chat: bool = False
    script: str = ""
    answer_scripts: tuple[str, ...] = ()
    sample: tuple[str, ...] | None = None
    position: tuple[str, str] | None = None
    shown: str = ""
    mended: Facts | None = None
    edits: dict[str, int] = field(default_factory=dict)

    @property
    def after(self) -> Facts:
        """The row as `--fix` leaves it."""
        return self.mended or self


class Examiner:
    """Finds the facts of rows.

    Args:
        kind, columns: what the rows are, as the readers take them.
        file: name for messages.
        mend: also look at each row as `Mender` would leave it.
        keep: checks that are not mended.

    Attributes:
        shapes: how many rows each known shape has.
    """

    def __init__(
        self, kind: DataKind, columns: Mapping[str, str], file: str, *, mend: bool = False, keep: Collection[str] = ()
    ) -> None:
        self.columns = Columns(kind, columns, has_template=True, file=file)
        self.mend, self.keep = mend, frozenset(keep)

    @property
    def shapes(self) -> Counter[str]:
        return self.columns.conventions

    def look(self, rows: Sequence[NumberedRow], stride: int = 1) -> list[Facts]:
        """Facts of rows, in their order.

        Args:
            rows: (number, columns).
            stride: every so many rows one is sampled for its language.
        """
        batch = _Batch()
        found = [self._row(number, row, batch, stride) for number, row in rows]
        batch.finish()
        return found

    def _row(self, number: int, row: Row, batch: _Batch, stride: int) -> Facts:
        facts, read = self._facts(number, row, batch, number % stride == 0)
        if self.mend and read is not None and _may_need_mending(facts):
            mender = Mender(read, self.keep)
            mended = mender.row(row)
            facts.edits = {check: n for check, n in mender.done.items() if n}
            if facts.edits:
                counted = self.columns.conventions.copy()
                facts.mended, _ = self._facts(number, mended, batch, sampled=False)
                self.columns.conventions = counted
        return facts

    def _facts(self, number: int, row: Row, batch: _Batch, sampled: bool) -> tuple[Facts, Entry | None]:
        try:
            read = entry(self.columns.records(dict(row)))
        except RowProblem as problem:
            return Facts(number, problem=(problem.reason, hide(problem.detail))), None
        facts = _texts(number, read, batch)
        if sampled:
            facts.sample = tuple(plain(t)[:LANGUAGE_CHARACTERS] for t in (read.prompt, *read.answers))
        return facts, read


def _may_need_mending(facts: Facts) -> bool:
    return bool(facts.values) or any(check in facts.flags for check in EDITS)


class _Batch:
    """Digests are made for many texts at once."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.texts: list[list[tuple[str, list[str]]]] = []

    def add(self, facts: Facts, prompt: list[str], answers: list[tuple[str, list[str]]]) -> None:
        self.facts.append(facts)
        self.texts += [[("", prompt)], answers]

    def finish(self) -> None:
        rows = digests(self.texts)
        for i, facts in enumerate(self.facts):
            facts.prompt_digest, facts.answer_digest = rows[2 * i].tobytes(), rows[2 * i + 1].tobytes()


def _texts(number: int, read: Entry, batch: _Batch) -> Facts:
    prompt, answers = plain(read.prompt), [plain(a) for a in read.answers]
    prompt_words = words(plain(read.prompt, system=False))
    answer_words = [words(a) for a in answers]
    in_prompt = numbers(prompt)
    ranks = read.ranks or (None,) * len(answers)
    facts = Facts(
        number,
        prompt=turns_key(read.prompt),
        prompt_loose=loose_key(prompt_words) if read.prompt is not None else 0,
        answers=tuple(
            AnswerFacts(turns_key(turns), loose_key(found), len(text), standing, rank)
            for turns, found, text, standing, rank in zip(
                read.answers, answer_words, answers, read.standings, ranks, strict=True
            )
        ),
        prompt_numbers=numbers_key(in_prompt),
        numbers=numbers_key([*in_prompt, *(number for a in answers for number in numbers(a))]),
        prompt_words=len(prompt_words),
        words=len(prompt_words) + sum(map(len, answer_words)),
        label=read.label,
        chat=not isinstance(read.prompt, str) and read.prompt is not None,
        script=script(prompt),
        answer_scripts=tuple(map(script, answers)),
        position=position_of(read.extras) if read.ranks else None,
    )
    # The same words are something else at another place of a ranking, or with the other label.
    batch.add(facts, prompt_words, list(zip(read.standings, answer_words, strict=True)))
    values = [v for text in (prompt, *answers) for v in personal(text)]
    _flag_texts(facts, read, prompt, answers, values)
    return facts


def _flag_texts(facts: Facts, read: Entry, prompt: str, answers: list[str], values: list[Value]) -> None:
    def show(text: str, start: int = 0) -> str:
        return shown(hide(text)) if values else shown(text[max(0, start - 20) :])

    facts.shown = show(prompt or (answers[0] if answers else ""))
    facts.values = dict(Counter(v.kind for v in values))
    for value in reversed(values):
        facts.flags[value.kind] = value.masked
    rendered = isinstance(read.prompt, str) and special(prompt) is not None
    if rendered:
        facts.flags["rendered_prompts"] = facts.shown
    for text in (*answers, *(() if isinstance(read.prompt, str) else (prompt,))):
        match = None if rendered else special(text)
        if match is not None:
            facts.flags.setdefault("special_tokens", show(text, match.start()))
    for text in (prompt, *answers):
        for check, match in broken(text):
            if match is not None:
                facts.flags.setdefault(check, show(text, match.start()))
        if has_mojibake(text):
            facts.flags.setdefault("mojibake", show(text, _mojibake_at(text)))
    asked = question(read.prompt)
    for answer in answers:
        if without_question(asked, answer) is not None:
            facts.flags.setdefault("prompt_leak", show(answer))
        elif quotes(asked, answer):
            facts.flags.setdefault("prompt_quoted", show(answer, answer.find(asked, 1)))
        match = role_marker(answer)
        if match is not None:
            facts.flags.setdefault("role_markers", show(answer, match.start()))
    _flag_turns(facts, read, values)


def _mojibake_at(text: str) -> int:
    return next((i for i, c in enumerate(text) if c > "\xc1"), 0)


def _flag_turns(facts: Facts, read: Entry, values: list[Value]) -> None:
    for messages in read.messages():
        problem = turn_problem(messages)
        if problem is not None:
            facts.flags.setdefault("turn_order", problem)
    head = read.prompt if isinstance(read.prompt, list) else None
    if head and head[0].role == "system":
        facts.system = turns_key(head[:1])
        text = head[0].content or ""
        facts.flags["system_prompt"] = shown(hide(text)) if values else shown(text)


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufeff\u200b\u2060]")


def shown(text: str) -> str:
    """A piece of a text on one line; characters that a terminal would obey, or not show, are escaped."""
    line = " ".join(text[: 4 * SHOWN].split(" "))
    line = re.sub(r"\s*\n\s*", " ⏎ ", line.strip("\n\t "))
    line = _UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", line)
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


__all__ = ["AnswerFacts", "Examiner", "Facts", "shown"]
