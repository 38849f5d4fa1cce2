"""Best-of-n: published values, and every choice counted one by one."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from plaudit.evaluation.best_of_n import (
    best_of_n_curve,
    best_of_n_kl,
    best_of_n_weights,
    discrete_best_of_n_kl,
    expected_best_of_n,
    tied_best_of_n_kl,
)


@pytest.mark.parametrize(
    ("n", "kl"),
    [
        (1, 0.0),
        (2, 0.1931471805599453),
        (4, 0.6362943611198906),
        (16, 1.8350887222397811),
        (64, 3.1745080833596715),
        (256, 4.549083694479562),
    ],
)
def test_the_cost_in_kl(n: int, kl: float) -> None:
    assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-15)


def test_the_cost_is_an_upper_bound_where_there_are_ties() -> None:
    # π = (.1, .2, .3, .4) in the order of the reward: the exact KL of best of 4.
    pi = np.array([0.1, 0.2, 0.3, 0.4])
    best = np.diff(np.cumsum(pi) ** 4, prepend=0.0)
    exact = float(best @ np.log(best / pi))
    assert exact == pytest.approx(0.5404640717, abs=1e-10)
    assert exact < best_of_n_kl(4)


@pytest.mark.parametrize(("n", "expected"), [(1, 2.5), (2, 10 / 3), (4, 4.0)])
def test_the_expected_best_of_one_to_four(n: int, expected: float) -> None:
    scores = [3.0, 1.0, 4.0, 2.0]
    assert expected_best_of_n(scores, scores, n) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_every_choice_counted(n: int) -> None:
    rewards = np.array([0.5, 2.0, 0.5, -1.0, 2.0, 2.0])  # with ties, which are broken at random
    gold = np.array([3.0, 1.0, 8.0, 0.0, -2.0, 5.0])
    choices = []
    for chosen in combinations(range(6), n):
        top = max(rewards[list(chosen)])
        choices.append(np.mean([gold[i] for i in chosen if rewards[i] == top]))
    assert expected_best_of_n(rewards, gold, n) == pytest.approx(float(np.mean(choices)), abs=1e-13)
    assert best_of_n_weights(rewards, n).sum() == pytest.approx(1.0)


def test_the_estimate_is_unbiased_for_fresh_samples() -> None:
    generator = np.random.default_rng(11)
    gold = generator.normal(size=(4000, 8))
    rewards = gold + generator.normal(size=gold.shape)
    estimates = [expected_best_of_n(r, g, 4) for r, g in zip(rewards, gold, strict=True)]
    fresh_gold = generator.normal(size=(200_000, 4))
    picks = (fresh_gold + generator.normal(size=fresh_gold.shape)).argmax(axis=1)
    truth = fresh_gold[np.arange(len(picks)), picks].mean()
    assert np.mean(estimates) == pytest.approx(truth, abs=0.03)


def test_the_curve_between_random_and_best() -> None:
    generator = np.random.default_rng(2)
    prompts = [(generator.normal(size=10), generator.normal(size=10)) for _ in range(50)]
    right = best_of_n_curve([(gold, gold) for _, gold in prompts])
    wrong = best_of_n_curve([(-gold, gold) for _, gold in prompts])
    empty = best_of_n_curve([(np.zeros(10), gold) for _, gold in prompts])
    assert [p.n for p in right] == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    for best, worst, none in zip(right[1:], wrong[1:], empty[1:], strict=True):
        assert best.share == pytest.approx(1.0)
        assert best.reward_model.value == pytest.approx(best.gold)
        assert worst.gain.value < 0
        assert none.share == pytest.approx(0.0, abs=1e-12)
        assert none.reward_model.value == pytest.approx(none.random)
    assert right[0].share is None
    assert right[0].reward_model.value == pytest.approx(right[0].random)


def test_prompts_with_fewer_answers_drop_out() -> None:
    curve = best_of_n_curve([([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])])
    assert [(p.n, p.prompts, p.gold) for p in curve] == [(1, 2, 3.75), (2, 2, pytest.approx(13 / 3)), (3, 1, 7.0)]
    assert curve[2].random == 6.0


def test_long_curves_have_few_points() -> None:
    curve = best_of_n_curve([(np.arange(100.0), np.arange(100.0))])
    assert [p.n for p in curve] == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 100]
    assert best_of_n_curve([]) == []


@pytest.mark.parametrize(
    ("rewards", "gold", "n"), [([1.0], [1.0], 0), ([1.0], [1.0], 2), ([1.0, math.nan], [1.0, 2], 1)]
)
def test_bad_input_is_refused(rewards: list[float], gold: list[float], n: int) -> None:
    with pytest.raises(ValueError, match=r"must lie|not finite"):
        expected_best_of_n(rewards, gold, n)
    with pytest.raises(ValueError, match="pair up"):
        expected_best_of_n([1.0, 2.0], [1.0], 1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_best_of_n_beats_a_fresh_sample_n_times_in_n_plus_one(n: int) -> None:
    """P = n / (n + 1) without ties: the weights of K sorted samples, against the share of samples that each beats."""
    count = 4000
    ranks = np.arange(count, dtype=float)
    beaten = (ranks + 0.5) / count
    assert float(best_of_n_weights(ranks, n) @ beaten) == pytest.approx(n / (n + 1), abs=1e-3)


def kl_by_enumeration(probabilities: list[float], n: int) -> float:
    """Over all n-tuples of values: the distribution of the largest, and its divergence."""
    chosen = [0.0] * len(probabilities)
    for values in product(range(len(probabilities)), repeat=n):
        chosen[max(values)] += math.prod(probabilities[v] for v in values)
    return sum(q * math.log(q / p) for q, p in zip(chosen, probabilities, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_exact_kl_of_a_discrete_reward(n: int) -> None:
    probabilities = [0.1, 0.2, 0.3, 0.4]
    found = discrete_best_of_n_kl(probabilities, n)
    assert found == pytest.approx(kl_by_enumeration(probabilities, n), abs=1e-12)
    assert found <= best_of_n_kl(n)
    if n == 4:
        assert found == pytest.approx(0.5404640716863841, rel=1e-14)
    twice = [v for v, count in enumerate((2, 4, 6, 8)) for _ in range(count)]
    assert tied_best_of_n_kl(twice, n) == pytest.approx(found, abs=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_without_ties_the_kl_is_the_bound_whatever_is_sampled(n: int) -> None:
    for count in (1, 2, 64, 101):
        assert tied_best_of_n_kl(np.arange(count), n) == pytest.approx(best_of_n_kl(n), abs=1e-12)
    assert tied_best_of_n_kl([3.0, 3.0, 3.0], n) == 0


def test_a_reward_with_one_atom_between_two_continuous_stretches() -> None:
    """Mass ½ on one value; the integral of the density ratio is done numerically."""
    rewards, n = [1.0, 2.0, 2.0, 3.0], 3
    middle = lambda low, high: (np.arange(200_000) + 0.5) / 200_000 * (high - low) + low  # noqa: E731
    stretches = 0.0
    for low, high in ((0, 0.25), (0.75, 1)):
        u = middle(low, high)
        stretches += float(np.mean(n * u ** (n - 1) * np.log(n * u ** (n - 1)))) * (high - low)
    mass = 0.75**n - 0.25**n
    assert tied_best_of_n_kl(rewards, n) == pytest.approx(stretches + mass * math.log(mass / 0.5), abs=1e-8)


def test_bad_probabilities_are_refused() -> None:
    for wrong in ([0.5, 0.6], [-0.1, 1.1]):
        with pytest.raises(ValueError, match="add up to 1"):
            discrete_best_of_n_kl(wrong, 2)
    for call in (lambda: discrete_best_of_n_kl([1.0], 0), lambda: tied_best_of_n_kl([1.0], 0)):
        with pytest.raises(ValueError, match="at least 1"):
            call()
