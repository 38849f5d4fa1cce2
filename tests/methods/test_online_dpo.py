"""Online DPO: which answers make a pair, what is counted, the three losses, the reference, and the KL."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plaudit.methods.base import Batch, Scores
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.hinge import Hinge, HingeConfig
from plaudit.methods.ipo import IPO, IPOConfig
from plaudit.methods.online_dpo import OnlineDPO, OnlineDPOConfig
from plaudit.methods.preference.pairs import PairMethod
from plaudit.runs.metrics import is_known
from tests.methods.choices import constant_scores, rewards_of, rng, sampled
from tests.methods.views import view

CASES = {
    "ipo, seams": {
        "loss": "ipo",
        "nll_weight": 1.0,
        "ld_alpha": 0.4,
        "weighting": "wpo",
        "min_gap": 0.2,
        "watch_kl": False,
    }
}


def of(**options) -> OnlineDPO:
    return OnlineDPO(OnlineDPOConfig(**options))


def prepared(method: OnlineDPO, *rows, **how) -> Batch:
    groups = [sampled(row, **how) for row in rows]
    batch = Batch(method.choose(groups, rng()), sampled=groups)
    method.prepare_batch(batch, constant_scores(-1.5), rng())
    return batch


def test_the_best_and_the_worst_make_a_pair() -> None:
    groups = [sampled([0.2, 0.9, -1.0, 0.3]), sampled([1.0, 2.0])]
    found = of().choose(groups, rng())
    assert rewards_of(found) == [[0.9, -1.0], [2.0, 1.0]]
    # The very answers that were sampled: tokens, rewards and log-probs stay what they were.
    assert found[0].completions[0] is groups[0].completions[1]
    assert rewards_of(groups) == [[0.2, 0.9, -1.0, 0.3], [1.0, 2.0]]


def test_equal_rewards_make_no_pair() -> None:
    """k = 2 with equal rewards, and equal up to rounding."""
    groups = [sampled([0.5, 0.5]), sampled([0.1 + 0.2, 0.3]), sampled([1.0, 0.0])]
    method = of()
    found = method.choose(groups, rng())
    assert rewards_of(found) == [[1.0, 0.0]]
    assert [method.teaches(g) for g in groups] == [False, False, True]
    metrics = method.choice_metrics(groups, found)
    assert metrics == {"pairs/none": (2.0, 3.0), "pairs/gap": (1.0, 1.0)}
    assert method.choice_metrics(groups[:2], [])["pairs/none"] == (2.0, 2.0)
    assert all(is_known(name) for name in metrics)


@pytest.mark.parametrize(("min_gap", "pairs"), [(0.0, 3), (0.25, 3), (0.3, 2), (1.0, 1), (1.5, 0)])
def test_smaller_gaps_make_no_pair(min_gap, pairs) -> None:
    groups = [sampled([0.5, 0.75]), sampled([0.5, 0.0]), sampled([0.0, 1.0])]
    method = of(min_gap=min_gap)
    assert len(method.choose(groups, rng())) == pairs
    assert sum(method.teaches(g) for g in groups) == pairs


def test_one_text_with_two_rewards_is_no_pair() -> None:
    group = sampled([0.0, 1.0])
    group.completions[1].token_ids = group.completions[0].token_ids
    assert of().choose([group], rng()) == []


def test_several_pairs_of_a_prompt() -> None:
    """The i-th best with the i-th worst, no answer twice; the pairs that are ties are left out."""
    method = of(pairs=3)
    assert rewards_of(method.choose([sampled([3, 1, 4, 1.5, 5, 9, 2])], rng())) == [[9, 1, 5, 1.5, 4, 2]]
    assert rewards_of(method.choose([sampled([1, 1, 0, 1, 1])], rng())) == [[1, 0]]
    assert method.weights(method.choose([sampled([3, 1, 4, 1.5, 5, 9, 2])], rng()))["loss"] == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.9, 0.1]),
        ({"truncated": "mask"}, [0.5, 0.1]),
        ({"truncated": "replace", "truncated_reward": -2.0}, [0.5, 0.9]),
        ({"truncated": "subtract", "truncated_penalty": 0.5}, [0.5, 0.1]),
    ],
)
def test_answers_that_were_cut(options, expected) -> None:
    """The completion's own reward stays; what it is compared by is the option's."""
    method = of(**options)
    groups = [sampled([0.1, 0.9, 0.5], cut=[1])]
    assert rewards_of(method.choose(groups, rng())) == [expected]
    assert of(truncated="mask").choose([sampled([0.1, 0.9], cut=[1])], rng()) == []


def test_the_gap_is_that_of_what_was_compared() -> None:
    method = of(truncated="replace", truncated_reward=-2.0)
    groups = [sampled([0.1, 0.9, 0.5], cut=[1])]
    assert method.choice_metrics(groups, method.choose(groups, rng()))["pairs/gap"] == (2.5, 1.0)


def losses(method: PairMethod, batch: Batch, logprobs: torch.Tensor) -> torch.Tensor:
    columns = {"reference": torch.full_like(logprobs, -1.5)}
    return method.pair_loss(method.pairs_of(Scores(logprobs_N=logprobs), view(batch.groups, columns)))


@pytest.mark.parametrize(
    ("options", "offline", "at_reference"),
    [
        ({}, DPO(), math.log(2)),
        ({"label_smoothing": 0.2, "beta": 0.3}, DPO(DPOConfig(label_smoothing=0.2, beta=0.3)), math.log(2)),
        ({"loss": "ipo", "beta": 0.1}, IPO(IPOConfig(tau=0.1)), 25.0),
        ({"loss": "hinge"}, Hinge(HingeConfig()), 1.0),
    ],
    ids=["sigmoid", "smoothed", "ipo", "hinge"],
)
def test_the_losses_are_those_of_pairs_in_a_file(options, offline, at_reference) -> None:
    method = of(**options)
    batch = prepared(method, [0.0, 1.0, 0.5], [2.0, 1.0])
    n = sum(len(c.token_ids) for g in batch.groups for c in g.completions)
    logprobs = -torch.rand(n, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(losses(method, batch, logprobs), losses(offline, batch, logprobs))
    start = losses(method, batch, torch.full((n,), -1.5))
    torch.testing.assert_close(start, torch.full((2,), at_reference))


def test_the_kl_is_over_everything_that_was_sampled() -> None:
    """0.5 nats a token; answers of 2, 3 and 4 tokens, and of a prompt without a pair 2 and 3."""
    batch = prepared(of(), [0.0, 1.0, 0.5], [1.0, 1.0])
    assert len(batch.groups) == 1
    assert batch.metrics["kl"] == pytest.approx((0.5 * 14, 5))
    assert batch.metrics["kl_per_token"] == pytest.approx((0.5 * 14, 14))
    assert [len(r) for r in batch.per_token["reference"][0]] == [3, 2]
    quiet = prepared(of(watch_kl=False), [0.0, 1.0, 0.5], [1.0, 1.0])
    assert quiet.metrics == {}
    assert [len(r) for r in quiet.per_token["reference"][0]] == [3, 2]


def test_without_the_engines_logprobs_the_policy_is_asked() -> None:
    groups = [sampled([0.0, 1.0])]
    groups[0].completions[0].full_logprobs = None
    asked = []

    def score(role, wanted):
        asked.append((role, wanted))
        return constant_scores(-2.0 if role == "policy" else -1.5)(role, wanted)

    method = of()
    batch = Batch(method.choose(groups, rng()), sampled=groups)
    method.prepare_batch(batch, score, rng())
    assert [role for role, _ in asked] == ["reference", "policy"]
    assert batch.metrics["kl"] == pytest.approx((-0.5 * 5, 2))


def test_the_reference_moves_between_rollout_batches_only() -> None:
    fixed, moving = of(), of(refresh_every=2)
    assert not fixed.moves_reference()
    assert [fixed.reference_mix(s) for s in range(1, 9)] == [0.0] * 8
    assert moving.moves_reference()
    assert moving.replaces_reference
    moving.steps_per_rollout = 3
    assert [s for s in range(1, 19) if moving.reference_mix(s)] == [6, 12, 18]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_how_often_the_chosen_answer_beats_a_fresh_one(n) -> None:
    """n/(n+1) without ties (best of n against one more draw)."""
    draws = np.random.default_rng(n)
    method, rounds = of(), 4000
    rewards = draws.normal(size=(rounds, n + 1))
    chosen = [method.choose([sampled(list(row[:n]))], rng())[0].completions[0].reward for row in rewards]
    won = float(np.mean(np.array(chosen) > rewards[:, n]))
    expected = n / (n + 1)
    assert abs(won - expected) < 4 * math.sqrt(expected * (1 - expected) / rounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing has no effect with loss: ipo"),
        ({"truncated_reward": 0.0}, "truncated_reward has no effect without truncated: replace"),
        ({"nll_aggregation": "token-mean"}, "nll_aggregation has no effect"),
        ({"min_gap": -0.1}, "greater than or equal to 0"),
        ({"refresh_every": 0}, "greater than 0"),
    ],
)
def test_options_without_effect_are_refused(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        OnlineDPOConfig(**options)
