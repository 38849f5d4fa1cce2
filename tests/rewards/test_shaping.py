"""Shaping against hand-derived numbers and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.rewards import shaping

REAL = st.floats(-50, 50)


def test_par_of_an_answer_as_good_as_its_reference_is_a_half() -> None:
    assert shaping.par([3.0], [3.0]) == pytest.approx([0.5], abs=0)


def test_par_oracle() -> None:
    """References 0, 1, 2 and r = 2: (σ(2) + σ(1) + σ(0)) / 3."""
    assert float(shaping.par(2.0, [0.0, 1.0, 2.0])) == pytest.approx(0.7039518855359624, abs=1e-15)


@given(REAL, REAL)
def test_par_is_complementary_for_one_reference(a: float, b: float) -> None:
    assert float(shaping.par(a, [b]) + shaping.par(b, [a])) == pytest.approx(1, abs=1e-12)


@given(REAL, st.lists(REAL, min_size=1, max_size=5), REAL)
def test_par_does_not_see_a_shift_of_both(r: float, references: list[float], c: float) -> None:
    shifted = shaping.par(r + c, [x + c for x in references])
    assert float(shifted) == pytest.approx(float(shaping.par(r, references)), abs=1e-9)


def test_par_is_bounded_monotone_and_steepest_at_the_reference() -> None:
    r = np.linspace(-8, 8, 1601)
    values = shaping.par(r, [0.0])
    slopes = np.gradient(values, r)
    assert np.all(np.diff(values) > 0)
    assert slopes.max() == pytest.approx(0.25, abs=1e-5)
    assert r[slopes.argmax()] == pytest.approx(0, abs=1e-9)
    assert shaping.par([-1e6, 1e6], [0.0]).tolist() == [0.0, 1.0]


def test_par_temperature_is_in_units_of_the_reward() -> None:
    assert shaping.par([30.0], [10.0], 10.0) == pytest.approx(shaping.par([3.0], [1.0]))
    with pytest.raises(ValueError, match="temperature"):
        shaping.par([1.0], [0.0], 0.0)
    with pytest.raises(ValueError, match="at least one reference"):
        shaping.par([1.0], [])


def test_par_with_a_row_of_references_per_answer() -> None:
    rows = shaping.par([2.0, 0.0], [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert rows == pytest.approx([0.7039518855359624, 0.5])


def test_length_penalty_of_par() -> None:
    assert shaping.length_penalty([0, 300, 301, 400], 300, 0.01) == pytest.approx([0, 0, -0.01, -1.0])
    assert shaping.length_penalty([10_000], 300, 0.01, most=2.0) == pytest.approx([-2.0])


def test_clip_standardise_min_max_threshold() -> None:
    r = [-3.0, 0.0, 5.0]
    assert shaping.clip(r, -1, 2).tolist() == [-1, 0, 2]
    assert shaping.clip_sigma(r, 1.0, 2.0, k=1.5).tolist() == [-2, 0, 4]
    assert shaping.standardise(r, 1.0, 2.0).tolist() == [-2, -0.5, 2]
    assert shaping.min_max(r, -1, 4) == pytest.approx([0, 0.2, 1])
    assert shaping.threshold(r, 0.0).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="standard deviation"):
        shaping.standardise(r, 0.0, 0.0)
    with pytest.raises(ValueError, match="bounds"):
        shaping.clip(r, 1, 1)


def test_log_sigmoid_centred_at_the_85th_percentile() -> None:
    """At the percentile itself: log σ(0) = −log 2. The normal distribution has 0.85 below it."""
    q = 2.0 + 3.0 * shaping.NORMAL_85
    assert 0.5 * (1 + math.erf(shaping.NORMAL_85 / math.sqrt(2))) == pytest.approx(0.85, abs=1e-12)
    assert float(shaping.log_sigmoid_centred(q, 2.0, 3.0)) == pytest.approx(-math.log(2))
    assert float(shaping.log_sigmoid_centred(1e9, 2.0, 3.0)) == 0
    assert float(shaping.log_sigmoid_centred(-1e9, 2.0, 3.0)) == pytest.approx(-1e9)


def test_residualised_rewards_have_no_correlation_with_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 500, 200).astype(float)
    rewards = 0.02 * lengths + random.normal(size=200)
    slope, mean = shaping.residualise(rewards, lengths)
    left = rewards - slope * (lengths - mean)
    assert abs(np.corrcoef(left, lengths)[0, 1]) < 1e-12
    assert left.mean() == pytest.approx(rewards.mean())
    assert shaping.residualise([1.0, 2.0], [7, 7])[0] == 0


def test_pessimism_of_ensembles() -> None:
    scores = [[1.0, 2.0], [3.0, 2.0]]  # the members disagree about the first answer: mean 2, variance 1, std 1
    assert shaping.pessimistic(scores, "mean").tolist() == [2, 2]
    assert shaping.pessimistic(scores, "min").tolist() == [1, 2]
    assert shaping.pessimistic(scores, "uwo", 0.5).tolist() == [1.5, 2]
    assert shaping.pessimistic([[1.0], [5.0]], "std", 0.5).tolist() == [2]  # mean 3, std 2
    assert shaping.pessimistic([[1.0], [5.0]], "uwo", 0.5).tolist() == [1]  # variance 4


@given(st.floats(-700, 700))
def test_sigmoid_without_overflow(x: float) -> None:
    assert float(shaping.sigmoid(x) + shaping.sigmoid(-x)) == pytest.approx(1, abs=1e-15)
    assert float(shaping.log_sigmoid(x)) <= 0
