"""AOT: sorted margins of the whole step, paired and unpaired."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from plaudit.methods import find
from plaudit.methods.aot import AOT, AOTConfig, aot_loss
from plaudit.methods.base import Scores, Sums
from plaudit.types import PromptGroup
from tests.methods.pair_oracles import DPO_VALUES, EXTREMES, noise, ratios
from tests.methods.views import group, view

CASES = {"unpaired": {"unpaired": True, "beta": 0.2}, "seams": {"weighting": "wpo", "ld_alpha": 0.4, "nll_weight": 0.3}}


def zeta(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def run(groups: list[PromptGroup], logprobs: Tensor, reference: Tensor, **options: Any) -> Sums:
    return AOT(AOTConfig(**options)).loss("policy", Scores(logprobs_N=logprobs), view(groups, {"reference": reference}))


GROUPS = [group([3, 5]), group([2, 4]), group([1, 1]), group([6, 2]), group([4, 4])]


def parts(values: Tensor) -> list[tuple[float, float]]:
    """(sum over the chosen answer, over the rejected one) of every pair."""
    return ratios(GROUPS, values, torch.zeros_like(values))


# -- the loss as a function -------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """u = (3, −1, 2), v = (0.5, 1, −2): quantiles (−1, 2, 3) against (−2, 0.5, 1); entries keep their places."""
    losses = aot_loss(torch.tensor([3.0, -1.0, 2.0]).double(), torch.tensor([0.5, 1.0, -2.0]).double(), 0.5)
    assert losses.tolist() == pytest.approx([zeta(-1.0), zeta(-0.5), zeta(-0.75)], abs=1e-15)


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter_and_sorting_is_optimal(pairs: list[tuple[float, float]], random: Any) -> None:
    """Either list may be permuted; and of all ways to couple the two, sorting costs least (the cost is convex)."""
    u, v = (torch.tensor([p[k] for p in pairs], dtype=torch.float64) for k in (0, 1))
    total = aot_loss(u, v, 0.7).sum().item()
    turn = torch.tensor(random.sample(range(len(pairs)), len(pairs)))
    assert aot_loss(u[turn], v, 0.7).sum().item() == pytest.approx(total, abs=1e-12)
    assert aot_loss(u, v[turn], 0.7).sum().item() == pytest.approx(total, abs=1e-12)
    couplings = [
        sum(zeta(-0.7 * (a - v[k].item())) for a, k in zip(u.tolist(), order, strict=True))
        for order in itertools.permutations(range(len(pairs)))
    ]
    assert total == pytest.approx(min(couplings), abs=1e-7)


def test_gradients_agree_with_differences() -> None:
    u = torch.tensor([3.0, -1.0, 2.0, 0.3], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.5, 1.0, -2.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: aot_loss(a, b, 0.4), (u, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extremes_stay_finite(dtype: torch.dtype) -> None:
    u, v = (torch.tensor([e[k] for e in EXTREMES], dtype=dtype, requires_grad=True) for k in (0, 1))
    losses = aot_loss(u, v, 1.0)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.dtype == dtype
    assert all(torch.isfinite(t).all() for t in (losses, u.grad, v.grad))  # type: ignore[arg-type]


# -- the method -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unpaired", [False, True])
def test_the_whole_step(unpaired: bool) -> None:
    logprobs, reference = noise(GROUPS, seed=8)  # both orders of the margins differ
    policy, start = parts(logprobs), parts(reference)
    if unpaired:
        upper = sorted(w - r for (w, _), (r, _) in zip(policy, start, strict=True))
        lower = sorted(x - r for (_, x), (_, r) in zip(policy, start, strict=True))
    else:
        upper, lower = sorted(w - x for w, x in policy), sorted(w - x for w, x in start)
    expected = sum(zeta(-0.3 * (a - b)) for a, b in zip(upper, lower, strict=True))
    got = run(GROUPS, logprobs, reference, beta=0.3, unpaired=unpaired)
    assert got.terms["loss"].item() == pytest.approx(expected, rel=1e-12)
    total, count = got.metrics["rewards/margins"]
    margins = [0.3 * (w - x - r + s) for (w, x), (r, s) in zip(policy, start, strict=True)]
    assert (total.item(), count.item()) == (pytest.approx(sum(margins), rel=1e-5), 5.0)
    dpo = sum(zeta(-m) for m in margins)
    assert abs(dpo - expected) > 0.01, "pair by pair it would be DPO"


@pytest.mark.parametrize("unpaired", [False, True])
def test_permuting_the_pairs(unpaired: bool) -> None:
    """The same sum, and every token keeps its slope."""
    logprobs, reference = noise(GROUPS, seed=8)  # both orders of the margins differ
    order = [3, 0, 4, 2, 1]
    lengths = [sum(len(c.token_ids) for c in g.completions) for g in GROUPS]
    places = torch.arange(sum(lengths)).split(lengths)
    turn = torch.cat([places[i] for i in order])
    slopes = []
    for groups, take in ((GROUPS, slice(None)), ([GROUPS[i] for i in order], turn)):
        leaf = logprobs[take].clone().requires_grad_()
        got = run(list(groups), leaf, reference[take], beta=0.3, unpaired=unpaired)
        got.terms["loss"].backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        slopes.append((got.terms["loss"].item(), leaf.grad))
    assert slopes[0][0] == pytest.approx(slopes[1][0], rel=1e-13)
    torch.testing.assert_close(slopes[0][1][turn], slopes[1][1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("unpaired", [False, True])
def test_one_pair_is_dpo(unpaired: bool) -> None:
    for z, value in DPO_VALUES.items():
        g = group([2, 2])
        logprobs = torch.tensor([0.3, 0.7, -1.0, -2.0], dtype=torch.float64)
        reference = logprobs - torch.tensor([5 * z, 5 * z, 0.0, 0.0], dtype=torch.float64)
        got = run([g], logprobs, reference, beta=0.1, unpaired=unpaired)
        assert got.terms["loss"].item() == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("unpaired", [False, True])
def test_at_the_reference(unpaired: bool) -> None:
    """log 2 for each pair and −β/2 for each chosen token (unpaired: where quantiles of both classes are equal)."""
    logprobs, _ = noise(GROUPS)
    leaf = logprobs.clone().requires_grad_()
    got = run(GROUPS, leaf, logprobs, beta=0.1, unpaired=unpaired)
    assert got.terms["loss"].item() == pytest.approx(5 * math.log(2), abs=1e-13)
    got.terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad[:3].tolist() == pytest.approx([-0.05] * 3, abs=1e-13)
    assert leaf.grad[3:8].tolist() == pytest.approx([0.05] * 5, abs=1e-13)
    assert got.metrics["rewards/chosen"][0].item() == 0.0
    total, count = got.metrics["rewards/accuracies"]
    assert (total / count).item() == 0.5


def test_weights_go_to_the_pair_of_the_policys_margin() -> None:
    """The pair with the second largest margin weighs 10: its quantile does."""
    logprobs, reference = noise(GROUPS, seed=8)  # both orders of the margins differ
    margins = [w - x for w, x in parts(logprobs)]
    lower = sorted(w - x for w, x in parts(reference))
    heavy = sorted(range(5), key=lambda i: margins[i])[3]
    groups = [group([len(c.token_ids) for c in g.completions], weights=[10.0 if i == heavy else 1.0] * 2)
              for i, g in enumerate(GROUPS)]  # fmt: skip
    factors = [1.0, 1.0, 1.0, 10.0, 1.0]
    expected = sum(f * zeta(-0.3 * (a - b)) for f, a, b in zip(factors, sorted(margins), lower, strict=True))
    assert run(groups, logprobs, reference, beta=0.3).terms["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_nothing_trained() -> None:
    g = group([3, 5])
    for c in g.completions:
        c.action_mask[:] = False
    loss = run([g], torch.zeros(0, requires_grad=True), torch.zeros(0)).terms["loss"]
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_declaration_and_options() -> None:
    assert find("aot") is AOT
    assert (AOT.unit, AOT.scope, AOT.roles) == ("pair", "step", {"policy", "reference"})
    assert (AOT.variant_of, AOTConfig().beta) == ("dpo", 0.01)
    for wrong in ({"beta": 0.0}, {"unpaired": "maybe"}, {"label_smoothing": 0.1}):
        with pytest.raises(ValidationError):
            AOTConfig.model_validate(wrong)
