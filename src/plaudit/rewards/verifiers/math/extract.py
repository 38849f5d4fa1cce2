"""Where the answer is in a text: in a box or <answer>, behind "the answer is" or ####, or the whole of a short text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from plaudit.rewards.contract import BadRow
from plaudit.rewards.verifiers.reading import Unclear, bare_reference, beside_elements, element

Extraction = Literal["auto", "boxed", "last"]

_BOX = re.compile(r"\\f?box(?:ed)?(?![a-zA-Z])\s*")
_BARE_BOX = re.compile(r"-?\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z])")
_HASHES = re.compile(r"(?<!\S)####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_MARKER = re.compile(
    r"(?:\bfinal\s+answer|\banswer|\bans|\b(?:correct|right)\s+(?:option|choice))\b[*_ ]*"
    r"(?:\s+(?:is|are|equals|(?:would|should|must|will) be|to [^.\n:]{0,60}? is)\b"
    r"(?:\s+(?:therefore|thus|then|hence|simply|just|clearly|indeed|exactly)\b,?)?|\s*[:=])"
    r"[*_:\s]*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^[#*_ \t]*(?:the\s+)?(?:final\s+)?answer[*_ \t:]*\n\s*", re.IGNORECASE | re.MULTILINE)
_SENTENCE_END = re.compile(
    r"\.(?=\s|\*|$)|\n|[!?](?=\s|$)|,?\s+\(?(?:because|since|as\b|which|so\b|where|I hope)|;\s+(?=[a-zA-Z]{2})"
)
_MATH = re.compile(r"\$\$(.{1,1000}?)\$\$|\$([^$\n]{1,1000}?)\$|\\\((.{1,1000}?)\\\)|\\\[(.{1,1000}?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\d|\d)?(?:\.\d+|\d)(?:\s*/\s*\d+)?(?:\s*\\?%)?")
_SPECIAL = re.compile(r"(?:<\|[\w-]{1,40}\|>|</s>|<eos>|<end_of_turn>)\Z")
"""A token that ends an answer and was left in its text."""
_RUN = re.compile(r"[ \t]{2,}")
_SHORT = 200
"""Characters of a text that may be an answer as a whole."""

FALLBACKS = ("answer", "solution", "ground_truth", "final_answer", "target", "label")
"""Columns that are looked at, in this order, where none was named."""


class NoAnswer(Exception):
    """The text has no answer, and why."""


def answers(text: str, how: Extraction) -> list[str]:
    """The answers in a text, in order; several where there are several boxes.

    Args:
        text: what is visible of it.
        how: auto: boxes, else a marker, else all of a short text. boxed: boxes alone. last: boxes, else the last number
            or expression.

    Raises:
        NoAnswer: there is none.
    """
    text = _RUN.sub(" ", _SPECIAL.sub("", text.rstrip()))
    if how != "boxed":
        try:
            inside = element(text)
        except Unclear as problem:
            raise NoAnswer(str(problem)) from None
        if inside is not None:
            return [*filter(None, boxes(beside_elements(text))), *answers(inside, how)]
    found = boxes(text)
    if found:
        filled = [each for each in found if each]
        if not filled:
            raise NoAnswer("the box is empty")
        return filled
    if how == "boxed":
        raise NoAnswer("no \\boxed{…}")
    return [_marked(text) or (_last(text) if how == "last" else _whole(text))]


def boxes(text: str, depth: int = 0) -> list[str]:
    """The contents of all boxes, of nested ones the innermost.

    Raises:
        NoAnswer: one of them is cut off.
    """
    if depth > 3:
        raise NoAnswer("boxes in boxes in boxes")
    found, at = [], 0
    while (match := _BOX.search(text, at)) is not None:
        at = match.end()
        if at < len(text) and text[at] == "{":
            end = _end_of_group(text, at)
            if end < 0:
                raise NoAnswer("the box is cut off")
            inside, at = text[at + 1 : end].strip(), end + 1
            found += boxes(inside, depth + 1) if _BOX.search(inside) else [inside]
        elif (bare := _BARE_BOX.match(text, at)) is not None:
            found.append(bare[0])
            at = bare.end()
        elif match[0].strip() == r"\boxed" and not text[at:].strip():
            raise NoAnswer("the box is cut off")
    return found


def _end_of_group(text: str, at: int) -> int:
    """Where the brace at a place is closed; -1 where it is not."""
    depth, i = 0, at
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            depth += 1
        elif text[i] == "}":
            depth -= 1
            if not depth:
                return i
        i += 1
    return -1


def _marked(text: str) -> str | None:
    """Behind the last marker: #### or words, in a sentence or as a heading."""
    hashes = [(m.start(1), m[1]) for m in _HASHES.finditer(text)]
    words = [(m.end(), text[m.end() :]) for pattern in (_MARKER, _HEADING) for m in pattern.finditer(text)]
    last = max(hashes + words, default=None)
    if last is None:
        return None
    rest = last[1].strip()
    start = _MATH.match(rest)  # a full stop inside of it ends no sentence
    after = start.end() if start is not None else 0
    end = _SENTENCE_END.search(rest, after)
    found = (rest if end is None else rest[: end.start()]).strip().strip("*_").strip()
    if not found:
        raise NoAnswer("nothing follows where the answer is announced")
    return found


def _whole(text: str) -> str:
    """All of a short text of one line."""
    text = text.strip()
    if not text:
        raise NoAnswer("there is no answer")
    if "\n" in text or len(text) > _SHORT:
        raise NoAnswer('no \\boxed{…}, no ####, no "the answer is"')
    return text


def _last(text: str) -> str:
    """The last expression between dollars, or the last number, whichever is later."""
    found = [(m.end(), m.start(), next(filter(None, m.groups()))) for m in _MATH.finditer(text)]
    found += [(m.end(), m.start(), m[0]) for m in _NUMBER.finditer(text)]
    if not found:
        raise NoAnswer("there is no number")
    end, start, last = max(found)
    around = [each for e, s, each in found if s < start and e >= end]
    return str((around or [last])[0]).strip()


def reference(row: Mapping[str, Any], column: str, named: bool) -> list[str]:
    """The reference answers of a row, of which any will do: mostly one.

    A reference may be a number, an expression, a whole solution with a box (the last one is the answer), or text with
    "#### 42" behind it.

    Args:
        row: its columns.
        column: where it is.
        named: the column was asked for; otherwise those that are usual are looked at too.

    Raises:
        BadRow: there is none, or one is empty.
    """
    names = [column] if named else [n for n in FALLBACKS if row.get(n) is not None][:1] or [column]
    value = row.get(names[0])
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if value is None or not values:
        have = ", ".join(sorted(map(str, row))) or "none"
        raise BadRow(f"the column {names[0]!r} with the reference answer is missing or empty (the row has: {have})")
    return [_one_reference(each, names[0]) for each in values]


def _one_reference(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow(f"the column {name!r} has {value!r}, must be text or a number")
    text = bare_reference(str(value).strip(), name)
    try:
        found = [each for each in boxes(text) if each]
    except NoAnswer as problem:
        raise BadRow(f"the column {name!r}: {problem}") from None
    hashes = _HASHES.findall(text)
    if found or (not found and _BOX.search(text)):
        text = found[-1] if found else ""
    elif hashes:
        text = hashes[-1].strip()
    elif _MARKER.search(text) is not None or _HEADING.search(text) is not None:
        text = _marked_reference(text, name)
    if not text.strip(" .$"):
        raise BadRow(f"the column {name!r} with the reference answer is empty: every empty answer would be right")
    return text


def _marked_reference(text: str, name: str) -> str:
    try:
        return _marked(text) or ""
    except NoAnswer as problem:
        raise BadRow(f"the column {name!r} with the reference answer {text[:80]!r}: {problem}") from None
