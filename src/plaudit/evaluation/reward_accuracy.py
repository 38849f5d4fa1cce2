"""How often a reward model ranks two answers as the labels do, over all pairs and within strata.

Two rules for equal scores stand beside each other: a tie counts ½ (symmetric: turning all pairs round gives
1 − accuracy), and a tie is a loss (RewardBench, arXiv 2403.13787, and its code). A model that gives every answer the
same score has ½ by the first rule and 0 by the second.

Shapes: N pairs; a margin is Δ = r(better answer) − r(worse answer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from plaudit.evaluation.clustered import SMALL, Array, Groups, clustered_share, prompt_weights
from plaudit.evaluation.estimates import Estimate, Values, finite_array

Weigh = Literal["pair", "prompt"]
"""pair: every pair weighs 1. prompt: every prompt weighs 1, shared by its pairs (as in the K-wise training loss)."""
MOST_VALUES = 12
"""Strata per column; numbers with more values are cut into quarters, the rarest other values are put together."""


@dataclass(frozen=True, slots=True)
class RewardAccuracy:
    """Accuracy by both rules.

    Attributes:
        accuracy: a tie counts ½.
        strict: a tie is a loss.
    """

    accuracy: Estimate
    strict: Estimate
    pairs: int
    prompts: int
    ties: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """The pairs that share one value of one column."""

    column: str
    value: str
    result: RewardAccuracy

    @property
    def small(self) -> bool:
        """Too few prompts to say much."""
        return self.result.prompts < SMALL


def reward_accuracy(
    margins_N: Values, prompts_N: Groups, *, weigh: Weigh = "pair", confidence: float = 0.95
) -> RewardAccuracy:
    """Accuracy over pairs, with intervals that know that the pairs of a prompt are dependent.

    Raises:
        ValueError: empty, not finite, or of different lengths.
    """
    margins = finite_array(margins_N, "margins")
    weights = pair_weights(prompts_N, weigh)
    wins, ties = (margins > 0).astype(float), margins == 0
    return RewardAccuracy(
        accuracy=clustered_share(wins + ties / 2, prompts_N, weights, confidence),
        strict=clustered_share(wins, prompts_N, weights, confidence),
        pairs=margins.size,
        prompts=len(np.unique(prompts_N)),
        ties=int(ties.sum()),
    )


def pair_weights(prompts_N: Groups, weigh: Weigh) -> Array:
    """[N] weights by the rule's name; within a stratum they are made anew."""
    return prompt_weights(prompts_N) if weigh == "prompt" else np.ones(len(prompts_N))


def by_stratum(
    column: str, values_N: Sequence[Any], margins_N: Values, prompts_N: Groups, *, weigh: Weigh = "pair"
) -> list[Stratum]:
    """Accuracy within each value of a column; pairs whose value is None are in no stratum.

    Values are taken as they are up to `MOST_VALUES` of them. Of more, numbers are cut at their quartiles, and of other
    values the rarest become one stratum "other".
    """
    margins = finite_array(margins_N, "margins")
    names = strata_names(values_N)
    order = list(dict.fromkeys(name for _, name in sorted({n for n in names if n is not None})))
    labels = np.array([name[1] if name is not None else None for name in names], dtype=object)
    found = []
    for value in order:
        inside = labels == value
        result = reward_accuracy(margins[inside], prompts_N[inside], weigh=weigh)
        found.append(Stratum(column, value, result))
    return found


def strata_names(values_N: Sequence[Any]) -> list[tuple[float, str] | None]:
    """Per pair (place in the order, name) of its stratum, None where the value is None."""
    present = [v for v in values_N if v is not None]
    distinct = Counter(_key(v) for v in present)
    numeric = bool(present) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present)
    if numeric and len(distinct) > MOST_VALUES:
        return _quarters(values_N)
    if numeric:
        return [None if v is None else (float(v), _key(v)) for v in values_N]
    kept = [k for k, _ in sorted(distinct.items(), key=lambda item: (-item[1], item[0]))]
    if len(kept) > MOST_VALUES:
        kept = kept[: MOST_VALUES - 1]
    place = {k: float(i) for i, k in enumerate(sorted(kept))}
    other = (float(len(kept)), f"other ({len(distinct) - len(kept)} values)")
    return [None if v is None else (place[_key(v)], _key(v)) if _key(v) in place else other for v in values_N]


def _quarters(values_N: Sequence[Any]) -> list[tuple[float, str] | None]:
    numbers = np.array([float(v) for v in values_N if v is not None])
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges.tolist())]
    # A value on an edge belongs to the upper quarter, the largest of all to the last.
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(names) - 1)
    found = iter(places.tolist())
    return [None if v is None else (float(i := next(found)), names[i]) for v in values_N]


def _key(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
