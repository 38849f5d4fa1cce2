"""AlphaPO: the reward's shape, its limit SimPO, and the cap of its exponent."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.methods import find
from plaudit.methods.alphapo import AlphaPO, AlphaPOConfig, alpha_reward
from tests.methods.free_oracles import POINTS, FreeOracle, FreeOracles
from tests.methods.pair_oracles import at, configured

CASES = {"negative": {"alpha": -0.5, "gamma": 1.0}, "simpo": {"alpha": 0.0}}


class TestAlphaPO(FreeOracles):
    oracle = FreeOracle(
        method=AlphaPO,
        values=[
            ({}, (2.9075341466493084e-05, 19.66512659115809, 1.2672684081459118)),
            (
                {"alpha": -0.5, "beta": 2.0, "gamma": 1.0},
                (0.7286681537802436, 2.4311525671597773, 1.6322945711100305),
            ),
        ],
        cases={"steep": {"alpha": 2.0}, "log": {"alpha": 0.0}},
        wrong=[
            {"beta": 0.0},
            {"gamma": -1.0},
            {"gamma": 1.0, "gamma_beta_ratio": 0.5},
            {"alpha": "steep"},
            {"alpha": float("nan")},
        ],
    )


def test_settings_of_the_paper() -> None:
    """Its 7B instruction-tuned model."""
    config = AlphaPOConfig()
    assert (config.beta, config.alpha, AlphaPO().gamma) == (2.5, 0.25, 0.25)
    assert AlphaPO.variant_of == "simpo"


def test_limit_is_simpo() -> None:
    """α = 0 is SimPO, and α → 0 goes there with an error of order α."""
    simpo = configured(find("simpo"), {"beta": 2.5, "gamma": 0.7})  # type: ignore[arg-type]
    for w, l in POINTS:  # noqa: E741
        same = at(configured(AlphaPO, {"beta": 2.5, "gamma": 0.7, "alpha": 0.0}), w, l, lengths=(3.0, 5.0))
        assert same == at(simpo, w, l, lengths=(3.0, 5.0))
        for alpha in (1e-9, -1e-9):
            near = at(configured(AlphaPO, {"beta": 2.5, "gamma": 0.7, "alpha": alpha}), w, l, lengths=(3.0, 5.0))
            assert near == pytest.approx(same, abs=1e-6)


@given(st.floats(-30, -1e-3), st.floats(-2, 1))
def test_slope_of_the_reward(mean: float, alpha: float) -> None:
    """dr/dS̄ = β P^(−α): steeper for unlikely answers with α > 0, flatter with α < 0. r(0) = 0."""
    leaf = torch.tensor([mean, 0.0], dtype=torch.float64, requires_grad=True)
    reward = alpha_reward(leaf, 2.5, alpha)
    reward.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    if -alpha * mean < 30:
        assert leaf.grad[0].item() == pytest.approx(2.5 * math.exp(-alpha * mean), rel=1e-9)
    assert reward[1].item() == 0.0


@pytest.mark.parametrize("alpha", [0.25, 2.0, 5.0])
def test_the_reward_has_a_slope_beyond_the_cap(alpha: float) -> None:
    """It goes on along the tangent at an exponent of 30: continuous, and never flat."""
    edge = -30 / alpha
    points = torch.tensor([edge * 0.999999, edge * 1.000001, 3 * edge], dtype=torch.float64, requires_grad=True)
    rewards = alpha_reward(points, 2.5, alpha)
    rewards.sum().backward()  # type: ignore[no-untyped-call]
    assert rewards[0].item() == pytest.approx(rewards[1].item(), rel=1e-4)
    assert points.grad is not None
    steepest = 2.5 * math.exp(30)
    assert points.grad.tolist() == pytest.approx([steepest] * 3, rel=1e-4)
    assert rewards[2].item() == pytest.approx(-2.5 / alpha * (math.exp(30) * 61 - 1), rel=1e-9)
