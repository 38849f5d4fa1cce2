"""f-DPO: four divergences, their limits, the other tool's α, and exponents that overflow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plaudit.methods.fdpo import FDPO, Divergence, f_prime
from tests.methods.pair_oracles import Oracle, PairOracles, at, configured, same_as_dpo

CASES = {
    "reverse": {"divergence": "reverse_kl"},
    "forward": {"divergence": "forward_kl"},
    "alpha": {"divergence": "alpha", "alpha": 0.3},
}
LN2 = 0.6931471805599453


def _f(ratio: float, divergence: Divergence, alpha: float | None = None) -> float:
    return f_prime(torch.tensor(ratio, dtype=torch.float64), divergence, alpha).item()


class TestJensenShannon(PairOracles):
    oracle = Oracle(
        method=FDPO,
        options={"beta": 0.1, "divergence": "js"},
        at_reference=(LN2, -0.025, 0.025),
        rewards=(0.042986471322191412, -0.047795348538783242),
        values={(0.3, -0.2): 0.68103228554451221, (-4.0, 7.0): 0.91404765476009674, (12.0, -9.0): 0.34115048539800177},
        cases=CASES,
        wrong=[
            {"divergence": "alpha"},
            {"divergence": "alpha", "alpha": 0.0},
            {"divergence": "alpha", "alpha": 1.0},
            {"alpha": 0.5},
            {"divergence": "forward_kl", "alpha": 0.5},
            {"divergence": "js_divergence"},
        ],
    )


class TestForwardKL(PairOracles):
    oracle = Oracle(
        method=FDPO,
        options={"beta": 0.1, "divergence": "forward_kl"},
        at_reference=(LN2, -0.05, 0.05),
        rewards=(0.06988057880877979, -0.12255409284924676),
        values={(0.3, -0.2): 0.66940662777945539, (-4.0, 7.0): 5.4639695200185946, (12.0, -9.0): 0.0},
    )


class TestAlpha(PairOracles):
    oracle = Oracle(
        method=FDPO,
        options={"beta": 0.1, "divergence": "alpha", "alpha": 0.3},
        at_reference=(LN2, -0.05, 0.05),
        rewards=(0.10077455797632298, -0.090416383440468231),
        values={(0.3, -0.2): 0.66880008952398935, (-4.0, 7.0): 1.3618512167827468, (12.0, -9.0): 0.0070527960490678836},
    )


def test_reverse_kl_is_dpo() -> None:
    same_as_dpo(configured(FDPO, {"beta": 0.1, "divergence": "reverse_kl"}), per_unit=10)


@given(st.floats(-5, 5))
def test_alpha_lies_between_the_two_kls(ratio: float) -> None:
    """The paper's α: → 0 reverse KL, → 1 forward KL."""
    assert _f(ratio, "alpha", 1e-9) == pytest.approx(_f(ratio, "reverse_kl"), abs=1e-7)
    assert _f(ratio, "alpha", 1 - 1e-9) == pytest.approx(_f(ratio, "forward_kl"), rel=1e-7, abs=1e-7)
    low, middle, high = (_f(ratio, "alpha", a) for a in (0.2, 0.5, 0.8))
    assert low + 1e-15 >= middle >= high - 1e-15


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.05, 0.95))
def test_the_other_tools_alpha_counts_from_the_other_end(w: float, l: float, alpha: float) -> None:  # noqa: E741
    """TRL: (e^((α′−1)ρ) − 1)/(α′−1) with α′ = 1 − α."""
    theirs = 1 - alpha
    z = (math.exp((theirs - 1) * w) - math.exp((theirs - 1) * l)) / (theirs - 1)
    value = at(configured(FDPO, {"beta": 0.7, "divergence": "alpha", "alpha": alpha}), w, l)[0]
    assert value == pytest.approx(math.log1p(math.exp(-0.7 * z)), rel=1e-9)


@given(st.floats(-4, 4), st.floats(-4, 4), st.sampled_from(["reverse_kl", "forward_kl", "js", "alpha"]))
def test_swapping_the_answers(w: float, l: float, divergence: Divergence) -> None:  # noqa: E741
    """L(swapped) − L is the difference of the rewards β f′."""
    alpha = 0.4 if divergence == "alpha" else None
    method = configured(FDPO, {"beta": 0.7, "divergence": divergence} | ({"alpha": alpha} if alpha else {}))
    margin = 0.7 * (_f(w, divergence, alpha) - _f(l, divergence, alpha))
    assert at(method, l, w)[0] - at(method, w, l)[0] == pytest.approx(margin, abs=2e-8)


def test_js_reward_is_bounded_above() -> None:
    assert _f(1e4, "js") == pytest.approx(LN2, abs=1e-15)
    assert _f(-1e4, "js") == pytest.approx(LN2 - 1e4, abs=1e-9)


@pytest.mark.parametrize("divergence", ["forward_kl", "alpha"])
def test_beyond_the_largest_exponent(divergence: Divergence) -> None:
    """The tangent goes on: value and slope are continuous there, and a pair far out is still pulled back."""
    alpha = 0.5 if divergence == "alpha" else None
    edge = -25 / (alpha or 1.0)

    def value_and_slope(ratio: float) -> tuple[float, float]:
        leaf = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
        value: Tensor = f_prime(leaf, divergence, alpha)
        value.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return value.item(), leaf.grad.item()

    inside, outside = value_and_slope(edge + 1e-9), value_and_slope(edge - 1e-9)
    assert inside == pytest.approx(outside, rel=1e-7)
    assert inside == pytest.approx((-math.exp(25) / (alpha or 1.0), math.exp(25)), rel=1e-7)
    assert value_and_slope(-1e4)[1] == pytest.approx(math.exp(25), rel=1e-12)
