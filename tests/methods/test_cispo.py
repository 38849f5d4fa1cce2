"""CISPO: capped weights without gradient, and no token dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Scores
from plaudit.methods.cispo import CISPO, CISPOConfig
from tests.methods.test_grpo import batch_of, columns_of, prepare
from tests.methods.views import view

CASES = {
    "cap": {"ratio_cap": 1.2, "kl_weight": 0.04, "entropy_weight": 0.01},
    "by answer": {"aggregation": "seq-mean-token-mean", "std": "batch", "truncated": "mask", "watch_kl": False},
    "process": {"supervision": "process", "std": "none", "off_policy_mask": 0.02, "kl_weight": 0.1,
                "kl_estimator": "k3_corrected"},
}  # fmt: skip


def test_every_token_keeps_its_gradient() -> None:
    """−min(w, 5) A per token over all ten, also far beyond the interval of any clip."""
    method = CISPO(CISPOConfig(watch_kl=False))
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    ratios = torch.tensor([9.0, 0.1, 1, 4.9, 5.1, 0.5, 1, 1, 2, 0.01])
    logprobs = (ratios.log() - 1).requires_grad_()
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    by = method.weights(batch.groups)["policy"]
    assert by == 10
    weights = ratios.clamp(max=5)
    expected = -(weights * columns["advantage"] * logprobs.detach()).sum() / 10
    assert float(sums.terms["policy"].detach()) / by == pytest.approx(float(expected), abs=1e-6)
    (sums.terms["policy"] / by).backward()
    assert torch.allclose(logprobs.grad, -weights * columns["advantage"] / 10, atol=1e-6)
    assert logprobs.grad.all()
    assert [float(v) for v in sums.metrics["policy/clipfrac"]] == [2.0, 10.0]


def test_the_cap_is_the_cap_itself() -> None:
    """1.2 holds a weight of 1.5 at 1.2, not at 2.2; there is no floor and nothing else to clip."""
    method = CISPO(CISPOConfig(ratio_cap=1.2, watch_kl=False))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(1, 1)))
    logprobs = (torch.tensor([1.5, 0.2]).log() - 1).requires_grad_()
    columns = columns_of(batch) | {"advantage": torch.ones(2)}
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(2)), view(batch.groups, columns))
    sums.terms["policy"].backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.2, -0.2], abs=1e-6)
    with pytest.raises(ValidationError, match="clip_low"):
        CISPOConfig(clip_low=0.2)  # type: ignore[call-arg]


LOGITS = torch.tensor([0.3, -0.7, 1.1, 0.0, -0.2], dtype=torch.float64)
OLD = torch.tensor([-0.4, 0.5, 0.2, 0.9, -1.0], dtype=torch.float64).log_softmax(-1)
REWARDS = torch.tensor([1.0, -0.5, 0.2, 2.0, 0.0], dtype=torch.float64)


def expected_gradient(cap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(of CISPO's loss over all five answers with the weights of the old policy, of −E[r]) with respect to logits."""
    theta = LOGITS.clone().requires_grad_()
    logp = theta.log_softmax(-1)
    method = CISPO(CISPOConfig(ratio_cap=cap, watch_kl=False))
    batch = batch_of([[0.0] * 5], lengths=(1,) * 5)
    columns = {"old": OLD, "advantage": OLD.exp() * REWARDS}  # an answer's share of what is sampled
    sums = method.loss("policy", Scores(logprobs_N=logp, entropy_N=torch.ones(5)), view(batch.groups, columns))
    (found,) = torch.autograd.grad(sums.terms["policy"], theta, retain_graph=True)
    (truth,) = torch.autograd.grad(-(logp.exp() * REWARDS).sum(), theta)
    return found, truth


def test_without_a_cap_it_is_the_policy_gradient_by_enumeration() -> None:
    """E over the old policy of w A ∇ log π is ∇ E over the new one; a cap below the largest ratio biases it."""
    found, truth = expected_gradient(1e6)
    assert torch.allclose(found, truth, atol=1e-14)
    ratios = (LOGITS.log_softmax(-1) - OLD).exp()
    assert float(ratios.max()) > 1.5
    capped, _ = expected_gradient(1.5)
    assert not torch.allclose(capped, truth, atol=1e-3)
    assert np.isfinite(capped.numpy()).all()
