"""ReMax: each answer against the policy's most likely one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Batch, Scores
from plaudit.methods.policy.surrogates import clipped_surrogate, ratio_of
from plaudit.methods.remax import ReMax, ReMaxConfig
from plaudit.runs.metrics import is_known
from plaudit.types import Completion
from tests.methods.test_grpo import batch_of, columns_of, prepare
from tests.methods.views import view

CASES = {
    "everything": {"entropy_weight": 0.01, "aggregation": "seq-mean-token-mean", "truncated": "mask",
                   "reward_scale": "batch", "dual_clip": 3.0, "off_policy_mask": 0.02, "clip_high": 0.5},
}  # fmt: skip


def against(
    rewards: Sequence[Sequence[float]], greedy: Sequence[float], lengths: Sequence[int] = (2, 3, 1, 4)
) -> Batch:
    """`batch_of` groups with a greedy answer of two tokens to each prompt."""
    batch = batch_of(rewards, lengths)
    for group, reward in zip(batch.groups, greedy, strict=True):
        ids = np.arange(2, dtype=np.int32)
        group.greedy = Completion(ids, np.ones(2, dtype=bool), reward=reward, finish_reason="stop")
    return batch


def first_of(batch: Batch) -> list[list[float]]:
    return [[float(a[0]) for a in row] for row in batch.per_token["advantage"]]


def test_the_greedy_answers_reward_is_the_baseline() -> None:
    batch = prepare(ReMax(ReMaxConfig(kl_weight=0.0)), against([[1.0], [0.2], [0.7]], [0.25, 0.5, 0.7], lengths=(3,)))
    assert first_of(batch) == [[pytest.approx(0.75)], [pytest.approx(-0.3)], [0.0]]
    assert batch.metrics["greedy/reward"] == pytest.approx((1.45, 3))
    assert is_known("greedy/reward")


def test_the_kl_is_part_of_the_reward() -> None:
    """k1 is 0.5 per token: an answer of 3 tokens pays 1.5 β. The greedy answer pays nothing."""
    batch = prepare(ReMax(ReMaxConfig(kl_weight=0.1)), against([[1.0]], [0.25], lengths=(3,)))
    assert first_of(batch) == [[pytest.approx(0.75 - 0.15)]]


def test_an_answer_as_good_as_the_greedy_one_teaches_nothing() -> None:
    """Exactly, also where it was scored in another batch and differs by rounding; others are not computed for it."""
    method = ReMax(ReMaxConfig(kl_weight=0.0, watch_kl=False))
    batch = against([[0.1 + 0.2, 0.3], [1.0, 0.3], [0.5, 0.5]], [0.3, 0.3, 0.0])
    assert [method.teaches(group) for group in batch.groups] == [False, True, True]
    prepare(method, batch)
    assert first_of(batch)[0] == [0.0, 0.0]
    assert first_of(batch)[1] == [pytest.approx(0.7), 0.0]
    assert method.without_signal(batch) == {0}


def test_truncation_costs_both_the_same() -> None:
    """A cut answer equal to a cut greedy one has advantage 0; against one that ended it pays."""
    method = ReMax(ReMaxConfig(kl_weight=0.0, truncated="subtract", truncated_penalty=2.0))
    batch = against([[1.0], [1.0]], [1.0, 1.0], lengths=(2,))
    for group in batch.groups:
        group.completions[0].finish_reason = "length"
    batch.groups[0].greedy.finish_reason = "length"
    assert [method.teaches(group) for group in batch.groups] == [False, True]
    assert first_of(prepare(method, batch)) == [[0.0], [-2.0]]
    masked = ReMax(ReMaxConfig(truncated="mask"))
    (other,) = against([[1.0]], [0.0], lengths=(2,)).groups
    assert masked.teaches(other)
    other.completions[0].finish_reason = "length"
    assert not masked.teaches(other)


def test_the_gradient_is_that_of_whole_answers() -> None:
    """At ratio 1: −A_i ∇ Σ_t log π, over the number of answers, whatever their lengths."""
    method = ReMax(ReMaxConfig(kl_weight=0.0))
    batch = prepare(method, against([[1, 0, 0, 0.5]], [0.25]))
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    (sums.terms["policy"] / method.weights(batch.groups)["policy"]).backward()
    assert torch.allclose(logprobs.grad, -columns["advantage"] / 4, atol=1e-6)


def test_the_greedy_answer_is_never_trained_on() -> None:
    method = ReMax()
    batch = prepare(method, against([[1.0, 0.0]], [0.5]))
    assert [len(g.completions) for g in batch.groups] == [2]
    assert method.weights(batch.groups) == {"policy": 2, "entropy": 2}


def test_it_is_unbiased_by_enumeration() -> None:
    """Over all answers: the baseline depends on the policy and not on what was sampled."""
    rewards = torch.tensor([1.0, -0.5, 0.2, 2.0, 0.0], dtype=torch.float64)
    theta = torch.tensor([0.3, -0.7, 1.1, 0.0, -0.2], dtype=torch.float64, requires_grad=True)
    logp = theta.log_softmax(-1)
    greedy = float(rewards[int(logp.argmax())])
    batch = against([[float(r)] for r in rewards], [greedy] * 5, lengths=(1,))
    gains = torch.tensor([a for (a,) in first_of(prepare(ReMax(ReMaxConfig(kl_weight=0.0)), batch))])
    loss, _ = clipped_surrogate(ratio_of(logp, logp.detach()), gains.double(), 0.2, 0.2)
    (found,) = torch.autograd.grad((logp.detach().exp() * loss).sum(), theta, retain_graph=True)
    (truth,) = torch.autograd.grad(-(logp.exp() * rewards).sum(), theta)
    assert torch.allclose(found, truth, atol=1e-7)


def test_one_answer_to_each_prompt_is_enough() -> None:
    assert ReMax.default_completions == ReMax.min_completions == 1
    assert ReMax.needs_greedy
    with pytest.raises(ValidationError, match="aggregation has no effect"):
        ReMaxConfig(aggregation="token-mean")
