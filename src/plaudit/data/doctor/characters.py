"""Characters that no author wrote: text decoded as the wrong encoding, replacement and invisible characters."""

from __future__ import annotations

import re
from collections.abc import Iterator

INVISIBLE = re.compile(r"[\ufeff\u200b\u2060\x00-\x08\x0b\x0e-\x1f\x7f]")
"""Byte order marks, zero-width spaces and control characters. Joiners (U+200C, U+200D) are part of emoji and of several
scripts and are no fault; nor are tabs, line ends and form feeds."""
REPLACED = re.compile(r"[\ufffd\ud800-\udfff]")
"""The replacement character, and halves of surrogate pairs, which no tokenizer can encode. What was there is lost."""
_ANY = re.compile(f"{INVISIBLE.pattern}|{REPLACED.pattern}")
_HIGH = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
"""What Windows-1252 has at 0x80-0x9F."""
_RUN = re.compile(f"[\u00c2-\u00f4][\u0080-\u00bf{_HIGH}]{{1,3}}")
"""A lead byte of UTF-8 and what may be its continuation bytes, each shown as a character."""


def broken(text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """(check, first place) of invisible and of lost characters."""
    if _ANY.search(text) is not None:
        yield "invisible_characters", INVISIBLE.search(text)
        yield "replacement_characters", REPLACED.search(text)


def has_mojibake(text: str) -> bool:
    """Whether UTF-8 was read as Latin-1 or Windows-1252 somewhere ("Ã©" for "é")."""
    return not text.isascii() and unmangled(text) != text


def unmangled(text: str) -> str:
    """The text with such places decoded rightly; repeated, for text that was mangled twice."""
    if text.isascii():
        return text
    for _ in range(3):
        mended = _RUN.sub(_decoded, text)
        if mended == text:
            break
        text = mended
    return text


def _decoded(match: re.Match[str]) -> str:
    text = match[0]
    for end in range(len(text), 1, -1):
        raw = b"".join(_byte(c) for c in text[:end])
        try:
            return raw.decode("utf-8") + text[end:]
        except UnicodeDecodeError:
            continue
    return text


def _byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")  # the five bytes that Windows-1252 leaves open
