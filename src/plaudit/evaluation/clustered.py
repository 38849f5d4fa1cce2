"""Means and shares whose values come in dependent groups: the pairs of one prompt.

Pairs of one prompt share its answers, so n pairs hold less information than n coin flips. The variance is that of the
prompts' sums (linearised ratio estimator with the factor G/(G − 1)); for a share it becomes an effective number of
pairs, on which Wilson's interval stands (Rao and Scott 1992, Biometrics 48:577; Korn and Graubard 1998, Survey
Methodology 24:193). No resampling, so the same data gives the same interval.

Shapes: N values of G prompts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.estimates import Estimate, Values, finite_array, quantile, wilson_interval

Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.intp]

SMALL = 30
"""Fewer prompts than this say little: strata are marked, and a temperature gets no interval."""


def clustered_share(
    values_N: Values, prompts_N: Groups, weights_N: Array | None = None, confidence: float = 0.95
) -> Estimate:
    """A weighted share with Wilson's interval on the effective number of pairs.

    With one value per prompt and equal weights this is Wilson's interval. The effective number is never taken larger
    than the number of values; where it cannot be estimated (all values equal, or one prompt) it is the number of
    prompts.

    Args:
        values_N: in [0, 1]; a tie counts ½.
        prompts_N: which prompt each value belongs to.
        weights_N: None = all equal.

    Raises:
        ValueError: empty, not finite, of different lengths, or a value outside [0, 1].
    """
    values, prompts, weights = _checked(values_N, prompts_N, weights_N)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("the values of a share must lie in [0, 1]")
    share = float(min(1.0, max(0.0, weights @ values / weights.sum())))
    variance = _variance_of_mean(values, prompts, weights)
    groups = len(np.unique(prompts))
    effective = float(groups)
    if variance > 0:
        most = _kish(weights)
        effective = min(share * (1 - share) / (variance * (most - 1) / most), most)
    low, high = wilson_interval(share, effective, confidence)
    return Estimate(share, low, high, values.size, confidence)


def clustered_mean(
    values_N: Values, prompts_N: Groups, weights_N: Array | None = None, confidence: float = 0.95
) -> Estimate:
    """A weighted mean ± z standard errors; infinite with a single prompt.

    Raises:
        ValueError: empty, not finite, or of different lengths.
    """
    values, prompts, weights = _checked(values_N, prompts_N, weights_N)
    mean = float(weights @ values / weights.sum())
    if len(np.unique(prompts)) == 1:
        return Estimate(mean, -math.inf, math.inf, values.size, confidence)
    half = quantile(confidence) * math.sqrt(_variance_of_mean(values, prompts, weights))
    return Estimate(mean, mean - half, mean + half, values.size, confidence)


def group_sums(values_N: Array, prompts_N: Groups) -> Array:
    """[G] sums of the values of each prompt."""
    inverse = np.unique(prompts_N, return_inverse=True)[1]
    return np.asarray(np.bincount(inverse, weights=values_N), dtype=np.float64)


def squares_of_groups(sums_G: Array) -> float:
    """Σ of the squared sums, times G/(G − 1) for having fitted the mean; 0 with a single group."""
    groups = len(sums_G)
    return groups / (groups - 1) * float(sums_G @ sums_G) if groups > 1 else 0.0


def prompt_weights(prompts_N: Groups) -> Array:
    """[N] weights with which every prompt weighs 1, however many values it has."""
    inverse, counts = np.unique(prompts_N, return_inverse=True, return_counts=True)[1:]
    return np.asarray(1.0 / counts[inverse], dtype=np.float64)


def _variance_of_mean(values: Array, prompts: Groups, weights: Array) -> float:
    total = float(weights.sum())
    mean = float(weights @ values / total)
    return squares_of_groups(group_sums(weights * (values - mean), prompts)) / total**2


def _kish(weights: Array) -> float:
    """Number of equally weighted values that carry as much as these."""
    return float(weights.sum() ** 2 / (weights @ weights))


def _checked(values_N: Values, prompts_N: Groups, weights_N: Array | None) -> tuple[Array, Groups, Array]:
    values = finite_array(values_N, "values")
    prompts = np.asarray(prompts_N)
    weights = np.ones(values.size) if weights_N is None else finite_array(weights_N, "weights")
    if not values.shape == prompts.shape == weights.shape:
        raise ValueError(f"{values.size} values, {prompts.size} prompts and {weights.size} weights: they must pair up")
    if weights.min() <= 0:
        raise ValueError("weights must be positive")
    return values, prompts, weights
