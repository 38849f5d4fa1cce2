"""Oracles: published values, hand-derived numbers and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from plaudit.evaluation import (
    mean_estimate,
    perplexity,
    preference_accuracy,
    proportion_estimate,
    sequence_kl,
    win_rate,
)


def test_wilson_matches_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263 and 0/20.
    some, none = proportion_estimate(81, 263), proportion_estimate(0, 20)
    assert (round(some.low, 4), round(some.high, 4)) == (0.2553, 0.3662)
    assert (round(none.low, 4), round(none.high, 4)) == (0.0, 0.1611)


def test_wilson_is_symmetric_and_bounded() -> None:
    low, high = proportion_estimate(3, 17), proportion_estimate(14, 17)
    assert low.low == pytest.approx(1 - high.high)
    assert low.high == pytest.approx(1 - high.low)
    full = proportion_estimate(5, 5)
    assert full.value == full.high == 1.0
    assert 0 < full.low < 1


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).binomial(60, 0.7, size=4000)
    covered = np.mean([e.low <= 0.7 <= e.high for e in (proportion_estimate(int(k), 60) for k in draws)])
    assert 0.93 <= covered <= 0.97


def test_mean_interval_by_hand() -> None:
    estimate = mean_estimate([1.0, 2.0, 3.0, 4.0])
    half = 1.959963984540054 * math.sqrt(5 / 3) / 2
    assert estimate.value == 2.5
    assert estimate.high - estimate.value == pytest.approx(half)
    assert mean_estimate([2.0]).high == math.inf


def test_win_rate_counts_ties_as_half() -> None:
    result = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0])
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.rate.value == pytest.approx(2.5 / 4)
    assert result.rate.low < result.rate.value < result.rate.high


def test_win_rate_of_a_model_against_itself_is_one_half() -> None:
    rewards = np.random.default_rng(0).normal(size=50)
    assert win_rate(rewards, rewards).rate.value == 0.5


def test_win_rate_swapped_is_the_complement() -> None:
    generator = np.random.default_rng(1)
    new, old = generator.integers(0, 4, size=(2, 40)).astype(float)
    forward, backward = win_rate(new, old), win_rate(old, new)
    assert forward.rate.value == pytest.approx(1 - backward.rate.value)
    assert forward.rate.low == pytest.approx(1 - backward.rate.high)


def test_preference_accuracy_without_opinion_is_one_half() -> None:
    assert preference_accuracy(np.zeros(10)).value == 0.5
    assert preference_accuracy([0.1, -2.0, 3.0, 0.0]).value == pytest.approx(2.5 / 4)


def test_sequence_kl_matches_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    draws = generator.choice(3, size=(20_000, 4), p=policy)
    estimate = sequence_kl(np.log(policy)[draws].sum(axis=1), np.log(reference)[draws].sum(axis=1))
    exact = 4 * float((policy * np.log(policy / reference)).sum())
    assert estimate.low <= exact <= estimate.high
    assert estimate.high - estimate.low < 0.06


def test_sequence_kl_of_equal_models_is_exactly_zero() -> None:
    estimate = sequence_kl([-3.0, -7.5], [-3.0, -7.5])
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_perplexity_weighs_tokens_not_texts() -> None:
    # 3 tokens of probability 1/2 and 1 of 1/16: (8 * 16) ** (1/4)
    assert perplexity([-3 * math.log(2), -math.log(16)], [3, 1]) == pytest.approx(128**0.25)
    assert perplexity([-10 * math.log(7)], [10]) == pytest.approx(7.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: win_rate([], []),
        lambda: win_rate([1.0], [1.0, 2.0]),
        lambda: win_rate([math.nan], [1.0]),
        lambda: preference_accuracy([math.inf]),
        lambda: sequence_kl([1.0], [1.0, 2.0]),
        lambda: perplexity([-1.0], [0]),
        lambda: perplexity([-1.0, -1.0], [1]),
        lambda: proportion_estimate(3, 2),
        lambda: mean_estimate([1.0, 2.0], confidence=1.0),
    ],
)
def test_bad_input_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"\w"):
        call()
