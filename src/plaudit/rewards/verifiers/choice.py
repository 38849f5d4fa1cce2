"""Multiple choice: one letter, said once."""

from __future__ import annotations

import re
import string
from typing import Any, Literal

from plaudit.rewards.contract import BadRow, RewardOptions, RewardResult, Sample, SampleReward, column
from plaudit.rewards.verifiers.reading import boxes, shown, stated

_LETTERS = string.ascii_uppercase
_MARK = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+(?:is|would\s+be))?\s*[:=]?\s*"
    r"(?=(?:[(\[*_\s]|\\text\s*\{|option\b){0,8}[A-Za-z]\b)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")


_END = 4000
"""An answer states its choice within so many characters of its end; a loop of words costs no time."""


class ChoiceOptions(RewardOptions):
    """Where the right letter is and how the answer gives it."""

    column: str = "answer"
    """Column with the right choice: a letter, or a number."""
    numbers_from: Literal[0, 1] = 0
    """What number the first choice has where the column holds numbers."""
    choices: int | str = "choices"
    """How many choices there are, or the column with the list of them; where it is missing, A to J."""
    tag: str | None = None
    """Read what stands between <tag> and </tag>."""


class ChoiceReward(SampleReward):
    """1 where the answer names the right letter, and no other."""

    kind = "choice"
    title = "Multiple choice: the answer settles on the right letter, and on no other"
    Options = ChoiceOptions

    @property
    def columns(self) -> tuple[str, ...]:
        """The right choice."""
        return (self.options.column,)

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        count = self._count(sample)
        right = self._right(column(sample, self.options.column, "the right choice"), count)
        said = chosen(stated(sample, self.options.tag) or "", count)
        note = "" if said == {right} else f"read {', '.join(sorted(said)) or 'no letter'}, expected {right}"
        return RewardResult.of(float(said == {right}), note=note)

    def _count(self, sample: Sample) -> int:
        given: Any = self.options.choices
        if isinstance(given, str):
            found = sample.row.get(given)
            given = found.get("text", found) if isinstance(found, dict) else found
            given = 10 if given is None else len(given) if isinstance(given, (list, tuple, dict)) else given
        if not isinstance(given, int) or not 2 <= given <= len(_LETTERS):
            raise BadRow(f"there are {given!r} choices, must be 2 to {len(_LETTERS)}")
        return given

    def _right(self, value: Any, count: int) -> str:
        text = str(value).strip().strip("().").upper()
        if text.isascii() and text.isdigit():
            number = int(text) - self.options.numbers_from
            text = _LETTERS[number] if 0 <= number < count else text
        if len(text) != 1 or text not in _LETTERS[:count]:
            raise BadRow(
                f"the right choice is {shown(str(value))}, must be one of {_LETTERS[0]} to {_LETTERS[count - 1]}"
            )
        return text


def chosen(text: str, count: int) -> set[str]:
    """The letters that an answer settles on; several where it does not settle.

    In this order: every \\boxed{…}; what follows the last "answer is", "Answer:" …; an answer that begins with its
    letter, "B" or "(B) because …". Letters elsewhere in the text are no choice: "A train leaves …".
    """
    known, text = set(_LETTERS[:count]), text.strip()
    boxed = boxes(text)
    if boxed:
        return {letter for box in boxed for letter in _named(box, known)}
    late = text[-_END:]
    marks = [m.end() for m in _MARK.finditer(late)]
    if marks:
        return _named(_first_sentence(late[marks[-1] :]), known)
    start = re.match(r"[\s(\[*_]*([A-Za-z])(?:[)\].:*_,]|\s*$|\s+(?:or|and|/|,)\s)", text)
    if start is None or start[1].upper() not in known:
        return set()
    return {start[1].upper()} | _others(text[: text.find("\n")] if "\n" in text.strip() else text, known)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^A-Z\s])[.;]\s|\n(?!\s*(?:or|and|/|,)\b)", text, maxsplit=1)[0]


def _named(text: str, known: set[str]) -> set[str]:
    """Capital letters that stand alone; a lower-case letter only where it is all there is."""
    bare = re.sub(r"\\text\w*|\\mathrm|[^A-Za-z]+", "", text)
    if len(bare) == 1:
        return {bare.upper()} & known
    start = re.match(r"[\s(\[*_]*([A-Za-z])(?![A-Za-z])", text)
    first = {start[1].upper()} & known if start else set()
    return first | _others(text, known)


def _others(text: str, known: set[str]) -> set[str]:
    """Letters offered beside the first: "B or C", "(A), (B)"; an article or a pronoun is none."""
    found = {letter for letter in _LETTER.findall(text) if letter in known and letter not in "AI"}
    found |= {m.upper() for m in re.findall(r"\b(?:or|and)\s+[(\[]?([a-z])\b(?!')", text)} & known
    return found | (
        {"A"}
        if re.search(r"[(\[]A[)\]]|\bor\s+A\b|\band\s+A\b|\bA\s+(?:or|and)\b|[,/]\s*A\b(?!\s+[a-z])|\bA\s*[,/]", text)
        else set()
    )
