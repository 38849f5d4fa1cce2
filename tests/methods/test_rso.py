"""RSO: what is accepted is distributed as π e^{r/β}/Z, and what becomes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from plaudit.methods.rso import RSO, RSOConfig, accept, acceptance
from plaudit.runs.metrics import is_known
from tests.methods.choices import rewards_of, rng, sampled


def test_acceptance() -> None:
    """exp((r − r_max)/β): 1 for the best, e^-1 one β below it."""
    found = acceptance(np.array([2.0, 1.5, 1.0]), 0.5)
    assert found.tolist() == pytest.approx([1.0, 0.36787944117144233, 0.1353352832366127], abs=1e-15)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_what_is_accepted_is_distributed_as_the_optimal_policy(beta) -> None:
    """On four answers; 64 candidates of π, 8 accepted, as in the paper. χ² with 3 degrees of freedom at p = 0.001."""
    policy, rewards = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.6, -0.4, 1.0])
    optimal = policy * np.exp(rewards / beta)
    optimal /= optimal.sum()
    draws, counts = np.random.default_rng(3), np.zeros(4)
    for _ in range(2000):
        answers = draws.choice(4, size=64, p=policy)
        for place in accept(rewards[answers], beta, 8, draws):
            counts[answers[place]] += 1
    assert counts.sum() == 2000 * 8
    chi2 = ((counts - counts.sum() * optimal) ** 2 / (counts.sum() * optimal)).sum()
    assert chi2 < 16.27, counts / counts.sum()
    # The test sees a wrong β, and the policy itself.
    for wrong in (policy, policy * np.exp(rewards / (1.5 * beta))):
        expected = counts.sum() * wrong / wrong.sum()
        assert ((counts - expected) ** 2 / expected).sum() > 2 * 16.27


def test_limits_of_the_temperature() -> None:
    values = np.array([0.3, 0.9, 0.1, 0.8])
    assert accept(values, 1e-9, 2, rng()) == [1, 3]  # nothing but the best, then the best of the rest
    assert accept(values, 1e9, 3, rng()) == [0, 1, 2]  # everything, as it comes
    assert sorted(accept(values, 0.5, 9, rng())) == [0, 1, 2, 3]  # no more than there are
    assert accept(values[:0], 0.5, 2, rng()) == []


def test_pairs_are_those_of_acceptance_ordered_by_reward() -> None:
    method = RSO(RSOConfig(accept_beta=1e9, accepted=4))
    groups = [sampled([0.1, 0.7, 0.9, 0.2, 5.0]), sampled([1.0, 1.0, 0.5, 0.5])]
    found = method.choose(groups, rng())
    assert rewards_of(found) == [[0.7, 0.1, 0.9, 0.2]]
    metrics = method.choice_metrics(groups, found)
    assert metrics["pairs/none"] == (1.0, 2.0)
    assert metrics["pairs/gap"] == pytest.approx((0.6 + 0.7, 2.0))
    assert metrics["rso/acceptance"] == pytest.approx((9.0, 9.0))
    assert all(is_known(name) for name in metrics)


def test_the_same_generator_chooses_the_same_again() -> None:
    """It is asked again after a resume."""
    method = RSO(RSOConfig(accepted=2))
    groups = [sampled(list(np.random.default_rng(i).normal(size=8))) for i in range(6)]
    first, again = (rewards_of(method.choose(groups, np.random.default_rng(5))) for _ in range(2))
    assert first == again
    assert first != rewards_of(method.choose(groups, np.random.default_rng(6)))


def test_an_odd_number_leaves_one_over() -> None:
    method = RSO(RSOConfig(accept_beta=1e9, accepted=4))
    assert rewards_of(method.choose([sampled([1.0, 2.0, 3.0])], rng())) == [[2.0, 1.0]]
    assert method.choose([sampled([1.0])], rng()) == []


def test_the_papers_slope() -> None:
    """γ = 0.05 and β = 0.5."""
    method = RSO()
    assert (method.config.beta, method.config.accept_beta) == (0.05, 0.5)
    found = [len(method.pick(np.arange(n) / n, rng())) for n in (3, 16, 31, 32, 64)]
    assert found == [1, 1, 1, 2, 4]  # 8 of 64, as there; half as many pairs
    assert method.teaches(sampled([0.0, 1.0]))
    assert not method.teaches(sampled([1.0, 1.0]))


@pytest.mark.parametrize("wrong", [{"accepted": 3}, {"accepted": 0}, {"accept_beta": 0.0}, {"accept_beta": math.nan}])
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        RSOConfig(**wrong)
