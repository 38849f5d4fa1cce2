"""DPO: values known to the last digit, gradient and swap identities, the conservative variant, TRL's formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.methods import find
from plaudit.methods.base import Batch, Scored, Scores, Sums
from plaudit.methods.dpo import DPO, DPOConfig, dpo_loss
from plaudit.types import PromptGroup
from tests.methods.views import group, view

CASES = {
    "smoothed": {"label_smoothing": 0.1},
    "nll": {"nll_weight": 0.5},
    "nll tokens": {"nll_weight": 0.5, "nll_aggregation": "token-mean"},
    "nll sum": {"nll_weight": 0.01, "nll_aggregation": "sequence-sum"},
    "ld": {"ld_alpha": 0.4},
    "wpo": {"weighting": "wpo"},
}
"""Options that join the matrix of invariances besides the defaults."""


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# -- the loss as a function -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_at_the_reference(smoothing: float) -> None:
    """θ = θ_ref: ln 2 whatever β and ε are."""
    for beta in (0.01, 0.1, 5.0):
        loss = dpo_loss(_t(0.0), _t(0.0), beta, smoothing)
        assert loss.item() == pytest.approx(0.6931471805599453, abs=1e-16)


@pytest.mark.parametrize(("smoothing", "slope"), [(0.0, -0.05), (0.1, -0.04)])
def test_slope_at_the_reference(smoothing: float, slope: float) -> None:
    """∂L/∂ρ_w = −β/2 for DPO and −β(1−2ε)/2 for cDPO."""
    chosen, rejected = _t(0.0), _t(0.0)
    dpo_loss(chosen, rejected, 0.1, smoothing).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(slope, abs=1e-15)
    assert rejected.grad.item() == pytest.approx(-slope, abs=1e-15)


@pytest.mark.parametrize(
    ("z", "value"), [(0.2, 0.5981388693815918), (1.0, 0.3132616875182229), (0.5, 0.4740769841801067)]
)
def test_values(z: float, value: float) -> None:
    assert dpo_loss(_t(10 * z), _t(0.0), 0.1).item() == pytest.approx(value, abs=1e-15)
    assert dpo_loss(_t(3.0 + 10 * z), _t(3.0), 0.1).item() == pytest.approx(value, abs=1e-14)


def test_gradient_value() -> None:
    """β = 0.1, ρ = (0.3, −0.2): ∓0.0487502604."""
    chosen, rejected = _t(0.3), _t(-0.2)
    dpo_loss(chosen, rejected, 0.1).sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.0487502604, abs=5e-11)
    assert rejected.grad.item() == pytest.approx(0.0487502604, abs=5e-11)


def test_conservative_minimum() -> None:
    """ε = 0.1: the minimum is at z = log 9 = 2.1972245773362196 with 0.3250829733914482."""
    z = torch.linspace(1.0, 4.0, 300_001, dtype=torch.float64)
    losses = dpo_loss(z, torch.zeros_like(z), 1.0, 0.1)
    assert z[losses.argmin()].item() == pytest.approx(2.1972245773362196, abs=1e-5)
    best = _t(2.1972245773362196)
    loss = dpo_loss(best, _t(0.0), 1.0, 0.1)
    assert loss.item() == pytest.approx(0.3250829733914482, abs=1e-15)
    loss.sum().backward()
    assert best.grad is not None
    assert abs(best.grad.item()) < 1e-15


ratios = st.floats(-50, 50)


@given(ratios, ratios, st.floats(0.01, 2.0), st.floats(0.0, 0.49))
def test_identities(w: float, l: float, beta: float, smoothing: float) -> None:  # noqa: E741
    chosen, rejected = _t(w), _t(l)
    loss = dpo_loss(chosen, rejected, beta, smoothing)
    z = beta * (w - l)
    # Swapping the answers adds (1−2ε) z; for ε = 0 that is L(−z) − L(z) = z.
    swapped = dpo_loss(_t(l), _t(w), beta, smoothing)
    assert (swapped - loss).item() == pytest.approx((1 - 2 * smoothing) * z, abs=5e-9)
    # ∂L/∂ρ_w = −β(σ(−z) − ε), and the two slopes cancel. torch's softplus is linear beyond 20, so σ is 1 there.
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    sigmoid = 1 / (1 + math.exp(min(z, 700)))
    assert chosen.grad.item() == pytest.approx(-beta * (sigmoid - smoothing), abs=5e-9)
    assert chosen.grad.item() + rejected.grad.item() == pytest.approx(0, abs=1e-15)
    # TRL's formula, written out.
    delta = torch.tensor(beta * (w - l), dtype=torch.float64)
    trl = -logsigmoid(delta) * (1 - smoothing) - logsigmoid(-delta) * smoothing
    assert loss.item() == pytest.approx(trl.item(), abs=5e-9)


@given(ratios, ratios, st.floats(0.01, 2.0), st.floats(0.5, 1.0))
def test_soft_labels(w: float, l: float, beta: float, preference: float) -> None:  # noqa: E741
    """With a probability p the loss is the cross-entropy to it, and its slope vanishes at σ(z) = p."""
    chosen, rejected = _t(w), _t(l)
    z = beta * (w - l)
    loss = dpo_loss(chosen, rejected, beta, torch.tensor([1 - preference], dtype=torch.float64))
    loss.sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(beta * (1 / (1 + math.exp(-z)) - preference), abs=5e-9)


def test_gradients_agree_with_differences() -> None:
    chosen, rejected = _t(0.0, 0.3, -0.7, 4.0, -11.0), _t(0.0, -0.2, 1.9, 2.5, 6.0)
    for smoothing in (0.0, 0.2):
        assert torch.autograd.gradcheck(lambda a, b, e=smoothing: dpo_loss(a, b, 0.3, e), (chosen, rejected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("z", [-1e4, -200.0, 200.0, 1e4])
def test_extreme_margins_stay_finite(z: float, dtype: torch.dtype) -> None:
    chosen = torch.tensor([z], dtype=dtype, requires_grad=True)
    loss = dpo_loss(chosen, torch.zeros(1, dtype=dtype), 1.0, 0.1)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()  # type: ignore[arg-type]


def test_tabular_optimum_recovers_the_rewards() -> None:
    """Trained on exact Bradley–Terry labels of rewards r, the optimum has β(ρ_i − ρ_j) = r_i − r_j for every pair."""
    rewards, beta = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64), 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reference = torch.log(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-14, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        ratio = torch.log_softmax(logits, -1) - reference
        loss = torch.zeros((), dtype=torch.float64)
        for i, j in pairs:
            loss = loss + torch.sigmoid(rewards[i] - rewards[j]) * dpo_loss(ratio[i], ratio[j], beta)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(5):
        optimiser.step(closure)  # type: ignore[arg-type]
    ratio = (torch.log_softmax(logits, -1) - reference).detach()
    for i, j in pairs:
        assert beta * (ratio[i] - ratio[j]).item() == pytest.approx((rewards[i] - rewards[j]).item(), abs=1e-6)


# -- the method -------------------------------------------------------------------------------------------------------


def _run(groups: list[PromptGroup], logprobs: Tensor, reference: Tensor, **options: Any) -> Sums:
    return DPO(DPOConfig(**options)).loss("policy", Scores(logprobs_N=logprobs), view(groups, {"reference": reference}))


def _scores(groups: list[PromptGroup], seed: int = 0) -> tuple[Tensor, Tensor]:
    n = sum(int(c.action_mask.sum()) for g in groups for c in g.completions)
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(n, generator=generator), -torch.rand(n, generator=generator)


def test_loss_sums_over_tokens_and_pairs() -> None:
    groups = [group([3, 5]), group([2, 4]), group([1, 1])]
    logprobs, reference = _scores(groups)
    got = _run(groups, logprobs, reference, beta=0.3, label_smoothing=0.1)
    want, at, margins = 0.0, 0, []
    for g in groups:
        rho = []
        for c in g.completions:
            n = len(c.token_ids)
            rho.append(float((logprobs[at : at + n] - reference[at : at + n]).double().sum()))
            at += n
        margins.append(0.3 * (rho[0] - rho[1]))
        want += 0.9 * math.log1p(math.exp(-margins[-1])) + 0.1 * math.log1p(math.exp(margins[-1]))
    assert float(got.terms["loss"]) == pytest.approx(want, abs=1e-5)
    total, count = got.metrics["rewards/margins"]
    assert (float(total), float(count)) == (pytest.approx(sum(margins), abs=1e-5), 3.0)
    assert float(got.metrics["rewards/accuracies"][0]) == sum(m > 0 for m in margins)


def test_policy_equal_to_its_reference() -> None:
    groups = [group([3, 5]), group([2, 2])]
    logprobs, _ = _scores(groups)
    got = _run(groups, logprobs, logprobs.clone())
    assert float(got.terms["loss"]) == pytest.approx(2 * math.log(2), abs=1e-6)
    for name, expected in DPO.at_start.items():
        assert float(got.metrics[name][0]) == expected
    total, count = got.metrics["rewards/accuracies"]
    assert float(total / count) == 0.5


def test_token_gradients() -> None:
    """Every token of an answer has the same slope: −β σ(−z) in the chosen one, +β σ(−z) in the rejected one."""
    groups = [group([3, 5])]
    logprobs, reference = _scores(groups)
    logprobs.requires_grad_()
    got = _run(groups, logprobs, reference, beta=0.7)
    got.terms["loss"].backward()  # type: ignore[no-untyped-call]
    rho = (logprobs - reference).detach()
    slope = 0.7 * torch.sigmoid(-0.7 * (rho[:3].sum() - rho[3:].sum()))
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.cat([-slope.expand(3), slope.expand(5)]))
    assert not any(m.requires_grad for pair in got.metrics.values() for m in pair)


def test_swapping_every_pair() -> None:
    """L(swapped) − L = Σ z."""
    groups, swapped = [group([3, 5])], [group([5, 3])]
    logprobs, reference = _scores(groups)
    turn = torch.cat([torch.arange(3, 8), torch.arange(3)])
    a = _run(groups, logprobs, reference, beta=0.9)
    b = _run(swapped, logprobs[turn], reference[turn], beta=0.9)
    assert float(b.terms["loss"] - a.terms["loss"]) == pytest.approx(float(a.metrics["rewards/margins"][0]), abs=1e-6)


def test_nothing_trained_means_no_margin() -> None:
    """All masks zero: h = 0 and the loss is ln 2."""
    g = group([3, 5])
    for c in g.completions:
        c.action_mask[:] = False
    empty = torch.zeros(0, requires_grad=True)
    assert float(_run([g], empty, torch.zeros(0)).terms["loss"].detach()) == pytest.approx(math.log(2), abs=1e-7)


def test_long_answers_do_not_cancel() -> None:
    """Differences are taken before summing: 20,000 tokens of −8 nats against a reference 1e-4 away, in fp32."""
    n = 20_000
    reference = torch.full((2 * n,), -8.0)
    logprobs = reference.clone()
    logprobs[:n] += 1e-4
    step = float((logprobs[0] - reference[0]).double())  # 1e-4 as fp32 holds it next to 8
    total, _ = _run([group([n, n])], logprobs, reference, beta=1.0).metrics["rewards/margins"]
    assert float(total) == pytest.approx(n * step, rel=1e-4)


def test_example_weights_scale_their_pair_alone() -> None:
    groups = [group([3, 5]), group([2, 4])]
    logprobs, reference = _scores(groups)
    apart = [
        float(_run([g], logprobs[a:b], reference[a:b]).terms["loss"])
        for g, a, b in ((groups[0], 0, 8), (groups[1], 8, 14))
    ]
    for completion in groups[1].completions:
        completion.weight = 2.5
    assert float(_run(groups, logprobs, reference).terms["loss"]) == pytest.approx(apart[0] + 2.5 * apart[1], rel=1e-6)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(0, 8))
def test_denominator_is_additive(pairs: list[int], cut: int) -> None:
    """The number of pairs of any part of the step; groups without signal count, and several pairs count each."""
    groups = [group([2] * (2 * n)) for n in pairs]
    method = DPO()
    whole = method.weights(groups)["loss"]
    assert whole == sum(pairs)
    assert whole == method.weights(groups[:cut])["loss"] + method.weights(groups[cut:])["loss"]


def test_prepare_batch_asks_the_reference() -> None:
    batch = Batch([group([3, 5])])
    asked: list[str] = []

    def score(role: Any, groups: Any) -> list[list[Scored]]:
        asked.append(role)
        return [[Scored(logprobs=np.full(len(c.token_ids), -1.0, np.float32)) for c in g.completions] for g in groups]

    DPO().prepare_batch(batch, score, np.random.default_rng(0))
    assert asked == ["reference"]
    assert [len(a) for a in batch.per_token["reference"][0]] == [3, 5]


def test_a_rows_own_probability_replaces_the_smoothing() -> None:
    """Rows without one are smoothed by ε; the others carry their own label."""
    groups = [group([3, 5]), group([2, 4])]
    groups[1].preference = 0.8
    logprobs, reference = _scores(groups)
    batch = Batch(groups)

    def score(role: Any, asked: Any) -> list[list[Scored]]:
        return [[Scored(logprobs=np.zeros(len(c.token_ids), np.float32)) for c in g.completions] for g in asked]

    method = DPO(DPOConfig(label_smoothing=0.1))
    method.prepare_batch(batch, score, np.random.default_rng(0))
    column = torch.from_numpy(np.concatenate(batch.per_completion["preference"]))
    assert column.tolist() == pytest.approx([1, 1, 0.8, 0.8])
    stated = torch.from_numpy(np.concatenate(batch.per_completion["preference_stated"]))
    columns = {"reference": reference, "preference": column, "preference_stated": stated}
    got = method.loss("policy", Scores(logprobs_N=logprobs), view(groups, columns)).terms["loss"]
    first = _run([groups[0]], logprobs[:8], reference[:8], label_smoothing=0.1).terms["loss"]
    second = _run([groups[1]], logprobs[8:], reference[8:], label_smoothing=0.2).terms["loss"]
    assert float(got) == pytest.approx(float(first + second), rel=1e-6)


def test_declaration_and_options() -> None:
    assert find("dpo") is DPO
    assert (DPO.unit, DPO.scope, DPO.roles) == ("pair", "group", {"policy", "reference"})
    for wrong in ({"beta": 0.0}, {"beta": -1.0}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}, {"bta": 0.1}):
        with pytest.raises(ValidationError):
            DPOConfig.model_validate(wrong)


def test_a_unanimous_vote_is_a_stated_probability() -> None:
    """Label smoothing is for rows that say nothing: p = 1 is the limit of p → 1, and not the smoothed label."""
    groups = [group([1, 1]) for _ in range(3)]
    groups[0].preference, groups[1].preference = 1.0, 0.999999
    method = DPO(DPOConfig(beta=1.0, label_smoothing=0.1))
    logprobs = torch.tensor([0.5, 0.0] * 3)
    batch = Batch(groups)

    def score(role: Any, asked: Any) -> list[list[Scored]]:
        return [[Scored(logprobs=np.zeros(1, np.float32)) for _ in g.completions] for g in asked]

    method.prepare_batch(batch, score, np.random.default_rng(0))
    names = ("preference", "preference_stated")
    columns = {n: torch.tensor(np.concatenate(batch.per_completion[n])) for n in names}
    pairs = method.pairs_of(Scores(logprobs_N=logprobs), view(groups, {"reference": torch.zeros(6), **columns}))
    losses = method.pair_loss(pairs).tolist()
    z = 0.5
    plain, flipped = math.log1p(math.exp(-z)), math.log1p(math.exp(z))
    assert losses[0] == pytest.approx(plain, rel=1e-6)
    assert losses[1] == pytest.approx(plain, rel=1e-5)
    assert losses[2] == pytest.approx(0.9 * plain + 0.1 * flipped, rel=1e-6)
