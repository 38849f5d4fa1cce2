"""What a scorer says does not depend on what it was asked before: a run that goes on has forgotten it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plaudit.config.schema import RewardSection
from plaudit.online.scoring import RewardScorer, read_reward
from plaudit.rewards.cache import Cached
from plaudit.types import Completion, PromptGroup

PROMPT = np.arange(4, dtype=np.int32)


def group(*texts: str) -> PromptGroup:
    completions = [Completion(PROMPT, np.ones(4, dtype=bool), finish_reason="stop", text=text) for text in texts]
    return PromptGroup(PROMPT, completions, prompt="Which colour?")


def values(scorer: RewardScorer, *groups: PromptGroup) -> list[float]:
    return [result.value for _, found in scorer.score(groups, len(groups)) for result in found.results]


@pytest.fixture
def section(reward_run: Path) -> RewardSection:
    return RewardSection(rewards=[str(reward_run)])


def test_scores_are_the_same_bits_after_other_answers(section: RewardSection) -> None:
    texts = [f"It is {colour}." for colour in ("red", "blue", "a very dark and rather greenish grey", "green")]
    batch = group(*texts)
    spec = read_reward(section)
    assert spec is not None
    fresh = values(RewardScorer(spec), batch)
    for text in texts:
        seen = read_reward(section)
        assert seen is not None
        scorer = RewardScorer(seen)
        values(scorer, group(text))
        assert values(scorer, batch) == fresh


def test_only_rewards_with_the_same_bits_everywhere_are_remembered(section: RewardSection) -> None:
    spec = read_reward(section.model_copy(update={"rewards": [*section.rewards, "math"]}))
    assert spec is not None
    kept = {type(p.reward.inner).__name__: p.reward.size for p in spec.reward.parts if isinstance(p.reward, Cached)}
    assert kept["ModelReward"] == 0
    assert min(size for name, size in kept.items() if name != "ModelReward") == 100_000
