"""Old log-probs, the gap between sampled and scored, and its correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from plaudit.config.schema import RolloutSection
from plaudit.methods.base import Batch, Role, Scored
from plaudit.methods.policy.correction import gap_statistics, importance_weights
from plaudit.online.behaviour import set_old_logprobs
from plaudit.types import Completion, PromptGroup


def answer(logprobs: Sequence[float], *, full: bool = True, hole: int | None = None) -> Completion:
    values = np.float32(logprobs)
    mask = np.ones(len(values), dtype=bool)
    if hole is not None:
        mask[hole] = False
    return Completion(
        np.arange(len(values), dtype=np.int32), mask, sampling_logprobs=values, full_logprobs=values if full else None
    )


class Trainer:
    """Scores every target 0.1 nats above what was sampled, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, role: Role, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        assert role == "policy"
        self.asked += sum(len(g.completions) for g in groups)
        return [[Scored(logprobs=c.sampling_logprobs[c.action_mask] + np.float32(0.1)) for c in g.completions]
                for g in groups]  # fmt: skip


def batch(groups: int = 6, **options: bool) -> Batch:
    made = [answer([-1.0, -2.0, -3.0], hole=1, **options), answer([-0.5], **options), answer([-4.0, -1.0], **options)]
    copies = [[replace(c) for c in made] for _ in range(groups)]
    return Batch([PromptGroup(np.arange(2, dtype=np.int32), own) for own in copies])


def run(found: Batch, trainer: Trainer, *, exact=True, needed=True, single=False, **options) -> Batch:
    set_old_logprobs(found, RolloutSection(**options), trainer, exact=exact, needed=needed, single=single)
    return found


def test_the_engines_own_are_taken_where_they_are_exact_and_a_few_are_checked() -> None:
    trainer = Trainer()
    found = run(batch(), trainer)
    assert [v.tolist() for v in found.per_token["old"][0]] == [[-1.0, -3.0], [-0.5], [-4.0, -1.0]]  # targets only
    assert trainer.asked == 2  # of one prompt in sixteen
    assert found.metrics["rollout/gap_mean"] == pytest.approx((0.1, 1), abs=1e-6)
    assert "correction" not in found.per_token


@pytest.mark.parametrize(
    ("exact", "options", "full"),
    [(False, {}, True), (True, {"old_logprobs": "recompute"}, True), (True, {}, False)],
)
def test_otherwise_one_forward_pass_gives_them(exact: bool, options: dict[str, str], full: bool) -> None:
    trainer = Trainer()
    found = run(batch(full=full), trainer, exact=exact, **options)
    assert np.allclose(found.per_token["old"][0][0], [-0.9, -2.9])
    assert trainer.asked == 18
    assert found.metrics["rollout/gap_max"][0] == pytest.approx(0.1, abs=1e-6)


def test_asked_for_the_engines_are_taken_though_they_are_not_exact() -> None:
    found = run(batch(), Trainer(), exact=False, old_logprobs="engine")
    assert found.per_token["old"][0][1].tolist() == [-0.5]


def test_a_single_step_needs_none() -> None:
    """The loss's own log-probs are the old ones then; the gap is still measured on a few answers."""
    trainer = Trainer()
    found = run(batch(), trainer, exact=False, needed=False, single=True)
    assert "old" not in found.per_token
    assert trainer.asked == 2
    assert "rollout/gap_mean" in found.metrics
    assert "old" in run(batch(), Trainer(), exact=False, needed=False, single=True, correction="token_mask").per_token


def test_weights_are_laid_out_like_targets() -> None:
    found = run(batch(), Trainer(), exact=False, correction="sequence_truncate", correction_cap=1.15)
    weights = found.per_token["correction"][0]
    assert [len(w) for w in weights] == [2, 1, 2]
    assert np.allclose(weights[0], 1.15)  # e^0.2 is above the cap
    assert np.allclose(weights[1], np.exp(0.1))
    assert found.metrics["rollout/corrected"] == (6 * 4.0, 6 * 5.0)  # the answer of one token is below the cap


def test_answers_without_sampling_logprobs_cannot_be_compared() -> None:
    found = batch(full=False)
    scorer = Trainer()
    set_old_logprobs(found, RolloutSection(), scorer, exact=False, needed=True, single=False)
    for group in found.groups:
        for c in group.completions:
            c.sampling_logprobs = None
    greedy = Batch(found.groups)
    old = [[Scored(logprobs=np.float32(np.zeros(c.action_mask.sum()))) for c in g.completions] for g in found.groups]
    set_old_logprobs(greedy, RolloutSection(), lambda role, groups: old, exact=False, needed=True, single=False)
    assert "rollout/gap_mean" not in greedy.metrics


LOGS = np.float32(np.log([0.5, 1.0, 3.0]))
ZEROS = np.zeros(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("none", [1, 1, 1]),
        ("token_truncate", [0.5, 1, 2]),  # the oracle: (.5, 1, 3) with C = 2
        ("token_mask", [0.5, 1, 0]),
        ("sequence_truncate", [1.5, 1.5, 1.5]),
        ("sequence_mask", [1.5, 1.5, 1.5]),
        ("geometric_truncate", [1.5 ** (1 / 3)] * 3),
        ("geometric_mask", [1.5 ** (1 / 3)] * 3),
    ],
)
def test_importance_weights(correction, expected) -> None:
    assert np.allclose(importance_weights(LOGS, ZEROS, correction, 2.0, 0.4), expected, rtol=1e-6)


def test_masks_reject_below_the_floor_and_above_the_cap() -> None:
    for sign in (1.0, -1.0):
        far = np.full(3, sign, dtype=np.float32)
        assert not importance_weights(far, ZEROS, "sequence_mask", 2.0, 0.5).any()
    assert np.isfinite(importance_weights(np.float32([1000.0]), np.float32([0.0]), "token_truncate", 5.0, 0.5)).all()


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("how", ["truncate", "mask"])
def test_equal_policies_change_nothing(level: str, how: str) -> None:
    assert importance_weights(LOGS, LOGS, f"{level}_{how}", 2.0, 0.5).tolist() == [1.0, 1.0, 1.0]  # type: ignore[arg-type]


def test_gap_statistics() -> None:
    found = gap_statistics([np.float32([0.0, 0.2]), np.float32([-0.1])], [np.float32([0.0, 0.0]), np.float32([0.0])])
    assert found["gap_mean"] == pytest.approx(0.1)
    assert found["gap_max"] == pytest.approx(0.2)
    k3 = [0.0, np.exp(0.2) - 1.2, np.exp(-0.1) - 0.9]
    assert found["gap_k3"] == pytest.approx(np.mean(k3), abs=1e-7)
    w = np.exp([0.2, -0.1])
    assert found["ess"] == pytest.approx(w.sum() ** 2 / (w**2).sum() / 2, abs=1e-6)
    assert gap_statistics([], []) == {"gap_mean": 0.0, "gap_max": 0.0, "gap_k3": 0.0, "ess": 1.0}
