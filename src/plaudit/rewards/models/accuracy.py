"""How often a reward model agrees with the data, as far as averaging has to know it."""

from __future__ import annotations

from collections.abc import Sequence

from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import RewardModel

Ranked = Sequence[tuple[Item, Sequence[tuple[int, int]]]]
"""A prompt with its answers, and its comparisons: (index of the better answer, index of the worse one)."""


def accuracy(model: RewardModel, ranked: Ranked) -> float:
    """Share of all comparisons in which the better answer has the higher score; a tie counts one half."""
    points = [
        0.5 if scores[better] == scores[worse] else float(scores[better] > scores[worse])
        for scores, (_, pairs) in zip(model.raw_score([item for item, _ in ranked]), ranked, strict=True)
        for better, worse in pairs
    ]
    return sum(points) / len(points)
