"""Tokens as people read them: whole characters, special tokens by their names, nothing invisible."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

Mark = Literal["masked", "trained", "scored"]
"""What the loss does with a token: nothing, it is a target, a score is read on it."""
_LONGEST_CHARACTER = 4
"""Bytes of a character in UTF-8, and so the most tokens that one can be spread over."""
_REPLACEMENT = "\ufffd"
_JOINERS = "\u200c\u200d"  # Persian and emoji are not readable without them
_PICTURES = {**{code: chr(0x2400 + code) for code in range(0x20)}, 0x7F: "␡"}
OPEN, CLOSE = "⟦", "⟧"
"""Around what is trained, where there are no colours."""
SPECIAL_OPEN, SPECIAL_CLOSE = "⟨", "⟩"
"""Around a special token, where there are no colours."""
SCORE = "◆"
"""Behind the token on which a score is read."""
_OURS = OPEN + CLOSE + SPECIAL_OPEN + SPECIAL_CLOSE + SCORE


@dataclass(frozen=True, slots=True)
class Cell:
    """One or several tokens that are text together.

    Attributes:
        ids: their ids; empty for a cell that stands for what is left out.
        text: what they say, with everything visible.
        left_out: tokens that this cell stands for without showing them.
    """

    ids: tuple[int, ...]
    text: str
    mark: Mark
    special: bool = False
    left_out: int = 0

    @property
    def count(self) -> int:
        """Tokens."""
        return len(self.ids) + self.left_out


class Speller:
    """Writes tokens as cells.

    Args:
        tokenizer: any transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special: frozenset[int] = frozenset(tokenizer.all_special_ids) | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }

    def cells(self, ids: Sequence[int], marks: Sequence[Mark]) -> list[Cell]:
        """The tokens with what the loss does with each. A character that is spread over tokens with different marks is
        shown token by token, by their names."""
        found: list[Cell] = []
        numbered = enumerate(ids)
        for special, stretch in groupby(numbered, key=lambda pair: int(pair[1]) in self.special):
            places = [i for i, _ in stretch]
            if special:
                found += [Cell((int(ids[i]),), self.name(int(ids[i])), marks[i], special=True) for i in places]
                continue
            for start, end, text in self._characters([int(ids[i]) for i in places]):
                own = places[start:end]
                if len({marks[i] for i in own}) == 1:
                    found.append(Cell(tuple(int(ids[i]) for i in own), visible(text), marks[own[0]]))
                else:
                    found += [Cell((int(ids[i]),), self.name(int(ids[i])), marks[i]) for i in own]
        return found

    def name(self, token: int) -> str:
        """A token as its vocabulary calls it."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        return visible(f"[{token}]" if name is None else str(name))

    def _characters(self, ids: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """(start, end, text) of as few tokens at a time as are whole characters.

        Each is decoded behind the one before it, because decoders of the SentencePiece family drop a space at a start.
        """
        before = start = 0
        for end in range(1, len(ids) + 1):
            head, both = self._decode(ids[before:start]), self._decode(ids[before:end])
            text = both[len(head) :]
            whole = text and not text.endswith(_REPLACEMENT)
            if whole or end - start == _LONGEST_CHARACTER or end == len(ids):
                yield start, end, text
                before, start = start, end

    def _decode(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    if character == "\n":
        return "⏎\n"
    if character == "\t":
        return "⇥\t"
    if ord(character) in _PICTURES:
        return _PICTURES[ord(character)]
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    if (hidden and character not in _JOINERS) or character in _OURS:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def visible(text: str) -> str:
    """The text with line ends and tabs marked, and everything that is not seen, or that would order the text anew or
    command a terminal, by its number."""
    return "".join(map(_shown, text))


def token_text(cell: Cell) -> str:
    """A token in a line of its own: one line, with its spaces marked."""
    return cell.text.replace("⏎\n", "⏎").replace("⇥\t", "⇥").replace(" ", "␣")


def shortened(cells: Sequence[Cell], limit: int) -> list[Cell]:
    """The cells with the middle of every long stretch of one mark left out.

    Args:
        limit: most tokens of a stretch that are shown; half of them at its start and half at its end.
    """
    found: list[Cell] = []
    for mark, stretch in groupby(cells, key=lambda cell: cell.mark):
        own = list(stretch)
        total = sum(cell.count for cell in own)
        if total <= limit + 1:
            found += own
            continue
        head, tail = _first(own, limit // 2), _first(own[::-1], limit - limit // 2)[::-1]
        missing = total - sum(cell.count for cell in (*head, *tail))
        found += [*head, Cell((), "", mark, left_out=missing), *tail]
    return found


def _first(cells: Sequence[Cell], tokens: int) -> list[Cell]:
    """As many of the first cells as have at most so many tokens."""
    found: list[Cell] = []
    for cell in cells:
        tokens -= cell.count
        if tokens < 0:
            break
        found.append(cell)
    return found


__all__ = [
    "CLOSE",
    "OPEN",
    "SCORE",
    "SPECIAL_CLOSE",
    "SPECIAL_OPEN",
    "Cell",
    "Mark",
    "Speller",
    "shortened",
    "token_text",
    "visible",
]
