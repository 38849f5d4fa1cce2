"""A reward for the tests of online methods: a pure function of the answer, with many different values."""

from __future__ import annotations

from typing import Any


def vowels(completions: list[str], **columns: Any) -> list[float]:
    """The share of vowels in the text, and a little for its length."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) + 0.01 * len(text) for text in completions]
