"""Rewards for the tests of online methods: pure functions of the answer, with many different values."""

from __future__ import annotations

from typing import Any


def vowels(completions: list[str], **columns: Any) -> list[float]:
    """The share of vowels in the text, and a little for its length."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) + 0.01 * len(text) for text in completions]


def words(completions: list[str], **columns: Any) -> list[dict[str, Any]]:
    """`vowels`, with a step to each word: the share of vowels in it."""
    found = []
    for text, value in zip(completions, vowels(completions), strict=True):
        ends = [i for i in range(1, len(text) + 1) if not text[i - 1].isspace() and (text + " ")[i].isspace()]
        parts = zip([0, *ends], ends, strict=False)
        steps = [[end, sum(c in "aeiou" for c in text[begin:end]) / (end - begin)] for begin, end in parts]
        found.append({"value": value, "steps": steps})
    return found
