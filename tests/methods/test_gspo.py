"""GSPO: the ratio of the whole answer per token, and its form with token gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Scores, Sums
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.gspo import GSPO, GSPOConfig
from tests.methods.test_grpo import batch_of, columns_of, judged, prepare
from tests.methods.views import view

CASES = {
    "wide": {"clip_low": 0.2, "clip_high": None, "kl_weight": 0.04, "aggregation": "token-mean", "dual_clip": 1.5},
    "token level": {"token_level": True, "supervision": "process", "clip_low": 0.3, "clip_high": 0.3},
    "answers, process": {"supervision": "process", "clip_high": 0.3, "truncated": "mask", "off_policy_mask": 0.02,
                         "entropy_weight": 0.01, "std": "batch", "watch_kl": False},
}  # fmt: skip


def loss_of(method: GSPO | GRPO, gaps: torch.Tensor, *, lengths=(3, 2), rewards=(1.0, 0.0), **columns) -> Sums:
    """Of answers whose tokens' log-ratios are `gaps`."""
    batch = prepare(method, batch_of([rewards], lengths=lengths))
    found = columns_of(batch) | columns
    scores = Scores(logprobs_N=gaps - 1, entropy_N=torch.ones(len(gaps)))
    return method.loss("policy", scores, view(batch.groups, found))


def gaps_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("token_level", [False, True])
def test_the_ratio_of_an_answer(token_level: bool) -> None:
    """Log-ratios .1, −.2, .4: s = e^.1 and ∂s/∂ℓ = s/3, here times the advantage 1 and over the two answers."""
    method = GSPO(GSPOConfig(clip_low=0.5, clip_high=1.0, token_level=token_level, watch_kl=False))
    gaps = gaps_of(0.1, -0.2, 0.4, 0.0, 0.0)
    sums = loss_of(method, gaps, advantage=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).double())
    assert -float(sums.terms["policy"].detach()) == pytest.approx(1.1051709180756477, abs=1e-15)
    (gradient,) = torch.autograd.grad(sums.terms["policy"], gaps)
    assert (-gradient[:3]).tolist() == pytest.approx([0.3683903060252159] * 3, abs=1e-15)
    assert method.weights(batch_of([[1.0, 0.0]]).groups)["policy"] == 2


@pytest.mark.parametrize(
    ("gap", "gain", "value", "flows"),
    [
        (3e-4, 1, np.exp(3e-4), True),
        (5e-4, 1, 1.0004, False),
        (-5e-4, 1, np.exp(-5e-4), True),
        (-5e-4, -1, 0.9997, False),
        (5e-4, -1, np.exp(5e-4), True),
    ],
)
def test_whole_answers_are_clipped(gap: float, gain: float, value: float, flows: bool) -> None:
    """By their own bounds; tokens far outside of them pass where the answer's mean is inside."""
    gaps = gaps_of(gap + 0.3, gap - 0.3, gap, 0.0, 0.0)
    method = GSPO(GSPOConfig(watch_kl=False))
    sums = loss_of(method, gaps, advantage=torch.tensor([gain] * 3 + [0.0] * 2).double())
    assert -gain * float(sums.terms["policy"].detach()) == pytest.approx(value, abs=1e-12)
    (gradient,) = torch.autograd.grad(sums.terms["policy"], gaps)
    assert bool(gradient[:3].any()) == flows
    assert float(sums.metrics["policy/clipfrac"][0]) == (0.0 if flows else 3.0)


def test_both_forms_have_one_gradient_where_an_answer_has_one_advantage() -> None:
    gaps = [gaps_of(*np.random.default_rng(0).normal(0.1, 0.5, 10)) for _ in range(2)]
    found = []
    for own, token_level in zip(gaps, (False, True), strict=True):
        method = GSPO(GSPOConfig(token_level=token_level, clip_low=0.1, clip_high=0.1, watch_kl=False))
        sums = loss_of(method, own, lengths=(2, 3, 1, 4), rewards=(1.0, 0.3, 0.0, 0.2))
        assert 0 < float(sums.metrics["policy/clipfrac"][0]) < 10
        found.append((sums.terms["policy"].item(), torch.autograd.grad(sums.terms["policy"], own)[0]))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-12)


def test_they_differ_where_tokens_have_their_own() -> None:
    """Process supervision: A = 1 for the first token, −1 for the second. For the answer as a whole they cancel."""
    found = {}
    for token_level in (False, True):
        config = GSPOConfig(token_level=token_level, supervision="process", std="none", clip_low=0.9, clip_high=9.0)
        method = GSPO(config)
        batch = prepare(method, judged([[((0, 2.0), (1, -1.0)), ((0, -1.0),)]], lengths=(2, 1)))
        assert [a.tolist() for a in batch.per_token["advantage"][0]] == [[1.0, -1.0], [-1.0]]
        logprobs = torch.tensor([-0.8, -0.8, -1.0], requires_grad=True)
        scores = Scores(logprobs_N=logprobs, entropy_N=torch.ones(3))
        sums = method.loss("policy", scores, view(batch.groups, columns_of(batch)))
        (found[token_level],) = torch.autograd.grad(sums.terms["policy"], logprobs)
    s = float(np.exp(0.2))
    assert found[True].tolist() == pytest.approx([-s / 2, s / 2, 1.0], abs=1e-6)
    assert found[False].tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)


def test_the_first_step_on_a_batch_is_grpos() -> None:
    gradients = []
    for method in (GSPO(), GRPO(GRPOConfig(aggregation="seq-mean-token-mean"))):
        gaps = gaps_of(*[0.0] * 10)
        sums = loss_of(method, gaps, lengths=(2, 3, 1, 4), rewards=(1.0, 0.3, 0.0, 0.2))
        gradients.append(torch.autograd.grad(sums.terms["policy"], gaps)[0])
    assert torch.allclose(*gradients, atol=1e-12)


def test_a_clip_for_tokens_is_allowed_and_told() -> None:
    assert GSPO().notes() == []
    (note,) = GSPO(GSPOConfig(clip_low=0.2, clip_high=None)).notes()
    assert "next to nothing is clipped" in note
    gaps = gaps_of(0.1, 0.05, 0.1, 0.0, 0.0)  # far from what a step does
    sums = loss_of(GSPO(GSPOConfig(clip_low=0.2, clip_high=0.2)), gaps)
    assert float(sums.metrics["policy/clipfrac"][0]) == 0


def test_the_aggregation_is_that_of_entropy_and_kl() -> None:
    with pytest.raises(ValidationError, match="aggregation has no effect without entropy_weight or kl_weight"):
        GSPOConfig(aggregation="token-mean")
    method = GSPO(GSPOConfig(aggregation="token-mean", entropy_weight=0.1, kl_weight=0.1))
    assert method.weights(batch_of([[1, 0, 0, 0]]).groups) == {"policy": 4, "entropy": 10, "kl": 10}
