"""Clean rows to put one fault into: nothing in them is alike, and no check has anything to say about them."""

from __future__ import annotations

import random
from typing import Any

from plaudit.data.doctor.findings import Diagnosis
from plaudit.data.interface import doctor

Row = dict[str, Any]
_WORDS = [
    "river", "stone", "light", "paper", "green", "silver", "gentle", "careful", "strong", "early", "garden",
    "violin", "planet", "market", "bridge", "spice", "whale", "winter", "summer", "letter", "window", "corner",
    "engine", "copper", "forest", "island", "candle", "basket", "pepper", "thunder", "meadow", "harbour", "lantern",
    "pillow", "ribbon", "saddle", "tunnel", "velvet", "walnut", "yellow", "zebra", "anchor", "blanket", "cactus",
    "dragon", "eagle", "feather",
]  # fmt: skip


def prose(seed: int, words: int = 30) -> str:
    """Words that another seed has in another order."""
    chosen = random.Random(seed).choices(_WORDS, k=words)
    for place in range(2, words, 4):
        chosen[place] = ("of the", "and", "with a", "is in the")[place // 4 % 4]  # what a language is told by
    return " ".join(chosen).capitalize() + "."


def pairs(n: int = 40) -> list[Row]:
    """Pairs of which every other one has the longer answer chosen."""
    return [
        {
            "prompt": f"Tell me of {prose(3 * i, 12)}",
            "chosen": prose(3 * i + 1, 30 + i % 2),
            "rejected": prose(3 * i + 2, 31 - i % 2),
        }
        for i in range(n)
    ]


def feedback(n: int = 40) -> list[Row]:
    """As many liked answers as disliked ones, and as long."""
    return [{"prompt": prose(2 * i, 12), "completion": prose(2 * i + 1), "label": i % 2 == 0} for i in range(n)]


def chats(n: int = 20, system: str | None = None) -> list[Row]:
    """Conversations of two turns."""
    first = [{"role": "system", "content": system}] if system else []
    return [
        {
            "messages": [
                *first,
                {"role": "user", "content": prose(2 * i, 12)},
                {"role": "assistant", "content": prose(2 * i + 1)},
            ]
        }
        for i in range(n)
    ]


def diagnosed(rows: Any, **options: Any) -> Diagnosis:
    """The diagnosis of rows or a file."""
    return doctor(rows, **options).diagnosis


def bad(diagnosis: Diagnosis) -> dict[str, tuple[str, int]]:
    """Check → (verdict, count), of all that is not OK."""
    return {f.check: (f.verdict, f.count) for f in diagnosis.findings if f.verdict != "OK"}
