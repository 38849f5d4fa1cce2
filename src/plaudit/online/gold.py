"""A better judge beside the reward: it scores held-out answers, and nothing is trained on what it says.

Where a learned reward is optimised, it rises for ever and what it stands for rises, bends and falls (Gao et al. 2022,
arXiv 2210.10760). `watch.gold` stands for what it stands for: a larger reward model, a judge, a verifier.

Shapes: E evaluations, P held-out prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plaudit.online.scoring import RewardScorer
from plaudit.rewards.scoring import ScoredGroup
from plaudit.types import PromptGroup

Array = npt.NDArray[np.float64]

KEPT = 64
"""Evaluations that are looked back on."""
LEAST = 4
"""Fewest evaluations of a window: two against two."""
PROMPTS = 8
"""Fewest prompts from whose differences a standard error is taken."""
MOST = 99.0
"""What a difference counts that is the same for every prompt, so that it has no standard error."""


def divergence(reward_EP: Array, gold_EP: Array) -> tuple[float, int] | None:
    """How surely the reward has risen while gold has fallen.

    In the last 4, 8, 16, … evaluations the newer half is held against the older half, prompt by prompt: the mean of
    these differences and its standard error over the prompts. The same prompts are asked each time, so what differs
    between prompts is no part of the error. A short window sees a sudden turn, a long one a slow one.

    Args:
        reward_EP, gold_EP: a prompt's means at each evaluation, oldest first; NaN where it has none. A prompt counts in
            the windows in which it has all.

    Returns:
        (n, window): the largest n so that in one window the reward rose and gold fell by n standard errors or more, at
        most `MOST`; (0, 0) where there is no such window. None where there are too few evaluations or prompts.
    """
    found: tuple[float, int] | None = None
    window = LEAST
    while window <= len(reward_EP):
        rise, fall = _errors(reward_EP[-window:]), _errors(gold_EP[-window:])
        if rise is not None and fall is not None:
            sure = min(rise, -fall)
            best = found or (0.0, 0)
            found = (sure, window) if sure > best[0] else best
        window *= 2
    return found


def _errors(values_EP: Array) -> float | None:
    """Mean over prompts of (newer half − older half), in its standard errors."""
    half = len(values_EP) // 2
    gains = values_EP[-half:].mean(0) - values_EP[:half].mean(0)
    gains = gains[np.isfinite(gains)]
    if len(gains) < PROMPTS:
        return None
    mean, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
    # Values that are equal but for rounding have no error that could be divided by.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return 0.0 if abs(mean) <= 1e-12 else MOST if mean > 0 else -MOST
    return float(max(-MOST, min(MOST, mean / error)))


def correlation(a: Array, b: Array) -> float | None:
    """Pearson's correlation of [N] and [N]; None for fewer than 3 pairs or where one of them is constant."""
    if len(a) < 3 or a.std() <= 1e-12 * max(1.0, abs(a).max()) or b.std() <= 1e-12 * max(1.0, abs(b).max()):
        return None
    return float(np.corrcoef(a, b)[0, 1])


class GoldWatch:
    """Gold of the held-out answers, and how it compares with the reward; remembers what it needs of earlier ones.

    Args:
        scorer: the gold reward, with failures that are counted apart.
    """

    def __init__(self, scorer: RewardScorer) -> None:
        self.scorer = scorer
        self._reward: list[Array] = []
        self._gold: list[Array] = []
        self._first: dict[str, float] = {}

    def score(self, groups: Sequence[PromptGroup]) -> list[ScoredGroup]:
        """Gold of this process's share of an evaluation.

        Raises:
            RewardError: PL706, too many answers have none; PlauditError: gold cannot work here.
        """
        return [found for _, found in self.scorer.score(groups, len(groups))]

    def metrics(self, reward: Sequence[ScoredGroup], gold: Sequence[ScoredGroup], *, part: bool) -> dict[str, float]:
        """The metrics of an evaluation: both results of every held-out prompt, in order.

        Args:
            part: a look at which metrics there are; nothing is remembered.
        """
        usable = [g for g in gold if g.usable and g.results]
        results = [r for g in gold for r in g.results]
        found = {
            "gold/error_rate": sum(r.error is not None for r in results) / max(1, len(results)),
            "gold/excluded": sum(not g.usable for g in gold) / max(1, len(gold)),
        }
        values = [value for g in usable for value in g.values]
        if values:
            found["gold"] = sum(values) / len(values)
        found |= _parts(usable)
        return found if part else found | self._compared(reward, gold)

    def _compared(self, reward: Sequence[ScoredGroup], gold: Sequence[ScoredGroup]) -> dict[str, float]:
        pairs = [
            (r.value, g.value)
            for ours, theirs in zip(reward, gold, strict=True)
            for r, g in zip(ours.results, theirs.results, strict=True)
            if r.value is not None and g.value is not None
        ]
        both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        found: dict[str, float] = {}
        if (agreed := correlation(both[:, 0], both[:, 1])) is not None:
            found["gold_correlation"] = agreed
        if (gap := self._gap(both)) is not None:
            found["gold_gap"] = gap
        self._reward = [*self._reward, _by_prompt(reward)][-KEPT:]
        self._gold = [*self._gold, _by_prompt(gold)][-KEPT:]
        if (apart := divergence(np.array(self._reward), np.array(self._gold))) is not None:
            found |= {"gold_divergence": apart[0], "gold_divergence_span": float(apart[1])}
        return found

    def _gap(self, both: Array) -> float | None:
        """(reward − its first mean) / its first deviation − the same of gold; None where a deviation is 0."""
        if not len(both):
            return None
        if not self._first:
            names = ("reward_mean", "gold_mean", "reward_std", "gold_std")
            self._first = dict(zip(names, map(float, (*both.mean(0), *both.std(0))), strict=True))
        first = self._first
        if first["reward_std"] <= 0 or first["gold_std"] <= 0:
            return None
        reward, gold = both.mean(0)
        gap = (reward - first["reward_mean"]) / first["reward_std"] - (gold - first["gold_mean"]) / first["gold_std"]
        return float(gap)

    # -- checkpoints

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: plain values and tensors."""
        return {
            "scoring": self.scorer.scoring.state(),
            "reward": torch.from_numpy(np.array(self._reward)),
            "gold": torch.from_numpy(np.array(self._gold)),
            "first": dict(self._first),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.scorer.scoring.restore(state["scoring"])
        self._reward, self._gold = list(state["reward"].numpy()), list(state["gold"].numpy())
        self._first = dict(state["first"])

    def close(self) -> None:
        """End what the gold reward has started."""
        self.scorer.spec.reward.close()


def _by_prompt(scored: Sequence[ScoredGroup]) -> Array:
    """[P] mean over each prompt's answers; NaN where one of them has no value."""
    return np.array([np.mean(g.values) if g.usable and g.results else np.nan for g in scored], dtype=np.float64)


def _parts(usable: Sequence[ScoredGroup]) -> dict[str, float]:
    sums: dict[str, tuple[float, int]] = {}
    for result in (r for group in usable for r in group.results):
        for name, value in result.parts.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + value, count + 1)
    return {f"gold/{name}/mean": total / count for name, (total, count) in sums.items()}
