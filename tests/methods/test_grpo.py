"""GRPO, Dr. GRPO, and what is not computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Batch, Scored, Scores
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.policy.base import PolicyMethod
from plaudit.runs.metrics import is_known
from plaudit.types import Completion, PromptGroup
from tests.methods.views import view

CASES = {
    "KL": {"kl_weight": 0.04},
    "reverse KL": {"kl_weight": 0.04, "kl_estimator": "k3_corrected", "clip_high": 0.28, "dual_clip": 3.0},
    "Dr. GRPO": {"std": "none", "aggregation": "seq-mean-token-sum-norm", "watch_kl": False},
    "token mean": {"aggregation": "token-mean", "entropy_weight": 0.01, "truncated": "mask"},
}


def batch_of(rewards: Sequence[Sequence[float]], lengths: Sequence[int] = (2, 3, 1, 4)) -> Batch:
    """Groups whose answers have these rewards; old log-probs −1."""

    def answer(n: int, reward: float) -> Completion:
        return Completion(np.arange(n, dtype=np.int32), np.ones(n, dtype=bool), reward=reward, finish_reason="stop")

    groups = [
        PromptGroup(np.arange(2, dtype=np.int32), [answer(n, r) for n, r in zip(lengths, row, strict=False)])
        for row in rewards
    ]
    old = [[np.full(len(c.token_ids), -1.0, np.float32) for c in g.completions] for g in groups]
    return Batch(groups, per_token={"old": old})


def reference(role, groups):
    return [[Scored(np.full(len(c.token_ids), -1.5, np.float32)) for c in g.completions] for g in groups]


def prepare(method: PolicyMethod, batch: Batch) -> Batch:
    method.prepare_batch(batch, reference, np.random.default_rng(0))
    return batch


def columns_of(batch: Batch) -> dict[str, torch.Tensor]:
    return {n: torch.cat([torch.from_numpy(v) for r in rows for v in r]) for n, rows in batch.per_token.items()}


def test_every_token_of_an_answer_has_its_advantage() -> None:
    batch = prepare(GRPO(), batch_of([[1, 0, 0, 0]]))
    found = batch.per_token["advantage"][0]
    assert [len(a) for a in found] == [2, 3, 1, 4]
    assert [a[0] for a in found] == pytest.approx([1.4997, *[-0.4999] * 3], abs=1e-5)
    assert batch.metrics["kl"] == pytest.approx((10 * 0.5, 4))


def test_groups_without_signal_are_not_computed_and_still_count() -> None:
    method = GRPO()
    batch = prepare(method, batch_of([[1, 0, 0, 0], [1, 1, 1, 1], [0.2, 0.2, 0.2, 0.2]]))
    assert method.without_signal(batch) == {1, 2}
    assert method.weights(batch.groups)["policy"] == 12.0
    for options in ({"kl_weight": 0.1}, {"entropy_weight": 0.1}):
        other = GRPO(GRPOConfig(**options))
        assert other.without_signal(prepare(other, batch_of([[1, 1, 1, 1]]))) == frozenset()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.0),  # Â has mean 0 and every answer the same weight
        ({"aggregation": "token-mean", "std": "none"}, -(0.75 * 2 - 0.25 * 8) / 10),
        ({"aggregation": "seq-mean-token-sum-norm", "std": "none"}, -(0.75 * 2 - 0.25 * 8) / (4 * 8)),
    ],
)
def test_the_loss_at_ratio_one(options, expected) -> None:
    """−Σ Â_i len_i over the aggregation's denominator; its gradient is −Â ∇ log π."""
    method = GRPO(GRPOConfig(**options))
    method.longest_sampled = 8
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    by = method.weights(batch.groups)["policy"]
    assert float(sums.terms["policy"].detach()) / by == pytest.approx(expected, abs=1e-6)
    (sums.terms["policy"] / by).backward()
    share = {"seq-mean-token-mean": [1 / (4 * n) for n in (2, 3, 1, 4) for _ in range(n)]}
    factor = torch.tensor(share.get(method.config.aggregation, [1 / by] * 10))
    assert torch.allclose(logprobs.grad, -columns["advantage"] * factor, atol=1e-7)


def test_the_kl_term() -> None:
    """d = −0.5: k3 = e^−.5 + .5 − 1 per token; the mean of each answer, then of the answers."""
    method = GRPO(GRPOConfig(kl_weight=0.04))
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    scores = Scores(logprobs_N=torch.full((10,), -1.0), entropy_N=torch.ones(10))
    sums = method.loss("policy", scores, view(batch.groups, columns_of(batch)))
    assert float(sums.terms["kl"]) / 4 == pytest.approx(np.exp(-0.5) - 0.5, abs=1e-6)
    assert method.coefficients() == {"policy": 1.0, "entropy": -0.0, "kl": 0.04}


def test_no_reference_where_nobody_asks() -> None:
    method = GRPO(GRPOConfig(watch_kl=False))
    assert method.needed_roles() == {"policy"}
    batch = batch_of([[1, 0]])
    method.prepare_batch(batch, lambda role, groups: pytest.fail("asked"), np.random.default_rng(0))
    assert "kl" not in batch.metrics


def test_a_correction_weighs_the_policy_term_only() -> None:
    method = GRPO(GRPOConfig(kl_weight=0.04, aggregation="token-mean"))
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    columns = columns_of(batch)
    scores = Scores(logprobs_N=torch.full((10,), -0.9), entropy_N=torch.ones(10))
    plain = method.loss("policy", scores, view(batch.groups, columns)).terms
    columns["correction"] = torch.full((10,), 0.5)
    weighed = method.loss("policy", scores, view(batch.groups, columns)).terms
    assert float(weighed["policy"]) == pytest.approx(0.5 * float(plain["policy"]))
    assert float(weighed["kl"]) == float(plain["kl"])


def test_the_share_that_the_dual_clip_holds() -> None:
    """Of the tokens that count, those with A < 0 and a ratio above c; without the option there is no such metric."""
    options = {"truncated": "mask", "watch_kl": False}
    batch = batch_of([[1, 0, 0, 0]])
    batch.groups[0].completions[3].finish_reason = "length"
    method = GRPO(GRPOConfig(dual_clip=3.0, **options))
    columns = columns_of(prepare(method, batch))
    columns["counted"] = torch.from_numpy(batch.per_completion["counted"][0])
    logprobs = torch.log(torch.tensor([4.0, 4, 4, 2.9, 3.1, 0.5, 9, 9, 9, 9])) - 1  # A > 0 for the first two
    scores = Scores(logprobs_N=logprobs, entropy_N=torch.ones(10))
    metrics = method.loss("policy", scores, view(batch.groups, columns)).metrics
    assert [float(v) for v in metrics["policy/dual_clipfrac"]] == [2.0, 6.0]
    assert is_known("policy/dual_clipfrac")
    plain = GRPO(GRPOConfig(**options)).loss("policy", scores, view(batch.groups, columns)).metrics
    assert "policy/dual_clipfrac" not in plain


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="kl_estimator has no effect"):
        GRPOConfig(kl_estimator="k2")


@pytest.mark.parametrize("std", ["sample", "population"])
def test_rewards_are_scaled_once(std) -> None:
    """Standardised over the batch and then divided by the group's deviation, they are what they were without."""
    with pytest.raises(ValidationError, match="reward_scale: batch has no effect beside std"):
        GRPOConfig(reward_scale="batch", std=std)
    GRPOConfig(reward_scale="batch", std="none")
    once = GRPO(GRPOConfig(std=std, truncated="subtract"))
    both = GRPO(GRPOConfig(std=std, truncated="subtract", reward_scale="batch"))
    rewards = [[3.0, 0, 0, 5], [1, 2, 0, 7]]
    found = [prepare(m, batch_of(rewards)).per_token["advantage"] for m in (once, both)]
    assert [a[0] for row in found[0] for a in row] == pytest.approx([a[0] for row in found[1] for a in row], abs=1e-3)
    cut = [batch_of(rewards), batch_of(rewards)]
    for batch in cut:
        batch.groups[0].completions[0].finish_reason = "length"  # the penalty is in units of what was scaled
    first = [prepare(m, b).per_token["advantage"][0][0][0] for m, b in zip((once, both), cut, strict=True)]
    assert first[0] != pytest.approx(first[1], abs=1e-2)
