"""DAPO: clip-higher, a mean over tokens, and the overlong punishment before rewards are compared."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Method, Scores
from plaudit.methods.dapo import DAPO, DAPOConfig
from plaudit.methods.policy.advantages import group_normalised
from plaudit.runs.metrics import is_known
from tests.methods.test_grpo import batch_of, columns_of, prepare
from tests.methods.views import view

CASES = {
    "overlong": {"overlong_buffer": 4, "overlong_penalty": 0.5, "truncated": "mask"},
    "overlong beside scaled rewards": {"overlong_buffer": 6, "reward_scale": "batch", "std": "batch"},
    "KL": {"kl_weight": 0.04, "dual_clip": 3.0, "off_policy_mask": 0.03},
    "process": {"supervision": "process", "entropy_weight": 0.01, "clip_high": 0.1},
}


def test_its_defaults() -> None:
    method = DAPO()
    assert method.clip_range == (0.2, 0.28)
    assert method.coefficients()["kl"] == 0
    assert DAPO.default_dynamic_sampling
    assert not Method.default_dynamic_sampling
    assert DAPO(DAPOConfig(clip_high=None)).clip_range == (0.2, 0.2)


@pytest.mark.parametrize(("ratio", "gain", "objective"), [(1.27, 1, 1.27), (1.3, 1, 1.28), (0.75, -1, -0.8)])
def test_clip_higher(ratio: float, gain: float, objective: float) -> None:
    method = DAPO(DAPOConfig(watch_kl=False))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(1, 1)))
    columns = columns_of(batch) | {"advantage": torch.tensor([gain, 0.0])}
    logprobs = torch.tensor([ratio, 1.0]).log() - 1
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(2)), view(batch.groups, columns))
    assert -float(sums.terms["policy"]) == pytest.approx(objective, abs=1e-6)


def test_every_token_weighs_the_same() -> None:
    method = DAPO()
    batch = prepare(method, batch_of([[1, 0, 0, 0]]))
    columns = columns_of(batch)
    logprobs = torch.full((10,), -1.0, requires_grad=True)
    sums = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.ones(10)), view(batch.groups, columns))
    assert method.weights(batch.groups)["policy"] == 10
    (sums.terms["policy"] / 10).backward()
    assert torch.allclose(logprobs.grad, -columns["advantage"] / 10, atol=1e-7)


def test_the_punishment_is_part_of_the_reward() -> None:
    """L_max 8 and a buffer of 4: answers of 2, 4, 6 and 8 tokens lose 0, 0, half and all of the penalty of 2."""
    method = DAPO(DAPOConfig(overlong_buffer=4, overlong_penalty=2.0))
    method.longest_sampled = 8
    batch = prepare(method, batch_of([[1.0, 1.0, 1.0, -1.0]], lengths=(2, 4, 6, 8)))
    first = [a[0] for a in batch.per_token["advantage"][0]]
    assert first == pytest.approx(group_normalised([1.0, 1.0, 0.0, -3.0]), abs=1e-6)
    assert batch.metrics["rewards/overlong"] == (-3.0, 4.0)
    assert is_known("rewards/overlong")
    assert "rewards/overlong" not in prepare(DAPO(), batch_of([[1.0, 0.0]])).metrics


def test_length_alone_can_tell_answers_apart() -> None:
    method, plain = DAPO(DAPOConfig(overlong_buffer=4)), DAPO()
    method.longest_sampled = plain.longest_sampled = 8
    (group,) = batch_of([[1.0, 1.0]], lengths=(2, 7)).groups
    assert method.teaches(group)
    assert not plain.teaches(group)
    (same,) = batch_of([[1.0, 1.0]], lengths=(2, 3)).groups
    assert not method.teaches(same)


def test_only_what_was_sampled_is_long() -> None:
    method = DAPO(DAPOConfig(overlong_buffer=4, std="none"))
    method.longest_sampled = 8
    batch = batch_of([[1.0, 1.0]], lengths=(8, 2))
    batch.groups[0].completions[0].action_mask[:2] = False  # observations
    batch.per_token["old"][0][0] = batch.per_token["old"][0][0][2:]
    assert [row.tolist() for row in method.overlong(batch)] == [[-0.5, 0.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlong_penalty": 0.5}, "overlong_penalty has no effect without overlong_buffer"),
        ({"overlong_buffer": 4, "supervision": "process"}, "overlong_buffer has no effect with supervision: process"),
        ({"reward_scale": "batch"}, "reward_scale: batch has no effect beside std"),
    ],
)
def test_options_without_effect_are_refused(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        DAPOConfig(**options)
    DAPOConfig(overlong_buffer=4, reward_scale="batch")  # the punishment is not scaled
