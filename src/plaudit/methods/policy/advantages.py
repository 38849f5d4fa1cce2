"""Advantage estimators: pure functions of rewards and values, in fp64 on the host.

Nothing here has a gradient. An answer is a row of T targets; observation tokens are no targets, so they take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from plaudit.types import Floats

Array = npt.NDArray[np.float64]
Deviation = Literal["sample", "population", "none"]
Scale = Literal["sample", "population", "batch", "none"]
_ROUNDING, _CANCELLED = 1e-6, 1e-12
"""Of the largest reward: answers that are equal and were scored in two batches differ by rounding in fp32; absolute."""


def gae(rewards_T: Sequence[float] | Array, values_T: Sequence[float] | Array, gamma: float, lam: float) -> Array:
    """Generalised advantage estimation over one answer. [T], [T] → [T]

    δ_t = R_t + γ V_{t+1} − V_t and A_t = δ_t + γ λ A_{t+1} (Schulman et al. 2016, arXiv 1506.02438, eq. 16). The value
    after the last target is 0: the episode ends there, whether the answer ended or was cut.
    """
    rewards, values = np.asarray(rewards_T, dtype=np.float64), np.asarray(values_T, dtype=np.float64)
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    found, running = np.zeros_like(deltas), 0.0
    for t in range(len(deltas) - 1, -1, -1):
        running = deltas[t] + gamma * lam * running
        found[t] = running
    return found


def adaptive_lambda(length: int, alpha: float) -> float:
    """λ = 1 − 1/(α l) of an answer of l tokens, within [0, 1] (VAPO, arXiv 2504.05118, §4.2): longer answers carry the
    reward at their end back to their beginning."""
    return min(1.0, max(0.0, 1.0 - 1.0 / (alpha * length))) if length else 0.0


def token_rewards(score: float, penalties_T: Sequence[float] | Array) -> Array:
    """R_t = −penalty_t, and the score on the last target (Ziegler et al. 2019, arXiv 1909.08593, eq. 2). [T] → [T]"""
    found = -np.asarray(penalties_T, dtype=np.float64)
    if len(found):
        found[-1] += score
    return found


def reward_to_go(rewards_T: Sequence[float] | Array) -> Array:
    """Σ of this and all later rewards. [T] → [T]"""
    found: Array = np.cumsum(np.asarray(rewards_T, dtype=np.float64)[::-1])[::-1]
    return found


def all_equal(rewards_K: Array) -> bool:
    """Whether a group has nothing to tell apart: up to rounding, which a division by the group's deviation would blow
    up to the size of a real difference. The scale of the rewards does not matter; parts of a sum that cancel leave some
    1e-16 of their size."""
    if not len(rewards_K):
        return True
    return bool(np.ptp(rewards_K) <= _ROUNDING * float(np.abs(rewards_K).max()) + _CANCELLED)


def group_normalised(rewards_K: Sequence[float] | Array, deviation: Deviation = "sample", eps: float = 1e-4) -> Array:
    """(r − mean) / (std + eps) within the answers to one prompt (GRPO, arXiv 2402.03300, §4.1.2). [K] → [K]

    Args:
        deviation: with K − 1 in the denominator, with K, or no division at all (Dr. GRPO, arXiv 2503.20783).
    """
    rewards = np.asarray(rewards_K, dtype=np.float64)
    if all_equal(rewards):
        return np.zeros_like(rewards)
    centred: Array = rewards - rewards.mean()
    if deviation == "none":
        return centred
    found: Array = centred / (rewards.std(ddof=1 if deviation == "sample" else 0) + eps)
    return found


def normalised(rewards: Sequence[Array], scale: Scale = "sample", eps: float = 1e-4) -> list[Array]:
    """`group_normalised` of several groups. [G] → [K]

    Args:
        scale: besides the deviations of a group: "batch", the standard deviation (with n − 1) of the rewards of all
            groups together, around their common mean (Lite-PPO, arXiv 2508.08221, §4.1).
    """
    if scale != "batch":
        return [group_normalised(row, scale, eps) for row in rewards]
    flat = np.concatenate(rewards) if rewards else np.zeros(0)
    deviation = float(flat.std(ddof=1)) if len(flat) > 1 else 0.0
    return [group_normalised(row, "none") / (deviation + eps) for row in rewards]


def rewards_to_come(rewards_S: Sequence[float] | Array, ends_S: Sequence[int], length: int) -> Array:
    """Σ of the rewards of the steps that end at a token or behind it (process supervision of GRPO, arXiv 2402.03300,
    §4.1.3). [S], [S] → [L]

    Args:
        ends_S: index of the token at which each step ends.
        length: L. Tokens behind the last step get 0.
    """
    found = np.zeros(length)
    for reward, end in zip(rewards_S, ends_S, strict=True):
        found[: end + 1] += reward
    return found


def soft_overlong(lengths_N: npt.ArrayLike, longest: float, cache: float) -> Array:
    """0 up to longest − cache, falling linearly to −1 at `longest`, and −1 beyond (DAPO, arXiv 2503.14476, eq. 13).
    [N] → [N]; made to be added to a reward of ±1.

    Raises:
        ValueError: not 0 < cache ≤ longest.
    """
    if not 0 < cache <= longest:
        raise ValueError(f"cache is {cache} and longest {longest}; cache lies above 0 and not above longest")
    lengths = np.asarray(lengths_N, dtype=np.float64)
    found: Array = np.clip((longest - cache - lengths) / cache, -1.0, 0.0)
    return found


def leave_one_out(rewards_K: Sequence[float] | Array) -> Array:
    """r_i − mean of the others (RLOO, arXiv 2402.14740, eq. 8). [K] → [K]; a single answer has no baseline."""
    rewards = np.asarray(rewards_K, dtype=np.float64)
    count = len(rewards)
    if count < 2:
        return rewards.copy()
    found: Array = rewards - (rewards.sum() - rewards) / (count - 1)
    return found


def whiten(values: Sequence[Floats] | Sequence[Array], *, shift_mean: bool = True, eps: float = 1e-8) -> list[Array]:
    """(a − μ) / √(σ² + eps), plus μ where the mean stays, over all entries of all rows together.

    The variance is the population's, as in lm-human-preferences. Rows keep their lengths.
    """
    rows = [np.asarray(v, dtype=np.float64) for v in values]
    flat = np.concatenate(rows) if rows else np.zeros(0)
    if not len(flat):
        return rows
    mean, scale = float(flat.mean()), 1.0 / np.sqrt(float(flat.var()) + eps)
    kept = 0.0 if shift_mean else mean
    return [(row - mean) * scale + kept for row in rows]
