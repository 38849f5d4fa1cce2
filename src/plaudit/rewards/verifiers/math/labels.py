"""Letters of multiple choice, and times of day: what looks like arithmetic and is none."""

from __future__ import annotations

import re

_LONE_LETTER = re.compile(r"(?:(?i:option|choice)\s+)?(?:\\text|[\s({])*([A-Za-z])[\s)}.:]*")
_TEXT = re.compile(r"\\text\{\s*((?:(?i:option|choice)\s+)?\(?[A-J]\)?[).:]?(?![a-zA-Z])[^{}]*)\}")
_OPTION = re.compile(r"(?<![a-zA-Z])\(?([A-J])\)?[).:]\s*(?=\S)")
_OPTIONS = re.compile(r"(?<![a-zA-Z])\(?[A-J]\)?[).:]|(?:or|and)\s+\(?[A-J](?![a-zA-Z])")
_TIME = re.compile(r"(\d{1,2})(?:\s*:\s*([0-5]\d))?\s*(am|pm)?(?: o'clock)?")


def _unwrapped(text: str) -> str:
    r"""\text{(A)} 7 and \text{Option A} without \text."""
    match = _TEXT.match(text.strip())
    return text if match is None else f"{match[1].strip()} {text.strip()[match.end() :]}".strip()


def letter_of(text: str) -> str:
    """The letter of a choice: B, (B), B., {B}, Option B, and "B) 42" where no other option is named; else empty."""
    text = _unwrapped(text)
    if (match := _LONE_LETTER.fullmatch(text)) is not None:
        return match[1]
    match = _OPTION.match(text)
    return match[1] if match is not None and len(_OPTIONS.findall(text)) == 1 else ""


def without_label(text: str) -> str:
    """What stands behind the letter of a choice; empty where nothing does."""
    text = _unwrapped(text)
    match = _OPTION.match(text)
    return text[match.end() :].strip() if match is not None else ""


def clock_of(text: str) -> tuple[int, int, str] | None:
    """(hour, minute, am, pm or nothing) of a time of day: 3:00, 11:00 a.m., 6 PM."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1", text).replace(".", "").casefold()
    match = _TIME.fullmatch(" ".join(plain.split()))
    if match is None or not (match[2] or match[3]) or int(match[1]) > 24:
        return None
    return int(match[1]), int(match[2] or 0), match[3] or ""
