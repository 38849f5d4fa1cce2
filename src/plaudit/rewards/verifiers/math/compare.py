"""Whether an answer is the reference: structures part by part, single expressions exactly.

Every comparison says yes, no, or that something stronger has to look (None): an algebra system in a worker process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from plaudit.rewards.verifiers.math import expression
from plaudit.rewards.verifiers.math.exact import TooBig, Unsupported
from plaudit.rewards.verifiers.math.expression import Parsed
from plaudit.rewards.verifiers.math.labels import clock_of, letter_of, without_label
from plaudit.rewards.verifiers.math.literal import is_decimal, is_number, to_be_computed
from plaudit.rewards.verifiers.math.names import commits, for_different_things, is_plain, spelled, stands_for_a_value
from plaudit.rewards.verifiers.math.notation import squeezed
from plaudit.rewards.verifiers.math.structure import Approximate, Atom, Equation, Group, Node, Relation, read
from plaudit.rewards.verifiers.math.units import without_units

AtomEquality: TypeAlias = Callable[[str, str], bool | None]
"""(reference, answer) → whether they are the same."""

_UNORDERED = ("list", "set", "union")
_SAME_WORDS = (
    frozenset(
        {r"\emptyset", "none", "no solution", "no solutions", "empty set", "no real solution", "no real solutions"}
    ),
    frozenset({r"\mathbb{R}", "all real numbers", "all reals", "all real values", "real numbers"}),
)
"""Signs and words for the same."""


def equal(gold: Node, answer: Node, atoms: AtomEquality) -> bool | None:
    """Whether two structures are the same.

    Args:
        gold: the reference.
        answer: what was answered.
        atoms: decides about single expressions.
    """
    if isinstance(gold, Approximate):
        return _any([equal(gold.exact, answer, atoms), equal(gold.rounded, answer, atoms)])
    if isinstance(answer, Approximate):
        return _approximate(gold, answer, atoms)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _equations(gold, answer, atoms)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(gold, answer, atoms)
    if isinstance(gold, Atom) and isinstance(answer, Atom):
        if _is_question(gold.text, answer.text):
            return False
        return atoms(gold.text, answer.text)
    if isinstance(gold, Atom) or isinstance(answer, Atom):
        return _single(gold, answer, atoms)
    return _groups(gold, answer, atoms)


def _is_question(gold: str, answer: str) -> bool:
    if not to_be_computed(answer):
        return False
    both = pair(gold, answer)
    return is_number(both.gold) and to_be_computed(both.answer)


def _approximate(gold: Node, answer: Approximate, atoms: AtomEquality) -> bool | None:
    """22/7 ≈ 3.14 is 22/7; where a decimal is asked for, it is 3.14."""
    if not (isinstance(gold, Atom) and is_decimal(gold.text) and "." in gold.text):
        same = equal(gold, answer.exact, atoms)
        return False if same is not False and _far_apart(answer) else same
    return not _far_apart(answer) and equal(gold, answer.rounded, atoms)


def _far_apart(answer: Approximate) -> bool:
    """Whether the decimal is certainly no rounding of what is before it."""
    try:
        exact, rounded = (parsed(side.text).value.rational for side in (answer.exact, answer.rounded))  # type: ignore[union-attr]
    except (AttributeError, Unsupported, TooBig):
        return False
    places = len(answer.rounded.text.partition(".")[2])
    return exact is not None and rounded is not None and abs(exact - rounded) * 10**places > 1


def _single(gold: Node, answer: Node, atoms: AtomEquality) -> bool | None:
    """One value against several: a set of one is its value, and matrices and the like may be computed."""
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Group) and one.kind == "set" and len(one.items) == 1:
            return equal(one.items[0], other, atoms) if one is gold else equal(other, one.items[0], atoms)
    if isinstance(gold, Atom) and isinstance(answer, Group) and answer.kind == "list" and _in_different_forms(answer):
        return _all(equal(gold, item, atoms) for item in answer.items)
    return False


def _in_different_forms(answer: Group) -> bool:
    """1/2, or 50 %; not 5, 5, which are two values."""
    texts = [squeezed(item.text) for item in answer.items if isinstance(item, Atom)]
    return len(set(texts)) == len(answer.items)


def _groups(gold: Group, answer: Group, atoms: AtomEquality) -> bool | None:
    if {gold.kind, answer.kind} == {"matrix", "tuple"}:
        gold, answer = _vector(gold), _vector(answer)
    if len(gold.items) != len(answer.items):
        return False
    if gold.kind in _UNORDERED and answer.kind in _UNORDERED:
        return _unordered(gold.items, answer.items, atoms)
    kinds = {gold.kind, answer.kind}
    if kinds == {"tuple"}:
        fit = gold.brackets == answer.brackets or len(gold.items) > 2
        return fit and _ordered(gold.items, answer.items, atoms)
    if kinds == {"tuple", "list"}:  # brackets that were left out, or written where the order says nothing
        named = gold if gold.kind == "tuple" else answer
        return named.brackets == "()" and _ordered(gold.items, answer.items, atoms)
    return len(kinds) == 1 and _ordered(gold.items, answer.items, atoms)


def _vector(group: Group) -> Group:
    """A matrix of one column or row as what it is."""
    rows = [row.items for row in group.items if isinstance(row, Group)]
    if group.kind == "matrix" and (len(rows) == 1 or all(len(row) == 1 for row in rows)):
        return Group("tuple", tuple(cell for row in rows for cell in row), "()")
    return group


def _ordered(gold: Sequence[Node], answer: Sequence[Node], atoms: AtomEquality) -> bool | None:
    return _all(equal(g, a, atoms) for g, a in zip(gold, answer, strict=True))


def _all(decisions: Iterable[bool | None]) -> bool | None:
    """False where one is, else None where one is, else True."""
    result: bool | None = True
    for decision in decisions:
        if decision is False:
            return False
        if decision is None:
            result = None
    return result


def _any(decisions: Iterable[bool | None]) -> bool | None:
    """True where one is, else None where one is, else False."""
    opposite = _all(None if d is None else not d for d in decisions)
    return None if opposite is None else not opposite


def _unordered(gold: Sequence[Node], answer: Sequence[Node], atoms: AtomEquality) -> bool | None:
    """Pairs them one by one. What is equal to the same is equal, so the first that fits will do."""
    left, open_ones = list(answer), []
    for g in gold:
        decisions = [equal(g, a, atoms) for a in left]
        if True in decisions:
            del left[decisions.index(True)]
        elif None in decisions:
            open_ones.append(g)
        else:
            return False
    return None if open_ones else True


def _equations(gold: Node, answer: Node, atoms: AtomEquality) -> bool | None:
    if not isinstance(gold, Equation):
        # "x = 5" is 5; where the left side is no name, as in "1 = 2 = 5", every side has to be right.
        assert isinstance(answer, Equation)
        return all(map(commits, answer.names)) and _chain(gold, answer.sides, atoms)
    value = gold.sides[-1]
    if not isinstance(answer, Equation):
        named = bool(gold.names) and all(map(stands_for_a_value, gold.names))
        return equal(value, answer, atoms) if named else False
    if gold.names and answer.names:
        if _same_name(gold.names, answer.names):
            return _chain(value, answer.sides, atoms)
        plain = [all(map(is_plain, names)) for names in (gold.names, answer.names)]
        if all(plain) and not for_different_things(gold.names, answer.names):
            return _chain(value, answer.sides, atoms)
        if any("\\text" in name for name in (*gold.names, *answer.names)):  # words may name what has a value
            meant = all(map(stands_for_a_value, gold.names)) and all(map(commits, answer.names))
            return meant and _chain(value, answer.sides, atoms)
    if gold.names and all(map(is_plain, gold.names)) and _is_constant(value):
        return False  # x = 2 was asked: 2x + 4 = 8 says the same and is the question again
    return _same_equation(gold, answer, atoms)


def _chain(gold: Node, sides: Sequence[Node], atoms: AtomEquality) -> bool | None:
    """Whether all sides are right. Only the last has to be a value: 17·23 = 391."""
    worked = [
        atoms(gold.text, side.text) if isinstance(gold, Atom) and isinstance(side, Atom) else equal(gold, side, atoms)
        for side in sides[:-1]
    ]
    return _all([*worked, equal(gold, sides[-1], atoms)])


def _same_name(gold: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether one name is in both, in any order of its terms: x + y and y + x."""
    if set(map(spelled, gold)) & set(map(spelled, answer)):
        return True
    for one in gold:
        for other in answer:
            if is_plain(one) or is_plain(other):
                continue
            try:
                if parsed(one).value.equals(parsed(other).value):
                    return True
            except (Unsupported, TooBig):
                continue
    return False


def _is_constant(node: Node) -> bool:
    try:
        return isinstance(node, Atom) and not parsed(node.text).value.symbols
    except (Unsupported, TooBig):
        return False


def _same_equation(gold: Equation, answer: Equation, atoms: AtomEquality) -> bool | None:
    """Equations with the same solutions; decided where one is a multiple of the other."""
    gold_sides, answer_sides = gold.text.split("="), answer.text.split("=")
    if len(gold_sides) != 2 or len(answer_sides) != 2:
        alike = gold.names == answer.names and len(gold.sides) == len(answer.sides)
        return alike and _ordered(gold.sides, answer.sides, atoms)
    try:
        differences = [parsed(left).value + -parsed(right).value for left, right in (gold_sides, answer_sides)]
        multiple = differences[0].is_multiple_of(differences[1])
    except (Unsupported, TooBig):
        return atoms(gold.text, answer.text)
    if not all(d.symbols for d in differences):
        return False
    return True if multiple else atoms(gold.text, answer.text)


def _relations(gold: Node, answer: Node, atoms: AtomEquality) -> bool | None:
    if not (isinstance(gold, Relation) and isinstance(answer, Relation)):
        return False
    if gold.operators == answer.operators and _ordered(gold.sides, answer.sides, atoms) is True:
        return True
    return atoms(gold.text, answer.text)


@lru_cache(maxsize=4096)
def parsed(text: str) -> Parsed:
    """`expression.parse`, remembered: a reference is compared with many answers.

    Raises:
        Unsupported, TooBig: as there.
    """
    return expression.parse(text)


_LETTERS = re.compile(r"[A-Za-z][A-Za-z .,'-]*")
_DATE = re.compile(r"[A-Za-z]{3,}\.? \d{1,2}(?:, ?\d{4})?")
_ARTICLE = re.compile(r"^(?:an?|the) (?=\w)")
_LONG = re.compile(r"[A-Za-z]{4}|\s[A-Za-z]{2}")
_SHORT_WORDS = ("yes", "no", "odd", r"\emptyset")


def words_of(text: str) -> str | None:
    """The words, where a text is only that: \\text{…}, or letters longer than products of variables are."""
    if "\\text" in text and (match := re.fullmatch(r"(?:\\text\{([^{}]*)\}|[\s.,()-])+", text)) is not None:
        text = re.sub(r"\\text\{([^{}]*)\}", r"\1", match[0])
    elif _DATE.fullmatch(text) is not None:
        pass
    elif not (_LETTERS.fullmatch(text) and _LONG.search(text)) and text.strip(" .").lower() not in _SHORT_WORDS:
        return None
    return _ARTICLE.sub("", " ".join(text.casefold().replace("-", " ").split()).strip(" .,()"))


def exactly(gold: str, answer: str, digits: int) -> bool | None:
    """Whether two single expressions are the same, where that can be decided here.

    Args:
        gold, answer: normalised.
        digits: of how many digits at least a decimal has to be to count as what it was rounded from.

    Raises:
        TooBig: of the answer.
    """
    if squeezed(gold) == squeezed(answer):
        return True
    if (letter := letter_of(gold)) and (said := letter_of(answer)):
        return letter == (said.upper() if letter.isupper() else said)
    if letter != (said := letter_of(answer)):  # the value of an option on one side
        value = without_label(gold if letter else answer)
        if value:
            return exactly(value, answer, digits) if letter else exactly(gold, value, digits)
    if r"\infty" in answer and r"\infty" not in gold:
        return False  # it is no number that could be computed with
    if _INDEXED.search(answer) and not _INDEXED.search(gold) and _based(answer) is None:
        return False  # 5_2 and 5' are not 5
    decided = _numerals(gold, answer)
    if decided is None:
        decided = _words(gold, answer)
    return _values(pair(gold, answer), digits) if decided is None else decided


_INDEXED = re.compile(r"\d\s*[_']")
_BASED = re.compile(r"\{?([0-9A-Za-z]+)\}?\s*_\s*\{?\s*(\d+)\s*\}?")
_DIGITS = re.compile(r"[0-9A-Fa-f]+")


def _numerals(gold: str, answer: str) -> bool | None:
    """Numbers to a base (1011_2), whose base may be left out, and times of the day, which are no ratios."""
    hour, other = clock_of(gold), clock_of(answer)
    if hour is not None and other is not None:
        return hour[:2] == other[:2] and (hour[2] == other[2] or not (hour[2] and other[2]))
    if hour is not None and (hour[2] or not hour[1]):
        return bool(hour[2]) and answer.strip() == str(hour[0]) and not hour[1]  # 6, of 6 PM
    wanted, said = _based(gold), _based(answer)
    if wanted is not None and said is not None:
        return wanted[1] == said[1] and wanted[2] == said[2]
    if wanted is not None and _DIGITS.fullmatch(answer):
        return wanted[1].lower() == answer.lower()
    if said is not None and gold.isdigit():
        return int(said[1], int(said[2])) == int(gold)
    return False if wanted is not None else None


def _based(text: str) -> re.Match[str] | None:
    """Digits and their base."""
    match = _BASED.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36 or not match[1][0].isdigit():
        return None
    try:
        int(match[1], int(match[2]))
    except ValueError:
        return None
    return match


def _words(gold: str, answer: str) -> bool | None:
    wanted, said = words_of(gold), words_of(answer)
    if wanted is None and said is None:
        return None
    for meaning in _SAME_WORDS:
        if (wanted or gold.strip()) in meaning and (said or answer.strip()) in meaning:
            return True
    return wanted == said and wanted is not None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two expressions without their units and percent signs.

    Attributes:
        gold, answer: what is left of them.
        percent: which of the two had a percent sign.
        conflict: both had units, and different ones.
    """

    gold: str
    answer: str
    percent: tuple[bool, bool]
    conflict: bool


def pair(gold: str, answer: str) -> Pair:
    """Take the units off. A single letter behind the answer's number is one where the reference has no letters."""
    gold, answer = _radians(gold), _radians(answer)
    gold, unit = without_units(gold, letters=False)
    numeric = re.search(r"(?<![a-zA-Z\\])[a-zA-Z]", gold) is None
    answer, other = without_units(answer, letters=numeric)
    (gold, percent), (answer, percents) = _without_percent(gold), _without_percent(answer)
    return Pair(gold, answer, (percent, percents), bool(unit and other and unit != other))


_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")


def _radians(text: str) -> str:
    """Degrees are a unit, unless something is computed of them."""
    return _DEGREES.sub(r"\\frac{\1\\pi}{180}", text) if _TRIGONOMETRIC.search(text) else text


_PERCENT = re.compile(r"\s*(?:%|\\text\{\s*(?:percent|per cent|%)\s*\}|(?<![a-zA-Z])percent)\s*$")


def _without_percent(text: str) -> tuple[str, bool]:
    match = _PERCENT.search(text)
    return (text, False) if match is None else (text[: match.start()], True)


def _values(both: Pair, digits: int) -> bool | None:
    if both.conflict:
        return False
    try:
        wanted = parsed(both.gold)
    except (Unsupported, TooBig):
        same_text = squeezed(both.gold) == squeezed(both.answer)
        return True if same_text and both.percent[0] == both.percent[1] else None
    try:
        said = parsed(both.answer)
    except Unsupported:
        return None
    same = _same(wanted, said, digits)
    if same is True or both.percent[0] == both.percent[1]:
        return same
    # A percent sign on one side only: it was left out as a unit is, or it means hundredths.
    scaled = [expression.scaled(p, -2 if flag else 0) for p, flag in zip((wanted, said), both.percent, strict=True)]
    return True if _same(scaled[0], scaled[1], digits) else same


def _same(wanted: Parsed, said: Parsed, digits: int) -> bool | None:
    try:
        if wanted.value.equals(said.value):
            return True
    except Unsupported:
        return None
    if not (wanted.certain and said.certain):
        return None
    if not (wanted.decimal or said.decimal):
        return False
    a, b = wanted.value.rational, said.value.rational
    if a is None or b is None:
        return None
    decimals = [p for p in (wanted, said) if p.decimal]
    if any(p.places is None or max(p.places, p.digits) < digits for p in decimals):
        return False
    places = min(p.places for p in decimals if p.places is not None)
    return bool(abs(a - b) * 2 * 10**places <= 1)


def understood(gold: str) -> bool:
    """Whether a single expression of a reference means something without an algebra system."""
    if words_of(gold) is not None or letter_of(gold) or _based(gold) or clock_of(gold):
        return True
    try:
        parsed(pair(gold, gold).gold)
    except TooBig:  # then it is its own text
        return True
    except Unsupported:
        return False
    return True


def decide(gold: str, answer: str, atoms: AtomEquality) -> bool | None:
    """Whether an answer is the reference. Both are normalised texts.

    Raises:
        Unreadable, TooBig: of the answer.
    """
    wanted = read_gold(gold)
    words = words_of(gold)
    if words is not None and words == words_of(answer):
        return True
    many = isinstance(wanted, Group) and wanted.kind in ("list", "set")
    return equal(wanted, read(answer, many=many), atoms)


@lru_cache(maxsize=4096)
def read_gold(text: str) -> Node:
    """The structure of a reference, remembered.

    Raises:
        Unreadable: it has none.
    """
    return read(text)
