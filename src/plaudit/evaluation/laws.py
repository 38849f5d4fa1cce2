"""Gao's laws of over-optimisation: how far the reward rises with the distance from the start, and where it turns.

With d = √KL(policy ‖ reference) and rewards counted from the reference's mean (Gao, Schulman, Hilton 2022, arXiv
2210.10760, §3):

    best-of-n                 R(d) = d (α − β d)        highest at d* = α / 2β,  R* = α² / 4β
    reinforcement learning    R(d) = d (α − β log d)    highest at d* = exp(α/β − 1),  R* = β d*

R/d is linear in α and −β, so both are fitted by least squares on it. The second form is not meant for d near 0. KL is
consumed at other rates by the two methods: curves of one kind can be compared with each other, and not with the other
kind.

Shapes: M points of a curve, B replicates of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.estimates import Estimate, Values, finite_array, percentile_estimate, quantile

Law = Literal["bon", "rl"]
Array = npt.NDArray[np.float64]
LEAST_POINTS = 3
"""Two points determine both coefficients and leave nothing to see whether the law holds."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a fitted law is highest, and how high: d* and R*."""

    distance: Estimate
    reward: Estimate


@dataclass(frozen=True, slots=True)
class LawFit:
    """A law fitted to a curve.

    Attributes:
        peak: None where β is not positive (or, for best-of-n, α is not): the fitted law has no peak within reach.
        points: how many were fitted.
        reach: the largest distance among them; a peak beyond it is extrapolated.
        intervals: what the intervals are: "known errors", "residuals" or "bootstrap over prompts".
        weighted: whether points weigh by their known standard errors.
        peaked: share of bootstrap replicates whose law has a peak; None without a bootstrap.
    """

    law: Law
    alpha: Estimate
    beta: Estimate
    peak: Peak | None
    points: int
    reach: float
    intervals: str
    weighted: bool
    peaked: float | None = None

    def at(self, distance: float) -> float:
        """The fitted reward at a distance."""
        return law_reward(self.law, distance, self.alpha.value, self.beta.value)

    @property
    def extrapolated(self) -> bool:
        """Whether the peak lies beyond every fitted point."""
        return self.peak is not None and self.peak.distance.value > self.reach


def law_reward(law: Law, distance: float, alpha: float, beta: float) -> float:
    """R(d); 0 at d = 0, which is the limit of both forms."""
    if distance == 0:
        return 0.0
    return distance * (alpha - beta * (distance if law == "bon" else math.log(distance)))


def law_peak(law: Law, alpha: float, beta: float) -> tuple[float, float] | None:
    """(d*, R*), or None where the law has no maximum at a positive distance.

    A peak so far away that its distance is not a number of the machine is at infinity.
    """
    if beta <= 0 or (law == "bon" and alpha <= 0):
        return None
    if law == "bon":
        return alpha / (2 * beta), alpha**2 / (4 * beta)
    exponent = alpha / beta - 1
    distance = math.exp(exponent) if exponent < 700 else math.inf
    return distance, beta * distance


def fit_law(
    law: Law, distances_M: Values, rewards_M: Values, errors_M: Values | None = None, confidence: float = 0.95
) -> LawFit:
    """Least squares of R/d on (1, d) for best-of-n, on (1, log d) for reinforcement learning.

    Intervals of α and β are those of linear regression: from the given errors, or from the residuals with Student's t.
    Those of the peak follow by the delta method on log d* and log R*. Both take the points as independent and the
    distances as exact; where the points share their prompts, `bootstrap_fit` allows for that.

    Args:
        distances_M: √KL, positive.
        rewards_M: mean rewards less the reference's mean.
        errors_M: standard errors of the rewards; None = unknown and equal for R/d.

    Raises:
        ValueError: fewer than three different distances, or values that are not finite or not positive where they must
            be.
    """
    d, rewards = finite_array(distances_M, "distances"), finite_array(rewards_M, "rewards")
    weights = _weights(d, rewards, errors_M)
    if len(np.unique(d)) < LEAST_POINTS:
        raise ValueError(f"a fit needs {LEAST_POINTS} different distances, there are {len(np.unique(d))}")
    design, target = _design(law, d), rewards / d
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
    alpha, minus_beta = (inverse @ (design.T @ (weights * target))).tolist()
    if errors_M is None:
        left = target - design @ np.array([alpha, minus_beta])
        inverse = inverse * float(left @ left) / (d.size - 2)
        reach = _student(confidence, d.size - 2)
    else:
        reach = quantile(confidence)

    def estimate(value: float, half: float) -> Estimate:
        return Estimate(value, value - half, value + half, d.size, confidence)

    halves = reach * np.sqrt(np.maximum(np.diag(inverse), 0.0))
    covariance = inverse * np.array([[1.0, -1.0], [-1.0, 1.0]])  # of (α, β), where the design holds −β
    return LawFit(
        law,
        estimate(alpha, float(halves[0])),
        estimate(-minus_beta, float(halves[1])),
        _peak(law, alpha, -minus_beta, covariance, reach, d.size, confidence),
        d.size,
        float(d.max()),
        "residuals" if errors_M is None else "known errors",
        errors_M is not None,
    )


def bootstrap_fit(fit: LawFit, distances_BM: Array, rewards_BM: Array, errors_M: Values | None = None) -> LawFit:
    """The same fit with percentile intervals from replicates of its curve (the prompts drawn anew).

    A replicate whose law has no peak has it at infinity, so the interval of a peak that is not certain is open above.
    Points of a replicate at a distance that is not positive are left out of it; with fewer than two left it counts as
    a replicate without a peak, and in nothing else.

    Args:
        fit: to the curve itself.
        distances_BM, rewards_BM: the replicates, point by point as in the fit.
        errors_M: the standard errors that the fit was weighted with.
    """
    found: list[tuple[float, float]] = []
    peaks: list[tuple[float, float]] = []
    for d, rewards in zip(distances_BM, rewards_BM, strict=True):
        coefficients = _coefficients(fit.law, d, rewards, errors_M)
        found += [] if coefficients is None else [coefficients]
        turn = None if coefficients is None else law_peak(fit.law, *coefficients)
        peaks.append(turn or (math.inf, math.inf))
    alpha, beta = zip(*found, strict=True) if found else ((fit.alpha.value,), (fit.beta.value,))
    at, high = zip(*peaks, strict=True)
    peak = fit.peak
    if peak is not None:
        peak = Peak(_between(peak.distance, at), _between(peak.reward, high))
    return replace(
        fit,
        alpha=_between(fit.alpha, alpha),
        beta=_between(fit.beta, beta),
        peak=peak,
        intervals="bootstrap over prompts",
        peaked=sum(math.isfinite(x) for x in at) / len(at),
    )


def _between(point: Estimate, replicates: Sequence[float]) -> Estimate:
    return percentile_estimate(point.value, replicates, point.n, point.confidence)


def _coefficients(law: Law, d: Array, rewards: Array, errors_M: Values | None) -> tuple[float, float] | None:
    kept = d > 0
    if len(np.unique(d[kept])) < 2:
        return None
    errors = None if errors_M is None else np.asarray(errors_M)[kept]
    root = np.sqrt(_weights(d[kept], rewards[kept], errors))
    solved = np.linalg.lstsq(root[:, None] * _design(law, d[kept]), root * rewards[kept] / d[kept], rcond=None)[0]
    return float(solved[0]), -float(solved[1])


def _design(law: Law, d: Array) -> Array:
    return np.column_stack([np.ones_like(d), d if law == "bon" else np.log(d)])


def _weights(d: Array, rewards: Array, errors_M: Values | None) -> Array:
    """[M] 1/Var(R/d), or ones where it is not known."""
    errors = None if errors_M is None else finite_array(errors_M, "errors")
    if d.shape != rewards.shape or (errors is not None and errors.shape != d.shape):
        raise ValueError(f"{d.size} distances and {rewards.size} rewards: they must pair up, and with their errors")
    if d.min() <= 0 or (errors is not None and errors.min() <= 0):
        raise ValueError("distances and errors must be positive")
    return np.ones_like(d) if errors is None else (d / errors) ** 2


def _peak(
    law: Law, alpha: float, beta: float, covariance: Array, reach: float, n: int, confidence: float
) -> Peak | None:
    found = law_peak(law, alpha, beta)
    if found is None:
        return None
    # Gradients of log d* and log R* in (α, β): the interval of a positive number stays positive.
    if law == "bon":
        along = np.array([1 / alpha, -1 / beta])
        up = np.array([2 / alpha, -1 / beta])
    else:
        along = np.array([1 / beta, -alpha / beta**2])
        up = along + np.array([0.0, 1 / beta])

    def estimate(value: float, gradient: Array) -> Estimate:
        half = reach * math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
        factor = math.exp(half) if half < 700 else math.inf
        high = value if factor == 1 else value * factor
        return Estimate(value, value / factor, high, n, confidence)

    return Peak(estimate(found[0], along), estimate(found[1], up))


def _student(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t (its distribution function in closed form, Abramowitz and Stegun 26.7.3-4,
    and bisection)."""
    quantile(confidence)  # refuses a confidence that is none

    def covered(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        cosine, odd = math.cos(angle), freedom % 2
        term, total = (cosine if odd else 1.0), 0.0
        for k in range((freedom - 1) // 2 if odd else freedom // 2):
            total += term
            term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
        return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if covered(middle) < confidence else (low, middle)
    return high
