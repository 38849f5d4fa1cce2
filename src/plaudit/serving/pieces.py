"""Single tokens as people and programs read them: their text and their bytes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_HEX = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # one byte, in vocabularies of SentencePiece's kind
_SPACE = "\u2581"  # their mark for a space


class Pieces:
    """Texts of tokens, each by itself: a token may be a part of a character, and then only its bytes are exact.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._by_bytes = "ByteLevel" in repr(getattr(backend, "decoder", None))
        self.of = lru_cache(maxsize=1 << 16)(self._of)

    def text(self, token: int) -> str:
        """With replacement characters where its bytes are no whole characters."""
        return self.of(token)[0]

    def _of(self, token: int) -> tuple[str, list[int]]:
        """Text and bytes (UTF-8)."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:  # an entry of the model's vocabulary that the tokenizer does not use
            return "", []
        found = None if token in self._special else self._bytes(name)
        if found is None:
            return name, list(name.encode())
        return found.decode(errors="replace"), list(found)

    def _bytes(self, name: str) -> bytes | None:
        if self._by_bytes:
            table = _byte_of_character()
            return bytes(table[c] for c in name) if all(c in table for c in name) else None
        if match := _HEX.fullmatch(name):
            return bytes([int(match[1], 16)])
        return name.replace(_SPACE, " ").encode()


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable characters stand for themselves, the others for those from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in shown}
    hidden = [b for b in range(256) if b not in set(shown)]
    return table | {chr(256 + i): b for i, b in enumerate(hidden)}
