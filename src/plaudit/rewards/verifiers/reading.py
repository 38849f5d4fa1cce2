"""What the verifiers of text share: which part of an answer is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from plaudit.rewards.contract import BadRow, Sample, column

BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def tagged(text: str, tag: str) -> str | None:
    """What stands between <tag> and </tag>; None unless both are there exactly once, in this order."""
    start, end = f"<{tag}>", f"</{tag}>"
    if text.count(start) != 1 or text.count(end) != 1:
        return None
    before, _, rest = text.partition(start)
    inside, closed, _ = rest.partition(end)
    return inside.strip() if closed and end not in before else None


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


def stated(sample: Sample, tag: str | None) -> str | None:
    """The answer that is compared: inside a tag where one is asked for, else everything behind the thought."""
    return sample.final.strip() if tag is None else tagged(sample.final, tag)


def accepted(sample: Sample, name: str) -> list[str]:
    """The reference answers of a row: one, or a list of which any will do.

    Raises:
        BadRow: there is none, or one of them is empty: every empty answer would be right.
    """
    value: Any = column(sample, name, "the reference answer")
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise BadRow(f"the column {name!r} is an empty list")
    for each in values:
        if isinstance(each, bool) or not isinstance(each, (str, int, float)) or not str(each).strip():
            raise BadRow(f"the column {name!r} has {each!r}, must be text or a number")
    return [str(each) for each in values]


_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case; a sign of Chinese or Japanese is a word."""
    return _WORD.findall(text.lower())


def shown(text: str, limit: int = 80) -> str:
    """A text as notes show it: in one line, cut."""
    line = " ".join(text.split())
    return repr(line if len(line) <= limit else line[: limit - 1] + "…")
