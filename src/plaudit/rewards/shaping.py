"""Shaping: pure functions from rewards to rewards.

A learned reward is right about the answers it was trained on. Far above them it is extrapolation, and a policy finds
the places where it is wrong. Bounding the reward takes the gain out of going there.

Sources: PAR, Fu et al. 2025 (arXiv 2502.18770), with its baselines: clipping at μ ± kσ, min-max, standardising, and the
log-sigmoid of the centred reward (Wang et al. 2024, 2402.00742); ensembles: Coste et al. 2023 (2310.02743) and, with a
standard deviation, Zhai et al. 2024 (2401.00243). The soft overlong punishment of DAPO is in
`plaudit.methods.policy.advantages`.

Shapes: N answers, M references or ensemble members. Everything is float64.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from plaudit.rewards.models.combine import combine, member_std

Array = npt.NDArray[np.float64]
Numbers = npt.ArrayLike
NORMAL_85 = 1.0364333894937898
"""The 85th percentile of the standard normal distribution."""


def _array(values: Numbers) -> Array:
    return np.asarray(values, dtype=np.float64)


def sigmoid(x: Numbers) -> Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    x = _array(x)
    small = np.exp(-np.abs(x))
    found: Array = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return found


def log_sigmoid(x: Numbers) -> Array:
    """log σ(x) = −softplus(−x), without overflow."""
    found: Array = -np.logaddexp(0.0, -_array(x))
    return found


def par(rewards_N: Numbers, references_NM: Numbers, temperature: float = 1.0) -> Array:
    """Preference as reward: (1/M) Σ_m σ((r − r_ref^m) / temperature), in (0, 1). (2502.18770)

    It is the mean Bradley-Terry probability of beating the reference answers: 1/2 where the answer is as good as they
    are, and steepest there.

    Args:
        rewards_N: [N].
        references_NM: [M] rewards of reference answers to one prompt, or [N, M] with a row per answer.
        temperature: in units of the reward. The sigmoid saturates where differences are much larger than it; a reward
            with standard deviation 1 on reference answers goes with 1.

    Raises:
        ValueError: no references, or the temperature is not positive.
    """
    references = _array(references_NM)
    if references.shape[-1:] in ((), (0,)):
        raise ValueError("PAR needs at least one reference reward")
    if not temperature > 0:
        raise ValueError(f"the temperature is {temperature}, must be positive")
    found: Array = sigmoid((_array(rewards_N)[..., None] - references) / temperature).mean(-1)
    return found


def log_sigmoid_centred(rewards_N: Numbers, mean: float, std: float) -> Array:
    """log σ(r − q) with q = μ + 1.036 σ, the 85th percentile of a normal distribution with the references' mean and
    standard deviation. [N] (2402.00742, as the baseline of 2502.18770)"""
    return log_sigmoid(_array(rewards_N) - (mean + NORMAL_85 * std))


def clip(rewards_N: Numbers, low: float = -math.inf, high: float = math.inf) -> Array:
    """Rewards held between two bounds. [N]

    Raises:
        ValueError: low is not below high.
    """
    if not low < high:
        raise ValueError(f"the bounds are {low} and {high}, the first must be the lower")
    found: Array = np.clip(_array(rewards_N), low, high)
    return found


def clip_sigma(rewards_N: Numbers, mean: float, std: float, k: float = 1.0) -> Array:
    """Rewards held within μ ± kσ of the references. [N]"""
    return clip(rewards_N, mean - k * std, mean + k * std)


def standardise(rewards_N: Numbers, mean: float, std: float) -> Array:
    """(r − μ) / σ. [N]

    Raises:
        ValueError: σ is not positive: all references had the same reward, and there is no unit to take from them.
    """
    if not std > 0:
        raise ValueError(f"the standard deviation is {std}, must be positive")
    found: Array = (_array(rewards_N) - mean) / std
    return found


def min_max(rewards_N: Numbers, low: float, high: float) -> Array:
    """(r − low) / (high − low), held in [0, 1]. [N]"""
    return standardise(clip(rewards_N, low, high), low, high - low)


def length_penalty(lengths_N: Numbers, free: float, per_unit: float, most: float = math.inf) -> Array:
    """−per_unit · max(length − free, 0), at least −most. [N] PAR subtracts 0.01 for every token above 300, before
    anything else is done to the reward."""
    found: Array = -np.minimum(per_unit * np.maximum(_array(lengths_N) - free, 0.0), most)
    return found


def threshold(rewards_N: Numbers, at: float, above: float = 1.0, below: float = 0.0) -> Array:
    """`above` where r ≥ at, else `below`. [N]"""
    found: Array = np.where(_array(rewards_N) >= at, above, below)
    return found


def residualise(rewards_N: Numbers, lengths_N: Numbers) -> tuple[float, float]:
    """Slope and mean length of the least-squares line of rewards on lengths: r − slope · (length − mean) has no
    correlation with length on this batch. Slope 0 where all lengths are equal."""
    rewards, lengths = _array(rewards_N), _array(lengths_N)
    centred = lengths - lengths.mean()
    spread = float(centred @ centred)
    slope = float(centred @ rewards) / spread if spread > 0 else 0.0
    return slope, float(lengths.mean())


def pessimistic(
    scores_MN: Numbers, how: Literal["mean", "min", "uwo", "std"] = "uwo", uncertainty_weight: float = 0.5
) -> Array:
    """One reward of an ensemble's, less the more its members disagree. [M, N] → [N]

    Args:
        scores_MN: of members on one scale (standardised on the same answers).
        how: mean; min, the worst case; uwo, mean − weight · variance (2310.02743); std, mean − weight · standard
            deviation (2401.00243).
    """
    scores = _array(scores_MN)
    if how == "std":
        penalised: Array = scores.mean(0) - uncertainty_weight * member_std(scores)
        return penalised
    return combine(scores, how, uncertainty_weight)
