"""Calibration: hand-derived values, limits, and labels drawn from a known temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plaudit.evaluation.calibration import calibration, expected_error, fit_temperature, reliability, sigmoid, softplus


def drawn(size: int, temperature: float, seed: int, spread: float = 3.0) -> np.ndarray:  # type: ignore[type-arg]
    """Margins of pairs whose better answer was drawn from σ(Δ/T)."""
    generator = np.random.default_rng(seed)
    margins = generator.normal(scale=spread, size=size)
    first = generator.random(size) < sigmoid(margins / temperature)
    return np.where(first, margins, -margins)


def ones(n: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.ones(n)


def test_the_log_loss_is_the_bradley_terry_loss() -> None:
    for margin, loss in ((0.0, 0.6931471805599453), (1.0, 0.3132616875182229)):
        found = calibration([margin], [1.0], np.zeros(1, dtype=int))
        assert found.log_loss.value == pytest.approx(loss, abs=1e-15)
    assert softplus(np.array([2.0]))[0] - softplus(np.array([-2.0]))[0] == pytest.approx(2.0, abs=1e-15)


def test_a_model_without_an_opinion_is_calibrated() -> None:
    found = calibration(np.zeros(30), ones(30), np.arange(30))
    assert found.ece == 0.0
    assert found.brier.value == 0.25
    assert found.temperature.value is None
    assert found.ece_tempered is None


def test_both_orientations_give_a_bin_each() -> None:
    # p = .8 for all pairs, of which 3 of 4 are right: the points are (.8, .75) and (.2, .25).
    margins = math.log(4) * np.array([1, 1, 1, -1.0] * 10)
    found = calibration(margins, ones(40), np.arange(40))
    assert [(b.predicted, b.observed) for b in found.bins] == [
        pytest.approx((0.2, 0.25)),
        pytest.approx((0.8, 0.75)),
    ]
    assert found.ece == pytest.approx(0.05)
    assert found.brier.value == pytest.approx(0.75 * 0.04 + 0.25 * 0.64)
    # The temperature that makes p = .75: ln 4 / T = ln 3.
    assert found.temperature.value == pytest.approx(math.log(4) / math.log(3), rel=1e-9)
    assert found.ece_tempered == pytest.approx(0.0, abs=1e-9)


def test_labels_from_half_the_margin_give_temperature_two() -> None:
    margins = drawn(40_000, 2.0, seed=5)
    found = fit_temperature(margins, ones(40_000), np.arange(40_000), ones(40_000))
    assert found.value == pytest.approx(2.0, rel=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2.0 < found.high
    assert found.high / found.low < 1.08


def test_soft_labels_recover_the_temperature_exactly() -> None:
    margins = np.linspace(-4, 5, 37)
    found = fit_temperature(margins, sigmoid(margins / 2), np.arange(37), ones(37))
    assert found.value == pytest.approx(2.0, rel=1e-12)


def test_the_interval_of_the_temperature_covers_it_as_often_as_it_says() -> None:
    inside = []
    for seed in range(300):
        found = fit_temperature(drawn(400, 2.0, seed), ones(400), np.arange(400), ones(400))
        assert found.low is not None
        assert found.high is not None
        inside.append(found.low <= 2.0 <= found.high)
    assert 0.91 <= np.mean(inside) <= 0.985


def test_the_temperature_has_the_unit_of_the_margins() -> None:
    margins = drawn(500, 1.0, seed=2)
    one, large = (fit_temperature(c * margins, ones(500), np.arange(500), ones(500)) for c in (1.0, 1e4))
    assert one.value is not None
    assert large.value == pytest.approx(1e4 * one.value, rel=1e-9)


def test_separated_and_reversed_margins_end_at_a_bound_and_say_so() -> None:
    margins = np.array([0.5, 1.0, 2.0])
    perfect = fit_temperature(margins, ones(3), np.arange(3), ones(3))
    reverse = fit_temperature(-margins, ones(3), np.arange(3), ones(3))
    size = math.sqrt(np.mean(margins**2))
    assert (perfect.bound, perfect.value) == ("low", pytest.approx(size / 1000))
    assert (reverse.bound, reverse.value) == ("high", pytest.approx(size * 1000))


def test_a_calibrated_model_shows_the_error_of_chance() -> None:
    found = [calibration(drawn(300, 1.0, seed), ones(300), np.arange(300)) for seed in range(200)]
    chance = np.mean([c.ece_by_chance for c in found if c.ece_by_chance is not None])
    assert np.mean([c.ece for c in found]) == pytest.approx(float(chance), rel=0.05)
    sure = calibration(5 * drawn(300, 1.0, 0), ones(300), np.arange(300))
    assert sure.ece_by_chance is not None
    assert sure.ece > 4 * sure.ece_by_chance


def test_one_orientation_alone_would_have_called_a_calibrated_model_wrong() -> None:
    margins = drawn(5000, 1.0, seed=8)
    assert calibration(margins, ones(5000), np.arange(5000)).ece < 0.02
    assert float(np.mean(1 - sigmoid(margins))) > 0.15  # |mean p − 1|: what one orientation measures


def test_soft_labels_count_as_votes() -> None:
    found = calibration(np.full(20, math.log(3)), np.full(20, 0.75), np.arange(20))
    assert found.ece == pytest.approx(0.0, abs=1e-15)
    assert found.brier.value == pytest.approx(0.75 * 0.25**2 + 0.25 * 0.75**2)
    assert found.ece_by_chance is None


def test_huge_margins_stay_finite() -> None:
    found = calibration([1e4, -1e4, 1e4], ones(3), np.arange(3))
    assert found.log_loss.value == pytest.approx(1e4 / 3)
    assert found.ece == pytest.approx(1 / 3)
    assert found.temperature.value is not None


def test_bins_have_equal_mass_and_mirror_each_other() -> None:
    margins = drawn(400, 1.0, seed=4)
    table = reliability(margins, ones(400), ones(400), bins=8)
    assert [b.share for b in table] == pytest.approx([1 / 8] * 8)
    for low, high in zip(table, reversed(table), strict=True):
        assert (low.predicted, low.observed) == pytest.approx((1 - high.predicted, 1 - high.observed))
        assert low.low <= low.observed <= low.high
    assert expected_error(table) == pytest.approx(np.mean([abs(b.predicted - b.observed) for b in table]))


def test_a_weight_of_two_is_the_same_pair_twice() -> None:
    margins = drawn(60, 1.0, seed=6)
    weighted = calibration(margins, ones(60), np.arange(60), np.where(np.arange(60) < 20, 2.0, 1.0), bins=4)
    twice = np.concatenate([margins, margins[:20]])
    copied = calibration(twice, ones(80), np.concatenate([np.arange(60), np.arange(20)]), bins=4)
    assert weighted.ece == pytest.approx(copied.ece)
    assert weighted.brier.value == pytest.approx(copied.brier.value)
    assert weighted.temperature.value == pytest.approx(copied.temperature.value)


@pytest.mark.parametrize(("labels", "bins"), [([1.0], None), ([1.0, 1.5], None), ([1.0, 1.0], 3), ([1.0, 1.0], 0)])
def test_bad_labels_and_bins_are_refused(labels: list[float], bins: int | None) -> None:
    with pytest.raises(ValueError, match=r"label|even"):
        calibration([1.0, 2.0], labels, np.arange(2), bins=bins)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_ties_add_nothing_to_the_error_by_chance(share: float) -> None:
    """Calibrated labels with a share of margins of exactly 0, 300 times: what chance gives is what is measured."""
    rng = np.random.default_rng(5)
    found = []
    for seed in range(300):
        margins = drawn(200, 1.0, seed)
        margins[rng.random(200) < share] = 0.0
        found.append(calibration(margins, ones(200), np.arange(200)))
    measured = np.mean([c.ece for c in found])
    chance = np.mean([c.ece_by_chance for c in found])
    assert chance == pytest.approx(measured, rel=0.12)


def test_a_dozen_prompts_give_no_interval_of_the_temperature() -> None:
    few, enough = drawn(12, 1.0, 3), drawn(40, 1.0, 3)
    assert fit_temperature(few, ones(12), np.arange(12), ones(12)).low is None
    assert fit_temperature(enough, ones(40), np.arange(40), ones(40)).low is not None
