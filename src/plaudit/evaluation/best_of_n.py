"""What a reward model's choice among n answers is worth by the gold score, exactly and without sampling.

Of K answers to a prompt, n are drawn without replacement, and the one with the highest reward is kept. The k-th lowest
reward is the best of the n with probability C(k − 1, n − 1) / C(K, n), so the expected gold score of the choice is a
weighted mean of the K gold scores. If the K answers are samples of one policy, it is unbiased for that policy's
best-of-n (Coste et al. 2023, arXiv 2310.02743, use the same estimator). Answers of equal reward share their weight:
ties are broken at random.

The cost of the choice is KL(best-of-n ‖ policy) = log n − (n − 1)/n, exact for rewards without ties and an upper bound
otherwise (Beirami et al. 2024, arXiv 2401.01879). With ties the exact value is the divergence of the chosen reward's
distribution from the policy's: ties are broken at random, so given the reward the answer is distributed as before.

Shapes: K answers of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from plaudit.evaluation.clustered import Array
from plaudit.evaluation.estimates import Estimate, Values, finite_array, mean_estimate

Candidates = tuple[Values, Values]
"""(rewards_K, gold_K) of one prompt."""
_ALL_UP_TO = 8


@dataclass(frozen=True, slots=True)
class BestOfN:
    """One point of the curve: means over the prompts that have at least n answers.

    Attributes:
        kl: log n − (n − 1)/n in nats.
        reward_model: expected gold score of the reward model's choice.
        gold: of the choice by the gold score itself: nothing can be better.
        random: of any answer: a reward model that knows nothing.
        gain: reward_model − random, prompt by prompt.
        share: of the possible gain (gold − random) that the reward model makes; None where nothing can be gained.
    """

    n: int
    kl: float
    prompts: int
    reward_model: Estimate
    gold: float
    random: float
    gain: Estimate
    share: float | None


def best_of_n_kl(n: int) -> float:
    """log n − (n − 1)/n in nats.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, is {n}")
    return math.log(n) - (n - 1) / n


def discrete_best_of_n_kl(probabilities_V: Values, n: int) -> float:
    """Exact KL(best-of-n ‖ policy) in nats where rewards take V values: Σ q log(q/p) with q_v = F_v^n − F_{v−1}^n.

    Args:
        probabilities_V: of the values, the lowest reward first; F is their running sum.

    Raises:
        ValueError: n < 1, or the probabilities are negative or do not add up to 1.
    """
    p = finite_array(probabilities_V, "probabilities")
    if p.min() < 0 or abs(float(p.sum()) - 1) > 1e-9:
        raise ValueError(f"probabilities must be at least 0 and add up to 1, their sum is {float(p.sum())}")
    best_of_n_kl(n)  # refuses n < 1
    up_to = np.minimum(np.cumsum(p), 1.0)
    return sum(_atom(float(a), float(b), n) for a, b in pairwise([0.0, *up_to]))


def tied_best_of_n_kl(rewards_K: Values, n: int) -> float:
    """KL(best-of-n ‖ policy) in nats from K sampled rewards of one prompt.

    Rewards that occur several times are atoms of the reward's distribution with their share of the samples as
    probability; what occurs once is taken as continuous. So samples without ties give log n − (n − 1)/n, whatever K is,
    and samples of a discrete reward approach `discrete_best_of_n_kl` as K grows; on the way there, a value that was
    seen once counts as the bound does, which is never too little.

    Raises:
        ValueError: empty, not finite, or n < 1.
    """
    rewards = finite_array(rewards_K, "rewards")
    best_of_n_kl(n)
    counts = np.unique(rewards, return_counts=True)[1]
    ends = np.cumsum(counts) / rewards.size
    total = 0.0
    for low, high, count in zip([0.0, *ends[:-1]], ends, counts, strict=True):
        part = _atom if count > 1 else _stretch
        total += part(float(low), float(high), n)
    return total


def _atom(low: float, high: float, n: int) -> float:
    """q log(q/p) of a value that lies between two values of the distribution function."""
    if high <= low:
        return 0.0
    chosen = high**n - low**n
    return chosen * math.log(chosen / (high - low)) if chosen > 0 else 0.0


def _stretch(low: float, high: float, n: int) -> float:
    """∫ n uⁿ⁻¹ log(n uⁿ⁻¹) du: the same where the distribution is continuous between them."""

    def primitive(u: float) -> float:
        return u**n * (math.log(n) + (n - 1) * (math.log(u) - 1 / n)) if u > 0 else 0.0

    return primitive(high) - primitive(low)


def best_of_n_weights(rewards_K: Values, n: int) -> Array:
    """[K] probability that each answer is the best of n drawn without replacement, ties broken at random.

    Raises:
        ValueError: empty, not finite, or n outside 1..K.
    """
    rewards = finite_array(rewards_K, "rewards")
    size = rewards.size
    if not 1 <= n <= size:
        raise ValueError(f"n must lie in 1..{size}, is {n}")
    _, inverse, counts = np.unique(rewards, return_inverse=True, return_counts=True)
    # All of the n lie at or below a value with probability C(answers up to it, n) / C(K, n).
    up_to = [math.comb(int(c), n) / math.comb(size, n) for c in np.cumsum(counts)]
    return np.asarray((np.diff(up_to, prepend=0.0) / counts)[inverse])


def expected_best_of_n(rewards_K: Values, gold_K: Values, n: int) -> float:
    """Expected gold score of the answer with the highest reward among n of the K.

    Raises:
        ValueError: empty, not finite, of different lengths, or n outside 1..K.
    """
    gold = finite_array(gold_K, "gold scores")
    weights = best_of_n_weights(rewards_K, n)
    if gold.shape != weights.shape:
        raise ValueError(f"{weights.size} rewards and {gold.size} gold scores: they must pair up")
    return float(weights @ gold)


def best_of_n_curve(prompts: Sequence[Candidates]) -> list[BestOfN]:
    """The curve over n = 1..K, where prompts with fewer than n answers drop out (`prompts` counts who is left).

    Raises:
        ValueError: as `expected_best_of_n`.
    """
    largest = max((len(rewards) for rewards, _ in prompts), default=0)
    return [_point([c for c in prompts if len(c[0]) >= n], n) for n in _steps(largest)]


def _steps(largest: int) -> list[int]:
    """1..8, then 1½ and 2 times powers of two, and the largest."""
    thin = (m for power in range(3, largest.bit_length()) for m in (2**power + 2 ** (power - 1), 2 ** (power + 1)))
    return sorted({*range(1, min(largest, _ALL_UP_TO) + 1), *(m for m in thin if m <= largest), largest} - {0})


def _point(prompts: Sequence[Candidates], n: int) -> BestOfN:
    chosen = np.array([expected_best_of_n(rewards, gold, n) for rewards, gold in prompts])
    best = float(np.mean([expected_best_of_n(gold, gold, n) for _, gold in prompts]))
    middle = np.array([float(np.mean(gold)) for _, gold in prompts])
    possible = best - float(middle.mean())
    gain = mean_estimate(chosen - middle)
    # Differences at the level of rounding are no possibility.
    scale = max((float(np.abs(np.asarray(gold)).max()) for _, gold in prompts), default=0.0)
    share = gain.value / possible if possible > 1e-12 * scale else None
    return BestOfN(n, best_of_n_kl(n), len(prompts), mean_estimate(chosen), best, float(middle.mean()), gain, share)
