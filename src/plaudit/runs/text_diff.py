"""What of a text is not in an earlier one, by words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_WORDS = re.compile(r"(\s+)|(\w+|[^\w\s])\s*")
_LEAST = 0.3
"""Share of common words below which a text is another one, and not a changed one: marks would only be noise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; `new` where the earlier text does not have it."""

    text: str
    new: bool = False


def pieces(before: str, now: str) -> list[Piece]:
    """`now` in pieces. In one, not new, where the two are equal or have little in common.

    Of long texts, words that come again and again are no reason to see two places as the same (difflib's heuristic), so
    that it takes milliseconds.
    """
    old, new = list(_WORDS.finditer(before)), list(_WORDS.finditer(now))
    matcher = SequenceMatcher(None, [word[2] for word in old], [word[2] for word in new])
    if before == now or matcher.quick_ratio() < _LEAST:
        return [Piece(now)]
    blocks = matcher.get_matching_blocks()
    if sum(block.size for block in blocks) < _LEAST * max(len(old), len(new)):
        return [Piece(now)]
    found: list[Piece] = []
    place = 0
    for block in blocks:
        for end, is_new in ((block.b, True), (block.b + block.size, False)):
            if text := "".join(word[0] for word in new[place:end]):
                found.append(Piece(text, is_new))
            place = end
    return found
