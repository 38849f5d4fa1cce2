"""The script that a text is written in."""

from __future__ import annotations

import re

from plaudit.data.doctor.thresholds import LANGUAGE_CHARACTERS, SCRIPT_LETTERS

_RANGES = {
    "Latin": "A-Za-z\u00aa-\u024f\u1e00-\u1eff",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Tamil": "\u0b80-\u0bff",
    "Thai": "\u0e00-\u0e7f",
    "Kana": "\u3040-\u30ff",
    "Hangul": "\u1100-\u11ff\uac00-\ud7af",
    "Han": "\u3400-\u9fff",
}
_LETTERS = {name: re.compile(f"[{ranges}]") for name, ranges in _RANGES.items()}
_ENOUGH = re.compile(f"(?:[^A-Za-z]*[A-Za-z]){{{SCRIPT_LETTERS}}}")


def script(text: str) -> str:
    """The script of most letters at the text's beginning; "" where there are too few. Japanese is told by its kana."""
    head = text[:LANGUAGE_CHARACTERS]
    if head.isascii():
        return "Latin" if _ENOUGH.match(head) else ""
    counts = {name: len(pattern.findall(head)) for name, pattern in _LETTERS.items()}
    if sum(counts.values()) < SCRIPT_LETTERS:
        return ""
    if counts["Kana"] > 0.1 * (counts["Kana"] + counts["Han"]):
        counts["Kana"] += counts.pop("Han")
    return max(counts, key=lambda name: counts[name])
