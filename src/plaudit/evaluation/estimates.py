"""Point estimates with confidence intervals: Wilson for shares, the normal approximation for means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating] | Sequence[float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the interval that covers the true one with probability ``confidence``."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95


def finite_array(values: Values, name: str) -> npt.NDArray[np.float64]:
    """[N] fp64.

    Raises:
        ValueError: empty, not one-dimensional, or a value that is not finite (nothing is left out silently).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional array, has shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has {int((~np.isfinite(array)).sum())} values that are not finite")
    return array


def proportion_estimate(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """A share with the Wilson score interval (Wilson 1927), which stays inside [0, 1] and holds for small n.

    ``successes`` may hold halves (ties counted ½). The interval is then wider than needed, never narrower, because
    ties have less variance than the coin flips that Wilson assumes.

    Raises:
        ValueError: n < 1 or successes outside [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, n] with n >= 1, got {successes} of {n}")
    p = successes / n
    low, high = wilson_interval(p, n, confidence)
    return Estimate(p, low, high, n, confidence)


def wilson_interval(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of Wilson's score interval for a share of `n` independent trials; `n` may be an effective number."""
    z = quantile(confidence)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the bound is exactly the share; rounding must not put it on the wrong side.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mean_estimate(values: Values, confidence: float = 0.95) -> Estimate:
    """A mean with ± z·s/√n: good for about 30 independent values or more, too narrow for fewer.

    A single value has no spread to estimate: its interval is infinite.

    Raises:
        ValueError: empty or not finite.
    """
    array = finite_array(values, "values")
    mean, n = float(array.mean()), array.size
    half = quantile(confidence) * float(array.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(mean, mean - half, mean + half, n, confidence)


def percentile_estimate(value: float, replicates: Values, n: int, confidence: float = 0.95) -> Estimate:
    """A value with the percentile interval of its bootstrap replicates, which may be infinite.

    The ends are replicates themselves, the outer ones: between a number and infinity nothing can be interpolated.

    Raises:
        ValueError: there are no replicates.
    """
    ordered = np.sort(np.asarray(replicates, dtype=np.float64))
    if ordered.size == 0:
        raise ValueError("an interval needs replicates")
    quantile(confidence)  # refuses a confidence that is none
    tail = (1 - confidence) / 2 * (ordered.size - 1)
    low, high = ordered[math.floor(tail)], ordered[math.ceil(ordered.size - 1 - tail)]
    return Estimate(value, float(low), float(high), n, confidence)


def quantile(confidence: float) -> float:
    """How many standard deviations a two-sided normal interval reaches.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
