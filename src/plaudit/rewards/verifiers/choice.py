"""Multiple choice: one letter, said once."""

from __future__ import annotations

import re
import string
from typing import Any, Literal

from plaudit.rewards.contract import BadRow, RewardOptions, RewardResult, Sample, SampleReward, column
from plaudit.rewards.verifiers.reading import Unclear, bare_reference, boxes, shown, stated

_LETTERS = string.ascii_uppercase
_MARK = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+(?:is|would\s+be))?\s*[:=]?\s*"
    r"(?=(?:[(\[*_\s$]|\\\(|\\text\s*\{|option\b){0,8}[A-Za-z]\b)",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"([0-9]+)\.0+")
"""What CSV makes of a whole number."""
_LETTER = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")
_CORRECT = re.compile(
    r"\s(?:is|are)\s+(?:both\s+)?(?:(?:the|a)\s+)?(?:only\s+)?(?:correct|right|best)"
    r"(?:\s+(?:answer|choice|option|one)s?\b|(?=\s*(?:[.,;:!)*_$]|$|\b(?:because|since|as|and|or)\b)))"
)
"""B is correct, B is the right answer; and not "B is right of C", "B is correct?", which leaves it open."""
_ONE = r"[(\[*_$]{0,4}[A-Z][)\]*_$]{0,4}"
_LETTERS_BEFORE = re.compile(
    rf"(?<![A-Za-z0-9'’]){_ONE}(?:\s*(?:[,/&]\s*(?:(?:or|and)\s+)?|(?<=\s)(?:or|and)\s+){_ONE})*\s*\Z"
)
_BEFORE = 80
"""Characters in which they stand."""
_OPEN = re.compile(r"(?:\b(?:not|neither|nor|if|whether|unless|cannot|doubt|either)\b|n['’]t\b)", re.IGNORECASE)
_AND = re.compile(r"\s*,?\s*(?:and|or|but)\b[^.;\n]*")
_SENTENCE = re.compile(r"[.;!?]\s|\n")

_DRESSED = r"(?:[\s(\[*_${]|\\[(\[]|\\(?:text|mathrm|mathbf|textbf)\s*(?=\{))*"
"""What may stand before a letter: brackets, Markdown, the signs and fonts of formulas."""
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
    """Read what stands between <tag> and </tag>, which must be there once. Default: what stands in <answer> where there
    is such an element (several different ones are no answer), else everything behind the thought."""


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
        try:
            said = chosen(stated(sample, self.options.tag), count)
        except Unclear as problem:
            return RewardResult.of(0, note=str(problem))
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
        whole = isinstance(value, float) and value.is_integer()  # columns of pandas, with gaps or from CSV
        text = bare_reference(str(int(value) if whole else value), self.options.column)
        text = text.strip().strip("$().").upper()
        if (written := _WHOLE.fullmatch(text)) is not None:
            text = written[1]
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

    In this order: every \\boxed{…}; what follows the last "answer is", "Answer:" …; whatever "is correct" or
    "is the right choice"; an answer that begins with its letter, "B", "$B$" or "(B) because …". Letters elsewhere in
    the text are no choice: "A train leaves …".
    """
    known, text = set(_LETTERS[:count]), text.strip()
    boxed = boxes(text)
    if boxed:
        return {letter for box in boxed for letter in _named(box, known)}
    late = text[-_END:]
    marks = [m.end() for m in _MARK.finditer(late)]
    settled = _named(_first_sentence(late[marks[-1] :]), known) if marks else set()
    settled = settled or _said_correct(late, known)
    if settled or marks:
        return settled
    start = re.match(rf"{_DRESSED}([A-Za-z])(?:[)\].:*_,$}}]|\\[)\]]|\s*$|\s+(?:or|and|/|,)\s)", text)
    if start is None or start[1].upper() not in known:
        return set()
    return {start[1].upper()} | _others(text[: text.find("\n")] if "\n" in text.strip() else text, known)


def _said_correct(text: str, known: set[str]) -> set[str]:
    """The letters of every "B is correct", and what is added to one: "B is correct, and so is C"."""
    found: set[str] = set()
    for match in _CORRECT.finditer(text):
        before = _SENTENCE.split(text[max(0, match.start() - _BEFORE) : match.start()])[-1]
        letters = _LETTERS_BEFORE.search(before)
        if letters is not None and _OPEN.search(before) is None:
            found |= set(_LETTER.findall(letters[0])) & known
            more = _AND.match(text, match.end())
            found |= _others(more[0], known) if more is not None else set()
    return found


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^A-Z\s])[.;]\s|\n(?!\s*(?:or|and|/|,)\b)", text, maxsplit=1)[0]


def _named(text: str, known: set[str]) -> set[str]:
    """Capital letters that stand alone; a lower-case letter only where it is all there is."""
    bare = re.sub(r"\\text\w*|\\mathrm|[^A-Za-z]+", "", text)
    if len(bare) == 1:
        return {bare.upper()} & known
    start = re.match(rf"{_DRESSED}([A-Za-z])(?![A-Za-z])", text)
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
