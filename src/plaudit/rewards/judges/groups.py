"""From comparisons to scores: what each answer of a group is worth against the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from plaudit.data.turns import Turns
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.judges.judge import Judge, Pair


def win_rates(
    judge: Judge, prompt: Turns, answers: Sequence[str], row: Mapping[str, Any] | None = None
) -> list[RewardResult]:
    """Each answer's mean probability of being better than another of the group.

    All K(K - 1)/2 pairs are compared, in both orders. The values of a group have the mean 0.5.

    Args:
        answers: K of them, at least two.

    Returns:
        One result per answer. Where one of its comparisons failed, the answer has that failure: a mean over the others
        would be another quantity.

    Raises:
        RewardError: PL708, the judge cannot be asked at all.
    """
    assert len(answers) > 1
    which = list(combinations(range(len(answers)), 2))
    compared = judge.comparisons([Pair(prompt, answers[i], answers[j], row or {}) for i, j in which])
    found = []
    for k in range(len(answers)):
        own = [(result, k == i) for (i, j), result in zip(which, compared, strict=True) if k in (i, j)]
        failed = next((result for result, _ in own if result.error is not None), None)
        wins = [p if first else 1.0 - p for result, first in own if (p := result.value) is not None]
        found.append(failed or RewardResult.of(math.fsum(wins) / len(wins), note=f"against {len(wins)} others"))
    return found
