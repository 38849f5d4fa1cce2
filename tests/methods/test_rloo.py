"""RLOO: the answer is one action."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Scores
from plaudit.methods.rloo import RLOO, RLOOConfig
from tests.methods.test_grpo import batch_of, columns_of, prepare
from tests.methods.views import view

CASES = {
    "by answer": {"entropy_weight": 0.01, "aggregation": "seq-mean-token-mean"},
    "no KL": {"kl_weight": 0.0},
    "entropy": {"entropy_weight": 0.01, "truncated": "mask", "dual_clip": 3.0},
}


def test_the_kl_is_part_of_the_reward() -> None:
    """k1 is 0.5 per token: answers of 2 and 3 tokens pay β and 1.5 β."""
    batch = prepare(RLOO(RLOOConfig(kl_weight=0.1)), batch_of([[1.0, 0.0]]))
    gain = (1.0 - 0.1) - (0.0 - 0.15)
    assert [a[0] for a in batch.per_token["advantage"][0]] == pytest.approx([gain, -gain])


def test_the_gradient_is_that_of_whole_answers() -> None:
    """At ratio 1: −A_i ∇ Σ_t log π, over the number of answers, whatever their lengths."""
    method = RLOO(RLOOConfig(kl_weight=0.0))
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    (sums.terms["policy"] / method.weights(batch.groups)["policy"]).backward()
    assert torch.allclose(logprobs.grad, -columns["advantage"] / 4, atol=1e-6)


def test_the_ratio_of_the_whole_answer_is_clipped() -> None:
    """Two tokens that gain 0.15 nats each: e^0.3 is beyond 1.2 though neither token is."""
    method = RLOO(RLOOConfig(kl_weight=0.0))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(2, 2)))
    logprobs = torch.tensor([-0.85, -0.85, -1.0, -1.0], requires_grad=True)
    sums = method.loss(
        "policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(4)), view(batch.groups, columns_of(batch))
    )
    assert float(sums.terms["policy"].detach()) == pytest.approx(-1.2 + 1.0, abs=1e-6)
    sums.terms["policy"].backward()
    assert logprobs.grad[:2].tolist() == [0.0, 0.0]
    assert float(sums.metrics["policy/clipfrac"][0]) == 2.0


def test_only_the_sum_of_an_answers_log_ratios_is_held() -> None:
    """+25 and −24.9 nats are a ratio of e^0.1, though each is beyond what a token's ratio is held within."""
    method = RLOO(RLOOConfig(kl_weight=0.0))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(2, 2)))
    logprobs = torch.tensor([24.0, -25.9, -1.0, -1.0], requires_grad=True)
    sums = method.loss(
        "policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(4)), view(batch.groups, columns_of(batch))
    )
    assert float(sums.terms["policy"].detach()) == pytest.approx(-np.exp(0.1) + 1.0, abs=1e-5)
    sums.terms["policy"].backward()
    assert logprobs.grad[:2].tolist() == pytest.approx([-np.exp(0.1)] * 2, abs=1e-5)


def test_the_dual_clip_holds_whole_answers() -> None:
    """A = −1 and a ratio of e^1.2 over three tokens: beyond 3; the answer with A = 1 is not the dual clip's."""
    method = RLOO(RLOOConfig(kl_weight=0.0, dual_clip=3.0))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(2, 3)))
    scores = Scores(logprobs_N=torch.tensor([0.0, 0.0, -0.6, -0.6, -0.6]), entropy_N=torch.ones(5))
    found = method.loss("policy", scores, view(batch.groups, columns_of(batch)))
    assert [float(v) for v in found.metrics["policy/dual_clipfrac"]] == [3.0, 5.0]
    assert float(found.terms["policy"]) == pytest.approx(-1.2 + 3.0, abs=1e-5)


def test_the_aggregation_is_the_entropys_alone() -> None:
    method = RLOO(RLOOConfig(kl_weight=0.0, entropy_weight=0.1, aggregation="seq-mean-token-mean"))
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    columns = columns_of(batch)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    (sums.terms["policy"] / method.weights(batch.groups)["policy"]).backward()
    assert torch.allclose(logprobs.grad, -columns["advantage"] / 4, atol=1e-6)
    with pytest.raises(ValidationError, match="aggregation has no effect"):
        RLOOConfig(aggregation="token-mean")


def test_advantages_of_a_prompt_sum_to_nothing() -> None:
    batch = prepare(RLOO(), batch_of([np.random.default_rng(1).normal(size=4).tolist()]))
    assert sum(float(a[0]) for a in batch.per_token["advantage"][0]) == pytest.approx(0, abs=1e-6)
