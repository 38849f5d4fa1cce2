"""A gold reward for the tests of frontiers: a pure function of the answer."""

from __future__ import annotations

from typing import Any


def variety(completions: list[str], **columns: Any) -> list[float]:
    """How many different characters the text has."""
    return [float(len(set(text))) for text in completions]
