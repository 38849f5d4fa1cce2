"""What of a text is not in an earlier one, by words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_MOST = 700
"""Words of a text up to which it is compared: what it takes grows with the square of them."""
_LEAST = 0.3
"""Share of common words below which a text is another one, and not a changed one: marks would only be noise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; `new` where the earlier text does not have it."""

    text: str
    new: bool = False


def pieces(before: str, now: str) -> list[Piece]:
    """`now` in pieces. In one, not new, where the two are equal, have little in common, or are very long."""
    if before == now:
        return [Piece(now)]
    old, new = _WORDS.findall(before), _WORDS.findall(now)
    if max(len(old), len(new)) > 2 * _MOST:
        return [Piece(now)]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if matcher.real_quick_ratio() < _LEAST or matcher.quick_ratio() < _LEAST:
        return [Piece(now)]
    blocks = matcher.get_matching_blocks()
    common = sum(len(word) for block in blocks for word in new[block.b : block.b + block.size] if not word.isspace())
    if common < _LEAST * len("".join(now.split())):
        return [Piece(now)]
    found: list[Piece] = []
    place = 0
    for block in blocks:
        if between := "".join(new[place : block.b]):
            found.append(Piece(between, new=True))
        if same := "".join(new[block.b : block.b + block.size]):
            found.append(Piece(same))
        place = block.b + block.size
    return found
