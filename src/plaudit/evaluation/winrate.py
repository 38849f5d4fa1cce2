"""How often a new answer beats the old one to the same prompt, under a reward that is given."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.evaluation.estimates import Estimate, Values, finite_array, proportion_estimate


@dataclass(frozen=True, slots=True)
class WinRate:
    """Counts, and the rate with ties at one half."""

    wins: int
    ties: int
    losses: int
    rate: Estimate


def win_rate(new_rewards_N: Values, old_rewards_N: Values, confidence: float = 0.95) -> WinRate:
    """Share of prompts whose new answer has the higher reward; ties count ½; Wilson interval.

    Args:
        new_rewards_N, old_rewards_N: rewards of one answer each to the same N prompts, in the same order. The prompts
            must be independent: average several answers to one prompt first.

    Raises:
        ValueError: empty, not finite, or of different length.
    """
    new, old = finite_array(new_rewards_N, "new rewards"), finite_array(old_rewards_N, "old rewards")
    if new.shape != old.shape:
        raise ValueError(f"{new.size} new and {old.size} old rewards: they must belong to the same prompts")
    wins, ties = int((new > old).sum()), int((new == old).sum())
    rate = proportion_estimate(wins + ties / 2, new.size, confidence)
    return WinRate(wins, ties, new.size - wins - ties, rate)
