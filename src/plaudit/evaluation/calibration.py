"""Whether σ(Δ) is the probability that the labels agree, and by what factor the margins are too large.

Every pair is looked at in both orientations, (p, y) and (1 − p, 1 − y): with the better answer always first, every
label is 1 and a calibration error degenerates.

Brier, log loss and temperature take soft labels as they are (the share of votes for the first answer); then Brier is
the expected y(1 − p)² + (1 − y)p² of one more vote.

Shapes: N pairs; Δ = r(first) − r(second), p = σ(Δ), y = probability that the first is better (1 for a certain label).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plaudit.evaluation.clustered import SMALL, Array, Groups, clustered_mean, group_sums, squares_of_groups
from plaudit.evaluation.estimates import Estimate, Values, finite_array, quantile, wilson_interval

MOST_BINS = 10
_POINTS_PER_BIN = 20
_REACH = 1e3
"""Temperatures are sought between rms(Δ)/1000 and 1000·rms(Δ)."""
_HALVINGS = 80


@dataclass(frozen=True, slots=True)
class Bin:
    """Points of similar p.

    Attributes:
        predicted, observed: mean p and mean y.
        low, high: Wilson's interval of `observed`.
        share: of all points.
    """

    predicted: float
    observed: float
    low: float
    high: float
    share: float


@dataclass(frozen=True, slots=True)
class Temperature:
    """The T that minimises mean ζ(−Δ/T); T > 1: the model is surer than its accuracy allows.

    Attributes:
        value: None where all margins are 0, so that no T is better than another.
        bound: where the search ended at a bound: "low" (the margins separate the labels perfectly: the smaller T, the
            better) or "high" (the margins do not point the labels' way: the larger T, the better).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    bound: Literal["low", "high"] | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """All of it.

    Attributes:
        ece: expected calibration error, equal-mass bins over both orientations.
        ece_by_chance: what a perfectly calibrated model with these p would show on average with so few pairs, if they
            were independent; None with soft labels.
        log_loss: mean ζ(−Δ), the Bradley–Terry loss; ln 2 = .693 knows nothing.
        ece_tempered, log_loss_tempered: with Δ/T (T is fitted on the same pairs, so these are a little too good).
    """

    ece: float
    ece_by_chance: float | None
    brier: Estimate
    log_loss: Estimate
    temperature: Temperature
    ece_tempered: float | None
    log_loss_tempered: float | None
    bins: list[Bin]


def calibration(
    margins_N: Values, labels_N: Values, prompts_N: Groups, weights_N: Array | None = None, bins: int | None = None
) -> Calibration:
    """Measure calibration.

    Args:
        labels_N: y in [0, 1].
        bins: an even number (so that no bin holds a pair in both orientations); None = 10, or fewer so that each has
            20 points.

    Raises:
        ValueError: empty, not finite, of different lengths, labels outside [0, 1], or an odd number of bins.
    """
    margins, labels = finite_array(margins_N, "margins"), finite_array(labels_N, "labels")
    if margins.shape != labels.shape or labels.min() < 0 or labels.max() > 1:
        raise ValueError("there must be one label in [0, 1] per margin")
    weights = np.ones(margins.size) if weights_N is None else weights_N
    p = sigmoid(margins)
    found = fit_temperature(margins, labels, prompts_N, weights)
    table = reliability(margins, labels, weights, bins)
    tempered = None if found.value is None else margins / found.value
    soft = bool(((labels > 0) & (labels < 1)).any())
    return Calibration(
        ece=expected_error(table),
        ece_by_chance=None if soft else _error_by_chance(margins, weights, bins),
        brier=clustered_mean(labels * (1 - p) ** 2 + (1 - labels) * p**2, prompts_N, weights),
        log_loss=clustered_mean(_log_losses(margins, labels), prompts_N, weights),
        temperature=found,
        ece_tempered=None if tempered is None else expected_error(reliability(tempered, labels, weights, bins)),
        log_loss_tempered=None if tempered is None else float(weights @ _log_losses(tempered, labels) / weights.sum()),
        bins=table,
    )


def sigmoid(z: Array) -> Array:
    """σ(z) without overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def softplus(z: Array) -> Array:
    """ζ(z) = log(1 + e^z) without overflow."""
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


def reliability(margins_N: Array, labels_N: Array, weights_N: Array, bins: int | None = None) -> list[Bin]:
    """Equal-mass bins over both orientations. Points of equal p stay together, so a bin may be larger, or missing."""
    p, y = _both(margins_N), np.concatenate([labels_N, 1 - labels_N])
    w = np.concatenate([weights_N, weights_N])
    places = _places(p, w, _bin_count(len(p), bins))
    found = []
    for place in np.unique(places):
        inside = places == place
        mass = float(w[inside].sum())
        observed = float(np.clip(w[inside] @ y[inside] / mass, 0, 1))
        low, high = wilson_interval(observed, mass**2 / float(w[inside] @ w[inside]))
        found.append(Bin(float(w[inside] @ p[inside] / mass), observed, low, high, mass / float(w.sum())))
    return found


def expected_error(table: list[Bin]) -> float:
    """ECE: the mean over bins, by their mass, of |mean p − mean y|."""
    return math.fsum(b.share * abs(b.predicted - b.observed) for b in table)


def _both(margins_N: Array) -> Array:
    """[2N] p in both orientations; of σ(−Δ), because 1 − σ(Δ) would differ from an equal p in the last digit."""
    return sigmoid(np.concatenate([margins_N, -margins_N]))


def _bin_count(points: int, bins: int | None) -> int:
    if bins is None:
        return max(2, min(MOST_BINS, 2 * (points // (2 * _POINTS_PER_BIN))))
    if bins < 2 or bins % 2:
        raise ValueError(f"the number of bins must be even and positive, is {bins}")
    return bins


def _places(p: Array, w: Array, bins: int) -> Array:
    """Bin of each point: by the middle of the mass that lies at its p."""
    _, inverse = np.unique(p, return_inverse=True)
    mass = np.bincount(inverse, weights=w)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.asarray(np.minimum(np.floor(bins * middle), bins - 1)[inverse])


def _error_by_chance(margins_N: Array, weights_N: Array, bins: int | None) -> float:
    """Σ share · E|N(0, v)| with v the variance of a bin's mean label when every label is drawn from its p.

    A pair whose two orientations lie in one bin (a margin of 0) adds nothing: there one label is y and the other 1 − y.
    """
    p, w = _both(margins_N), np.concatenate([weights_N, weights_N])
    places = _places(p, w, _bin_count(len(p), bins))
    half = len(margins_N)
    apart = np.tile(places[:half] != places[half:], 2)
    variances = np.where(apart, w**2 * p * (1 - p), 0.0)
    deviations = [math.sqrt(float(variances[places == b].sum())) for b in np.unique(places)]
    return math.sqrt(2 / math.pi) * math.fsum(deviations) / float(w.sum())


def _log_losses(margins: Array, labels: Array) -> Array:
    """y ζ(−Δ) + (1 − y) ζ(Δ)"""
    return np.asarray(labels * softplus(-margins) + (1 - labels) * softplus(margins))


def fit_temperature(margins: Array, labels: Array, prompts_N: Groups, weights: Array) -> Temperature:
    """Minimise the mean of y ζ(−Δ/T) + (1 − y) ζ(Δ/T), which is convex in 1/T, by halving on its slope.

    The interval is that of log T, from the prompts' sums of slopes (sandwich).
    """
    size = math.sqrt(float(weights @ margins**2 / weights.sum()))
    if size == 0:
        return Temperature(None)

    def slopes(a: float) -> Array:
        return np.asarray(weights * margins * (sigmoid(a * margins) - labels))

    low, high = -math.log(_REACH * size), math.log(_REACH / size)  # of log(1/T)
    if slopes(math.exp(high)).sum() <= 0:
        return Temperature(math.exp(-high), bound="low")
    if slopes(math.exp(low)).sum() >= 0:
        return Temperature(math.exp(-low), bound="high")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slopes(math.exp(middle)).sum() < 0 else (low, middle)
    a = math.exp((low + high) / 2)
    sums = group_sums(slopes(a), prompts_N)
    p = sigmoid(a * margins)
    curvature = float(weights @ (margins**2 * p * (1 - p)))
    # The sandwich needs some prompts: from a dozen its interval of log T can exclude what a likelihood ratio does not,
    # a model without any signal (T = ∞) among it.
    if len(sums) < SMALL or curvature == 0:
        return Temperature(1 / a)
    error = math.sqrt(squares_of_groups(sums)) / (curvature * a)
    reach = math.exp(min(quantile(0.95) * error, 700.0))
    return Temperature(1 / a, 1 / a / reach, reach / a)
