"""What the verifiers of text share: which part of an answer is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from plaudit.rewards.contract import BadRow, Sample, column

TAG = "answer"
"""The element that the answer stands in where R1's form is asked for, which the reward `format` does by default."""
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def tagged(text: str, tag: str) -> str | None:
    """What stands between <tag> and </tag>; None unless both are there exactly once, in this order."""
    start, end = f"<{tag}>", f"</{tag}>"
    if text.count(start) != 1 or text.count(end) != 1:
        return None
    before, _, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    return inside.strip() if closed and end not in before else None


class Unclear(Exception):
    """A text gives several answers, and which."""


def element(text: str, tag: str = TAG) -> str | None:
    """What stands in the one <tag> element of a text; the same said several times is one. None where there is none
    that is complete: a tag that is only mentioned, or cut off, is text.

    Raises:
        Unclear: there are several with different contents, one in another, or one besides that is cut off.
    """
    start, end = f"<{tag}>", f"</{tag}>"
    first, *rest = text.split(start)
    insides = [inside.partition(end) for inside in rest]
    if not any(closed for _, closed, _ in insides):
        return None
    if end in first or not all(closed and end not in behind for _, closed, behind in insides):
        raise Unclear(f"{start} is not closed once each time that it is opened")
    contents = dict.fromkeys(inside.strip() for inside, _, _ in insides)
    if len(contents) > 1:
        raise Unclear(f"there are {len(contents)} different {start} elements")
    return next(iter(contents))


def beside_elements(text: str, tag: str = TAG) -> str:
    """What stands outside of the <tag> elements of a text."""
    first, *rest = text.split(f"<{tag}>")
    return " ".join([first, *(inside.partition(f"</{tag}>")[2] for inside in rest)])


def boxes(text: str) -> list[str]:
    """The contents of every \\boxed{…}, outermost ones, braces balanced; one that is cut off is none."""
    found, at = [], 0
    while (match := BOXED.search(text, at)) is not None:
        depth, i = 1, match.end()
        while i < len(text) and depth:
            if text[i] == "\\":
                i += 1
            elif text[i] in "{}":
                depth += 1 if text[i] == "{" else -1
            i += 1
        if depth:
            break
        found.append(text[match.end() : i - 1].strip())
        at = i
    return found


def stated(sample: Sample, tag: str | None) -> str:
    """The answer that is compared: inside a tag where one is asked for, else in the <answer> element where there is
    one, else everything behind the thought.

    Raises:
        Unclear: the tag is not there once; of several <answer> elements nobody can say which is meant.
    """
    if tag is None:
        inside = element(sample.final)
        return sample.final.strip() if inside is None else inside
    found = tagged(sample.final, tag)
    if found is None:
        raise Unclear(f"the tag <{tag}> is not there exactly once")
    return found


def accepted(sample: Sample, name: str) -> list[str]:
    """The reference answers of a row: one, or a list of which any will do. One that is written as answers are, in an
    <answer> element, is what stands there.

    Raises:
        BadRow: there is none, or one of them is empty (every empty answer would be right) or has several elements.
    """
    value: Any = column(sample, name, "the reference answer")
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise BadRow(f"the column {name!r} is an empty list")
    for each in values:
        if isinstance(each, bool) or not isinstance(each, (str, int, float)) or not str(each).strip():
            raise BadRow(f"the column {name!r} has {each!r}, must be text or a number")
    return [bare_reference(str(each), name) for each in values]


def bare_reference(text: str, name: str) -> str:
    """A reference answer without the <answer> element around it.

    Raises:
        BadRow: there are several, or nothing is in it.
    """
    try:
        inside = element(text)
    except Unclear as problem:
        raise BadRow(f"the column {name!r} has {shown(text)}: {problem}") from None
    if inside == "":
        raise BadRow(f"the column {name!r} has an empty <{TAG}>: every empty answer would be right")
    return text if inside is None else inside


_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; a sign of Chinese or Japanese is a word."""
    return _WORD.findall(text.lower())


def shown(text: str, limit: int = 80) -> str:
    """A text as notes show it: in one line, cut."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")
