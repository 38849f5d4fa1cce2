"""Gao's laws: coefficients come back from noiseless curves, peaks are where the curve is highest, intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plaudit.evaluation.laws import Law, bootstrap_fit, fit_law, law_peak, law_reward

LAWS: tuple[Law, Law] = ("bon", "rl")
DISTANCES = np.array([0.3, 0.8, 1.5, 2.0, 3.5])


def curve(law: Law, alpha: float, beta: float, at: np.ndarray = DISTANCES) -> np.ndarray:
    return np.array([law_reward(law, float(d), alpha, beta) for d in at])


def test_gaos_digits() -> None:
    """α = 1, β = 0.1."""
    assert law_peak("bon", 1, 0.1) == pytest.approx((5, 2.5), rel=1e-14)
    assert law_peak("rl", 1, 0.1) == pytest.approx((8103.083927575384, 810.3083927575384), rel=1e-14)
    assert law_reward("bon", 5, 1, 0.1) == 2.5
    assert law_reward("rl", math.e, 1, 0.1) == pytest.approx(0.9 * math.e)
    assert [law_reward(law, 0, 1, 0.1) for law in LAWS] == [0, 0]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.4), (0.3, 0.2), (2.0, 1.5)])
def test_the_peak_is_where_the_curve_is_highest(law: Law, alpha: float, beta: float) -> None:
    found = law_peak(law, alpha, beta)
    assert found is not None
    at = np.linspace(1e-6, 2 * found[0], 200_001)
    rewards = alpha * at - beta * at * (at if law == "bon" else np.log(at))
    assert at[np.argmax(rewards)] == pytest.approx(found[0], rel=1e-4)
    assert rewards.max() == pytest.approx(found[1], rel=1e-8)


@pytest.mark.parametrize(
    ("law", "alpha", "beta"), [("bon", 1, 0), ("bon", 1, -1), ("bon", -1, 1), ("rl", 1, 0), ("rl", 1, -1)]
)
def test_no_peak_where_there_is_none(law: Law, alpha: float, beta: float) -> None:
    assert law_peak(law, alpha, beta) is None
    fit = fit_law(law, DISTANCES, curve(law, alpha, beta - 1e-9))
    assert fit.peak is None
    assert not fit.extrapolated


def test_a_peak_beyond_all_numbers_is_at_infinity() -> None:
    assert law_peak("rl", 1, 1e-4) == (math.inf, math.inf)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("errors", [None, [0.1, 0.2, 0.1, 0.3, 0.05]])
def test_coefficients_come_back_from_a_noiseless_curve(law: Law, errors: list[float] | None) -> None:
    fit = fit_law(law, DISTANCES, curve(law, 0.7, 0.25), errors)
    assert (fit.alpha.value, fit.beta.value) == pytest.approx((0.7, 0.25), abs=1e-12)
    peak = law_peak(law, 0.7, 0.25)
    assert peak is not None
    assert fit.peak is not None
    assert (fit.peak.distance.value, fit.peak.reward.value) == pytest.approx(peak, rel=1e-9)
    assert fit.at(2.0) == pytest.approx(law_reward(law, 2.0, 0.7, 0.25))
    assert (fit.points, fit.reach, fit.weighted) == (5, 3.5, errors is not None)
    assert fit.extrapolated == (peak[0] > 3.5)
    assert fit.intervals == ("residuals" if errors is None else "known errors")
    if errors is None:
        assert fit.alpha.high - fit.alpha.low < 1e-9  # nothing is left over
    else:
        assert fit.alpha.low < 0.7 < fit.alpha.high


@pytest.mark.parametrize("law", LAWS)
def test_intervals_are_those_of_weighted_regression(law: Law) -> None:
    """Standard errors of α and β, and the delta method for the peak, against many noisy curves."""
    generator = np.random.default_rng(0)
    errors = np.array([0.02, 0.01, 0.03, 0.02, 0.04])
    truth = curve(law, 1.0, 0.6)
    fits = [fit_law(law, DISTANCES, truth + errors * generator.normal(size=5), errors) for _ in range(800)]
    one = fits[0]
    for name, value in (("alpha", 1.0), ("beta", 0.6)):
        found = [getattr(f, name) for f in fits]
        half = (getattr(one, name).high - getattr(one, name).low) / 2
        assert half == pytest.approx(1.959964 * np.std([e.value for e in found]), rel=0.1)
        assert np.mean([e.low <= value <= e.high for e in found]) == pytest.approx(0.95, abs=0.03)
    peak = law_peak(law, 1.0, 0.6)
    assert peak is not None
    peaks = [f.peak for f in fits]
    assert all(p is not None for p in peaks)
    for place, name in enumerate(("distance", "reward")):
        inside = [getattr(p, name).low <= peak[place] <= getattr(p, name).high for p in peaks]
        assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_unknown_errors_take_students_t() -> None:
    """Three points leave one degree of freedom: 12.706 standard errors."""
    d, rewards = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.5, 1.8])
    fit = fit_law("bon", d, rewards)
    design = np.column_stack([np.ones(3), d])
    left = rewards / d - design @ np.linalg.lstsq(design, rewards / d, rcond=None)[0]
    error = math.sqrt(float(left @ left) * np.linalg.inv(design.T @ design)[0, 0])
    assert (fit.alpha.high - fit.alpha.low) / 2 / error == pytest.approx(12.7062047, rel=1e-7)
    four = fit_law("bon", [*d, 4.0], [*rewards, 2.2])
    assert four.intervals == "residuals"


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.70620), (2, 4.30265), (3, 3.18245), (10, 2.22814)])
def test_quantiles_of_student(freedom: int, expected: float) -> None:
    from plaudit.evaluation.laws import _student

    assert _student(0.95, freedom) == pytest.approx(expected, abs=1e-5)


def test_a_bootstrap_moves_the_intervals_and_nothing_else() -> None:
    generator = np.random.default_rng(1)
    truth = curve("bon", 1.0, 0.2)
    fit = fit_law("bon", DISTANCES, truth)
    noisy = truth * (1 + 0.02 * generator.normal(size=(500, 5)))
    found = bootstrap_fit(fit, np.tile(DISTANCES, (500, 1)), noisy)
    assert (found.alpha.value, found.beta.value) == (fit.alpha.value, fit.beta.value)
    assert found.alpha.low < 1 < found.alpha.high
    refits = np.sort([fit_law("bon", DISTANCES, row).alpha.value for row in noisy])
    assert found.alpha.low == pytest.approx(refits[math.floor(0.025 * 499)])
    assert (found.intervals, found.peaked) == ("bootstrap over prompts", 1.0)


def test_an_uncertain_peak_is_open_above() -> None:
    """Half of the replicates have no peak: theirs is at infinity."""
    fit = fit_law("bon", DISTANCES, curve("bon", 1.0, 0.05))
    rows = np.stack([curve("bon", 1.0, 0.05 + (0.1 if i % 2 else -0.1)) for i in range(100)])
    distances = np.tile(DISTANCES, (100, 1))
    distances[1, 0] = 0  # a point that is not there in one of them
    found = bootstrap_fit(fit, distances, rows)
    assert found.peak is not None
    assert found.peak.distance.high == found.peak.reward.high == math.inf
    assert found.peak.distance.low == pytest.approx(1 / 0.3)
    assert found.peaked == 0.5


@pytest.mark.parametrize(
    ("distances", "rewards", "errors", "message"),
    [
        ([1, 2], [1, 2], None, "3 different distances, there are 2"),
        ([1, 2, 2], [1, 2, 2], None, "3 different distances, there are 2"),
        ([0, 1, 2], [0, 1, 2], None, "must be positive"),
        ([1, 2, 3], [1, 2, 3], [0.1, 0.1, 0], "must be positive"),
        ([1, 2, 3], [1, 2], None, "pair up"),
        ([1, 2, 3], [1, 2, math.nan], None, "not finite"),
    ],
)
def test_bad_input(distances: list[float], rewards: list[float], errors: list[float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_law("rl", distances, rewards, errors)
