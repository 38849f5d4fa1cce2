"""REINFORCE++: normalised over the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from plaudit.errors import TrainingError
from plaudit.methods.reinforce_pp import ReinforcePP, ReinforcePPConfig
from tests.methods.test_grpo import batch_of, prepare

CASES = {
    "baseline": {"baseline": "group"},
    "no KL": {"kl_weight": 0.0, "truncated": "subtract", "truncated_penalty": 0.5},
}


def flat(batch) -> np.ndarray:
    return np.concatenate([a for row in batch.per_token["advantage"] for a in row]).astype(np.float64)


def test_the_whole_batch_has_mean_0_and_deviation_1() -> None:
    for options in ({}, {"baseline": "group"}):
        batch = prepare(ReinforcePP(ReinforcePPConfig(**options)), batch_of([[1, 0, 0.5, 0], [0.2, 0.9, 0, 0]]))
        assert flat(batch).mean() == pytest.approx(0, abs=1e-6)
        assert flat(batch).std() == pytest.approx(1, abs=1e-5)


def test_later_penalties_count_for_earlier_tokens() -> None:
    """A_t = r − β Σ_{i ≥ t} k1: before normalising, 1 − .1 · .5 · (2, 1) and 0 − .1 · .5 · (3, 2, 1)."""
    batch = prepare(ReinforcePP(ReinforcePPConfig(kl_weight=0.1)), batch_of([[1.0], [0.0]], lengths=(2,)))
    raw = np.array([0.9, 0.95, -0.1, -0.05])
    assert flat(batch) == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-5)


def test_the_baseline_variant_has_its_kl_in_the_loss() -> None:
    method = ReinforcePP(ReinforcePPConfig(baseline="group"))
    batch = prepare(method, batch_of([[1.0, 0.0]], lengths=(1, 1)))
    assert flat(batch) == pytest.approx([1, -1])
    assert method.coefficients()["kl"] == 0.01
    assert "reference" in batch.per_token
    plain = ReinforcePP()
    assert plain.coefficients()["kl"] == 0
    assert plain.needs_old


@pytest.mark.parametrize("options", [{"baseline": "group"}, {"kl_weight": 0.0}])
def test_rewards_are_scaled_once(options) -> None:
    with pytest.raises(ValidationError, match="reward_scale: batch has no effect"):
        ReinforcePPConfig(reward_scale="batch", **options)
    ReinforcePPConfig(reward_scale="batch", truncated="replace", **options)
    ReinforcePPConfig(reward_scale="batch")  # beside the KL in the reward it counts
    rewards = [[3.0, 0, 0, 5], [1, 2, 0, 7]]
    plain, scaled = (
        ReinforcePPConfig(**options),
        ReinforcePPConfig(reward_scale="batch", truncated="replace", **options),
    )
    found = [flat(prepare(ReinforcePP(config), batch_of(rewards))) for config in (plain, scaled)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_one_answer_is_no_baseline() -> None:
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*completions_per_prompt"):
        prepare(ReinforcePP(ReinforcePPConfig(baseline="group")), batch_of([[1.0]]))
