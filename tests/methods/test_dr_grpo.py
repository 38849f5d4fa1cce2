"""Dr. GRPO: no standard deviation and no length of the answer in any denominator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plaudit.methods.base import Scores
from plaudit.methods.dr_grpo import DrGRPO, DrGRPOConfig
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.policy.advantages import leave_one_out
from tests.methods.test_grpo import batch_of, columns_of, prepare
from tests.methods.views import view

CASES = {
    "KL": {"kl_weight": 0.04, "kl_estimator": "k3_corrected", "clip_high": 0.28, "reward_clip": 0.5},
    "process": {"supervision": "process", "watch_kl": False, "entropy_weight": 0.01},
    "masked": {"truncated": "mask", "off_policy_mask": 0.05, "aggregation": "token-mean"},
}


def test_advantages_are_rewards_less_their_mean() -> None:
    batch = prepare(DrGRPO(), batch_of([[1, 0, 0, 0], [5, 5, 5, 5]]))
    first = [a[0] for row in batch.per_token["advantage"] for a in row]
    assert first == [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0]
    scaled = prepare(DrGRPO(), batch_of([[10, 0, 0, 0]]))
    assert scaled.per_token["advantage"][0][0][0] == 7.5, "the size of the rewards counts"
    assert 4 / 3 * np.array(first[:4]) == pytest.approx(leave_one_out([1, 0, 0, 0]))


def test_a_tokens_gradient_does_not_depend_on_the_lengths_of_answers() -> None:
    """−A / (B · L_max) for every token, with L_max what the run samples at most."""
    method = DrGRPO()
    method.longest_sampled = 8
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    by = method.weights(batch.groups)["policy"]
    assert by == 4 * 8
    (sums.terms["policy"] / by).backward()
    assert torch.allclose(logprobs.grad, -columns["advantage"] / 32, atol=1e-8)
    assert float(sums.terms["policy"].detach()) / by == pytest.approx(-(0.75 * 2 - 0.25 * 8) / 32, abs=1e-7)


def test_it_is_grpo_with_two_options() -> None:
    options = {"kl_weight": 0.04, "clip_high": 0.3}
    ours = DrGRPO(DrGRPOConfig(**options))
    other = GRPO(GRPOConfig(std="none", aggregation="seq-mean-token-sum-norm", **options))
    found = []
    for method in (ours, other):
        method.longest_sampled = 9
        batch = prepare(method, batch_of([[3.0, 0.5, 0, 1], [0.2, 0.1, 0, 0]]))
        logprobs = torch.linspace(-1.6, -0.4, 20, requires_grad=True)
        sums = method.loss(
            "policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(20)), view(batch.groups, columns_of(batch))
        )
        by, factors = method.weights(batch.groups), method.coefficients()
        total = sum(factors[n] * v / by[n] for n, v in sums.terms.items())
        found.append((total.item(), torch.autograd.grad(total, logprobs)[0]))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
