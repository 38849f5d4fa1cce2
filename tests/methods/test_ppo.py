"""PPO as a whole: token rewards, returns, whitening, the critic, the controller, and who gets which gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Batch, Role, Scored, Scores
from plaudit.methods.policy.advantages import gae
from plaudit.methods.ppo import PPO, PPOConfig
from plaudit.types import Completion, PromptGroup
from tests.methods.views import view

CASES = {
    "everything": {
        "kl_controller": "adaptive",
        "whiten_rewards": True,
        "lam_alpha": 0.5,
        "value_lam": 1.0,
        "dual_clip": 3.0,
        "clip_high": 0.28,
        "entropy_weight": 0.01,
        "nll_weight": 0.1,
        "reward_clip": 1.0,
        "reward_scale": "batch",
        "truncated": "mask",
    },
    "no KL": {"kl_weight": 0.0, "watch_kl": False, "value_clip": None, "whiten_advantages": False},
    "per answer": {"aggregation": "seq-mean-token-mean"},
}


def answer(length: int, reward: float, *, cut: bool = False, hole: int | None = None) -> Completion:
    mask = np.ones(length, dtype=bool)
    if hole is not None:
        mask[hole] = False
    return Completion(np.arange(length, dtype=np.int32), mask, reward=reward, finish_reason="length" if cut else "stop")


def score(values: float = 0.0, reference: float = -1.2):
    def of(role: Role, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        def one(c: Completion) -> Scored:
            n = int(c.action_mask.sum())
            return Scored(np.full(n, reference, np.float32), np.full(n, values, np.float32))

        return [[one(c) for c in g.completions] for g in groups]

    return of


def prepared(method: PPO, answers: Sequence[Completion], *, values: float = 0.0, reference: float = -1.2) -> Batch:
    """Old log-probs are −1 everywhere: k1 is −1 − reference per token."""
    batch = Batch([PromptGroup(np.arange(2, dtype=np.int32), [a]) for a in answers])
    batch.per_token["old"] = [[np.full(int(a.action_mask.sum()), -1.0, np.float32)] for a in answers]
    method.prepare_batch(batch, score(values, reference), np.random.default_rng(0))
    return batch


def configured(**options) -> PPO:
    return PPO(PPOConfig(**options))


def test_the_score_is_on_the_last_token_and_the_kl_on_each() -> None:
    """β = 0.05, k1 = 0.2: R = (−.01, −.01, .99); V = 0 and λ = 1 make the advantage the reward to go."""
    batch = prepared(configured(lam=1.0, whiten_advantages=False), [answer(3, 1.0)])
    assert batch.per_token["advantage"][0][0] == pytest.approx([0.97, 0.98, 0.99], abs=1e-6)
    assert batch.per_token["return"][0][0] == pytest.approx([0.97, 0.98, 0.99], abs=1e-6)
    assert batch.metrics["kl"] == pytest.approx((0.6, 1), abs=1e-6)
    assert batch.metrics["kl_per_token"] == pytest.approx((0.6, 3), abs=1e-6)


def test_without_a_difference_to_the_reference_there_is_no_penalty() -> None:
    batch = prepared(configured(lam=1.0, whiten_advantages=False), [answer(3, 1.0)], reference=-1.0)
    assert batch.per_token["advantage"][0][0].tolist() == [1.0, 1.0, 1.0]
    assert batch.metrics["kl"] == (0.0, 1.0)


def test_observations_are_skipped() -> None:
    """A token of a tool in the middle: the result is that of the answer without it."""
    options = {"whiten_advantages": False, "lam": 0.9}
    with_hole = prepared(configured(**options), [answer(4, 1.0, hole=1)], values=0.3)
    without = prepared(configured(**options), [answer(3, 1.0)], values=0.3)
    for name in ("advantage", "return", "old_value"):
        assert np.array_equal(with_hole.per_token[name][0][0], without.per_token[name][0][0])


def test_returns_are_taken_before_whitening() -> None:
    answers = [answer(3, 1.0), answer(5, -0.5), answer(1, 2.0)]
    plain = prepared(configured(whiten_advantages=False), answers, values=0.4)
    white = prepared(configured(), answers, values=0.4)
    for g in range(3):
        assert np.array_equal(plain.per_token["return"][g][0], white.per_token["return"][g][0])
        expected = plain.per_token["advantage"][g][0] + np.float32(0.4)
        assert plain.per_token["return"][g][0] == pytest.approx(expected, abs=1e-6)
    flat = np.concatenate([row[0] for row in white.per_token["advantage"]])
    assert flat.mean() == pytest.approx(0, abs=1e-6)
    assert flat.std() == pytest.approx(1, abs=1e-5)


def test_two_lambdas() -> None:
    """Decoupled GAE: the critic learns Monte-Carlo returns, the policy's advantages have a λ of their own."""
    batch = prepared(configured(value_lam=1.0, lam=0.5, whiten_advantages=False), [answer(4, 1.0)], values=0.3)
    rewards = np.array([-0.01, -0.01, -0.01, 0.99])
    assert batch.per_token["advantage"][0][0] == pytest.approx(gae(rewards, [0.3] * 4, 1.0, 0.5), abs=1e-6)
    assert batch.per_token["return"][0][0] == pytest.approx([0.96, 0.97, 0.98, 0.99], abs=1e-6)
    adaptive = prepared(configured(lam_alpha=0.5, whiten_advantages=False), [answer(4, 1.0)], values=0.3)
    assert adaptive.per_token["advantage"][0][0] == pytest.approx(gae(rewards, [0.3] * 4, 1.0, 0.5), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3.0, 0.5]),
        ({"truncated": "replace", "truncated_reward": -1.0}, [3.0, -1.0]),
        ({"truncated": "subtract", "truncated_penalty": 0.25}, [3.0, 0.25]),
        ({"reward_clip": 1.0}, [1.0, 0.5]),
        ({"reward_clip": 1.0, "truncated": "replace", "truncated_reward": -2.0}, [1.0, -2.0]),
        ({"reward_scale": "batch"}, [1.0, -1.0]),
    ],
)
def test_scores(options, expected) -> None:
    """The first answer ended, the second was cut."""
    method = configured(kl_weight=0.0, lam=1.0, whiten_advantages=False, watch_kl=False, **options)
    batch = prepared(method, [answer(1, 3.0), answer(1, 0.5, cut=True)])
    assert [row[0][0] for row in batch.per_token["return"]] == pytest.approx(expected, abs=1e-6)


def test_a_masked_answer_is_in_no_mean() -> None:
    method = configured(truncated="mask")
    answers = [answer(3, 1.0), answer(4, 2.0, cut=True)]
    batch = prepared(method, answers)
    assert method.weights(batch.groups) == {"policy": 3.0, "entropy": 3.0, "nll": 0.0, "value": 3.0}
    assert batch.per_token["advantage"][1][0].tolist() == [0.0] * 4  # nor in the statistics of whitening
    columns = {"old": torch.zeros(7), "advantage": torch.ones(7), "return": torch.ones(7), "old_value": torch.zeros(7),
               "counted": torch.tensor([1.0, 0.0])}  # fmt: skip
    seen = view(batch.groups, columns)
    logprobs, values = torch.zeros(7, requires_grad=True), torch.zeros(7, requires_grad=True)
    policy = method.loss("policy", Scores(logprobs_N=logprobs, entropy_N=torch.zeros(7)), seen)
    value = method.loss("critic", Scores(values_N=values), seen)
    policy.terms["policy"].backward()
    value.terms["value"].backward()
    assert torch.equal(logprobs.grad, torch.tensor([-1.0, -1, -1, 0, 0, 0, 0]))
    assert torch.equal(values.grad, torch.tensor([-1.0, -1, -1, 0, 0, 0, 0]))


def test_at_the_first_step_nothing_is_clipped() -> None:
    method = configured()
    batch = prepared(method, [answer(3, 1.0), answer(2, 0.0)], values=0.1)
    columns = {n: torch.cat([torch.from_numpy(r[0]) for r in rows]) for n, rows in batch.per_token.items()}
    scores = Scores(logprobs_N=torch.full((5,), -1.0, requires_grad=True), entropy_N=torch.ones(5))
    sums = method.loss("policy", scores, view(batch.groups, columns))
    assert float(sums.metrics["policy/ratio"][0]) == 5
    assert float(sums.metrics["policy/approxkl"][0]) == float(sums.metrics["policy/clipfrac"][0]) == 0
    value = method.loss("critic", Scores(values_N=columns["old_value"].clone()), view(batch.groups, columns))
    assert float(value.metrics["value/clipfrac"][0]) == 0


def test_the_controller_acts_after_the_batch_and_counts_answers() -> None:
    method = configured(kl_weight=0.15, kl_controller="adaptive", kl_target=6.0)
    answers = [answer(60, 0.0)] * 512
    batch = prepared(method, answers)  # 60 × 0.2 = 12 nats per answer
    assert batch.metrics["kl_coefficient"] == (0.15, 1.0)
    assert method.beta == 0.15
    method.after_rollout()
    assert method.beta == pytest.approx(0.151536, abs=1e-6)
    restored = PPO(method.config)
    restored.state = PPO.State.model_validate(method.state.model_dump(mode="json"))
    assert restored.beta == method.beta
    assert prepared(restored, answers).metrics["kl_coefficient"][0] == method.beta


def test_a_fixed_coefficient_stays() -> None:
    method = configured()
    prepared(method, [answer(60, 0.0)])
    method.after_rollout()
    assert method.beta == 0.05


def test_at_first_only_the_critic_learns() -> None:
    method = configured(value_pretraining=2, entropy_weight=0.1, nll_weight=0.1, kl_controller="adaptive")
    batch = prepared(method, [answer(3, 1.0)], values=0.5)
    assert {n for n, c in method.coefficients().items() if c} == {"value"}
    assert batch.per_token["return"][0][0] == pytest.approx([0.97, 0.98, 0.99], abs=1e-6)  # λ = 1
    for _ in range(2):
        method.after_rollout()
    assert {n for n, c in method.coefficients().items() if c} == {"policy", "entropy", "nll", "value"}
    assert method.beta == 0.05


def test_explained_variance() -> None:
    method = configured(kl_weight=0.0, watch_kl=False, lam=1.0)
    batch = prepared(method, [answer(1, 1.0), answer(1, 3.0)], values=2.0)
    assert batch.metrics["value/explained_variance"] == (0.0, 1.0)
    assert "value/explained_variance" not in prepared(method, [answer(1, 1.0)]).metrics  # nothing to explain


def test_target_kl_ends_the_batch() -> None:
    method = configured(target_kl=0.02)
    assert method.may_end_rollout()
    assert not method.ends_rollout({"policy/approxkl": 0.03})
    assert method.ends_rollout({"policy/approxkl": 0.0301})
    assert not configured().may_end_rollout()


def test_who_is_needed() -> None:
    assert configured().needed_roles() == {"policy", "reference", "critic"}
    assert configured(kl_weight=0.0).needed_roles() == {"policy", "reference", "critic"}
    assert configured(kl_weight=0.0, watch_kl=False).needed_roles() == {"policy", "critic"}
    assert configured().needs_old
    assert configured(kl_weight=0.0).needs_old  # for the log
    assert not configured(kl_weight=0.0, watch_kl=False).needs_old
    assert not configured().moves_reference()
    moving = configured(reference_every=3)
    assert moving.moves_reference()
    assert [moving.reference_mix(s) for s in range(1, 7)] == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"kl_target": 3.0},
        {"kl_horizon": 3.0},
        {"kl_controller": "adaptive", "kl_weight": 0.0},
        {"nll_threshold": 0.5},
        {"dual_clip": 1.0},
        {"truncated_reward": 0.0},
        {"truncated_penalty": 0.5, "truncated": "mask"},
        {"watch_kl": False},
        {"reference_every": 5, "kl_weight": 0.0, "watch_kl": False},
        {"lam": 0.9, "lam_alpha": 0.05, "value_lam": 1.0},
        {"clip_low": 1.0},
    ],
)
def test_options_without_effect_are_refused(options) -> None:
    with pytest.raises(ValidationError):
        PPOConfig(**options)


def test_a_cut_answer_is_not_made_likelier_and_in_no_statistic() -> None:
    options = {"truncated": "mask", "nll_weight": 0.1, "whiten_rewards": True, "lam": 1.0, "whiten_advantages": False}
    kept = [answer(2, 1.0), answer(3, -1.0)]
    batches = [prepared(configured(**options), [*kept, answer(4, reward, cut=True)]) for reward in (1.0, 100.0)]
    assert [row[0] for row in batches[0].per_completion["good"]] == [1.0, 0.0, 0.0]
    for name in ("return", "advantage"):
        for g in range(2):
            assert np.array_equal(batches[0].per_token[name][g][0], batches[1].per_token[name][g][0])


def test_good_answers_are_made_likelier() -> None:
    method = configured(nll_weight=0.1, nll_threshold=0.5)
    answers = [answer(3, 1.0), answer(2, 0.0)]
    batch = prepared(method, answers)
    assert method.weights(batch.groups)["nll"] == 3.0
    columns = {n: torch.cat([torch.from_numpy(r[0]) for r in rows]) for n, rows in batch.per_token.items()}
    columns["good"] = torch.tensor([1.0, 0.0])
    scores = Scores(logprobs_N=torch.tensor([-1.0, -2, -3, -4, -5]), entropy_N=torch.ones(5))
    assert float(method.loss("policy", scores, view(batch.groups, columns)).terms["nll"]) == 6.0
