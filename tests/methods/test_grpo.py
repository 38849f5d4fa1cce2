"""GRPO, its deviations, process supervision, and what is not computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.errors import TrainingError
from plaudit.methods.base import Batch, Scored, Scores
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.policy.base import SampledMethod
from plaudit.runs.metrics import is_known
from plaudit.types import Completion, PromptGroup
from tests.methods.views import view

CASES = {
    "KL": {"kl_weight": 0.04},
    "reverse KL": {"kl_weight": 0.04, "kl_estimator": "k3_corrected", "clip_high": 0.28, "dual_clip": 3.0},
    "sums": {"std": "none", "aggregation": "seq-mean-token-sum-norm", "watch_kl": False, "reward_scale": "batch"},
    "process": {"supervision": "process", "std": "population", "kl_weight": 0.04, "kl_estimator": "k2"},
    "Lite-PPO": {"std": "batch", "aggregation": "token-mean", "entropy_weight": 0.01, "truncated": "mask",
                 "off_policy_mask": 0.02},
}  # fmt: skip


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


def prepare(method: SampledMethod, batch: Batch) -> Batch:
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_estimator": "k2"}, "kl_estimator has no effect"),
        ({"reward_scale": "batch", "std": "batch"}, "reward_scale: batch has no effect beside std"),
        ({"supervision": "process", "reward_clip": 1.0}, "reward_clip has no effect with supervision: process"),
        ({"supervision": "process", "reward_scale": "batch", "std": "none"}, "reward_scale has no effect with superv"),
        ({"supervision": "process", "truncated": "subtract"}, "truncated: subtract has no effect with supervision"),
    ],
)
def test_options_without_effect_are_refused(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        GRPOConfig(**options)


def test_the_deviation_of_the_whole_batch() -> None:
    """Rewards 1 0 and 4 0: ± .5 and ± 2 over the deviation of all four."""
    batch = prepare(GRPO(GRPOConfig(std="batch")), batch_of([[1, 0], [4, 0]]))
    std = float(np.std([1, 0, 4, 0], ddof=1))
    first = [a[0] for row in batch.per_token["advantage"] for a in row]
    assert first == pytest.approx(np.array([0.5, -0.5, 2, -2]) / (std + 1e-4), abs=1e-6)


def judged(steps: Sequence[Sequence[tuple[tuple[int, float], ...] | None]], lengths: Sequence[int] = (2, 3)) -> Batch:
    """`batch_of` groups whose answers' steps have these (last token, reward)."""
    batch = batch_of([[0.0] * len(row) for row in steps], lengths)
    for group, row in zip(batch.groups, steps, strict=True):
        for completion, own in zip(group.completions, row, strict=True):
            completion.step_rewards = own
    return batch


def test_process_supervision() -> None:
    """The rewards of all steps of a group are normalised together; a token has those that end at it or behind it."""
    batch = judged([[((0, 0.2), (1, 0.8)), ((0, 0.5), (1, 0.1), (2, 0.9))]])
    prepare(GRPO(GRPOConfig(supervision="process", std="population")), batch)
    first, second = batch.per_token["advantage"][0]
    scale = 0.31622776601683794 / (0.31622776601683794 + 1e-4)
    assert first == pytest.approx([0.0, 0.9486832980505138 * scale], abs=1e-6)
    assert second == pytest.approx([0.0, 0.0, 1.2649110640673518 * scale], abs=1e-6)
    assert batch.metrics["advantages/without_steps"] == (0.0, 2.0)


def test_steps_end_at_tokens_and_observations_take_no_part() -> None:
    """A step that ends at token 1 of 4, of which token 0 was not sampled; what is behind the last step has 0."""
    batch = judged([[((1, 1.0),), ((2, -1.0),)]], lengths=(4, 4))
    batch.groups[0].completions[0].action_mask[0] = False
    prepare(GRPO(GRPOConfig(supervision="process", std="none")), batch)
    assert [a.tolist() for a in batch.per_token["advantage"][0]] == [[1.0, 0.0, 0.0], [-1.0, -1.0, -1.0, 0.0]]


def test_an_answer_without_steps_teaches_nothing_and_is_counted() -> None:
    method = GRPO(GRPOConfig(supervision="process", std="none", watch_kl=False))
    batch = judged([[((1, 1.0),), ((2, 0.0),)], [None, None]])
    batch.groups[0].completions[1].step_rewards = None
    assert method.teaches(batch.groups[1]), "nobody knows: the error below is for the whole batch"
    prepare(method, batch)
    assert not any(a.any() for row in batch.per_token["advantage"] for a in row)
    assert batch.metrics["advantages/without_steps"] == (3.0, 4.0)
    assert method.without_signal(batch) == {0, 1}
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*gives none to any answer(.|\n)*\"steps\""):
        prepare(method, judged([[None, None]]))


def test_what_teaches() -> None:
    """Prompts whose answers are told apart by their rewards, or by what truncation costs."""

    def group(rewards: Sequence[float], cut: Sequence[int] = ()) -> PromptGroup:
        (found,) = batch_of([rewards]).groups
        for i in cut:
            found.completions[i].finish_reason = "length"
        return found

    plain, penalised = GRPO(), GRPO(GRPOConfig(truncated="subtract"))
    assert plain.teaches(group([1, 0, 0, 0]))
    assert not plain.teaches(group([1, 1, 1, 1], cut=[0]))
    assert not plain.teaches(group([0.1 + 0.2, 0.3, 0.3, 0.3]))
    assert penalised.teaches(group([1, 1, 1, 1], cut=[0]))
    assert not penalised.teaches(group([1, 1, 1, 1], cut=[0, 1, 2, 3]))
    assert not penalised.teaches(group([1, 2, 2, 2], cut=[1, 2, 3])), "the penalty of 1 makes them equal"
    masked = GRPO(GRPOConfig(truncated="mask"))
    assert masked.teaches(group([1, 0, 0, 0], cut=[0]))
    assert not masked.teaches(group([1, 0, 0, 0], cut=[0, 1, 2, 3])), "none is trained on"
    assert not GRPO(GRPOConfig(reward_scale="batch", std="none")).teaches(group([0.1 + 0.2, 0.3]))
    steps = GRPO(GRPOConfig(supervision="process"))
    assert steps.teaches(judged([[((0, 0.5),), ((0, 0.5), (1, 0.6))]]).groups[0])
    assert not steps.teaches(judged([[((0, 0.5),), ((0, 0.5), (1, 0.5))]]).groups[0])


def test_answers_that_the_policy_has_left_behind() -> None:
    """Mean log π_old − log π_θ of .3, .3, .1 and −.5 nats with A > 0 for the first: only the second is dropped, and
    every denominator stays."""
    options = {"watch_kl": False, "std": "none", "kl_weight": 0.0}
    gaps = torch.tensor([0.3] * 2 + [0.1, 0.3, 0.5] + [0.1] + [-0.5] * 4)
    scores = Scores(logprobs_N=(-1 - gaps).requires_grad_(), entropy_N=torch.ones(10))
    found = {}
    for name, more in (("plain", {}), ("masked", {"off_policy_mask": 0.2})):
        method = GRPO(GRPOConfig(**options, **more))
        batch = prepare(method, batch_of([[1, 0, 0, 0]]))
        sums = method.loss("policy", scores, view(batch.groups, columns_of(batch)))
        (found[name],) = torch.autograd.grad(sums.terms["policy"], scores.logprobs_N)
        assert method.weights(batch.groups)["policy"] == 4.0
        assert ("policy/off_policy_masked" in sums.metrics) == bool(more)
    assert [float(v) for v in sums.metrics["policy/off_policy_masked"]] == [3.0, 10.0]
    assert is_known("policy/off_policy_masked")
    assert not found["masked"][2:5].any()
    assert found["plain"][2:5].any()
    rest = [0, 1, 5, 6, 7, 8, 9]
    assert torch.equal(found["masked"][rest], found["plain"][rest])


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
