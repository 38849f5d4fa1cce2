"""What a scorer says does not depend on what it was asked before: a run that goes on has forgotten it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plaudit.config.schema import RewardSection
from plaudit.online.scoring import RewardScorer, read_reward, step_rewards
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


class Letters:
    """Token 0 is special and writes nothing; token n writes n letters."""

    def decode(self, ids: object, skip_special_tokens: bool = False) -> str:
        return "".join("a" * int(i) for i in ids)  # type: ignore[attr-defined]


def test_a_step_ends_at_the_token_that_writes_its_last_character() -> None:
    answer = Completion(np.array([2, 1, 3, 0], dtype=np.int32), np.ones(4, dtype=bool))
    steps = [(1, 0.5), (2, 0.25), (3, 1.0), (4, 2.0), (6, 4.0), (99, 8.0)]
    assert step_rewards(answer, steps, Letters()) == ((0, 0.75), (1, 1.0), (2, 6.0), (3, 8.0))
    nothing = Completion(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=bool))
    assert step_rewards(nothing, steps, Letters()) == ()


def test_the_greedy_answer_is_scored_with_the_others_and_apart(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("def long(completion):\n    return len(completion) or None\n")
    spec = read_reward(RewardSection(rewards=[f"{tmp_path / 'long.py'}:long"], retries=0, max_error_fraction=1.0))
    assert spec is not None
    several, failed = group("a", "bb"), group("a")
    several.greedy, failed.greedy = group("ccc").completions[0], group("").completions[0]
    pairs = list(RewardScorer(spec).score([several, failed], 2))
    assert [[r.value for r in found.results] for _, found in pairs] == [[1, 2], [1]]
    assert pairs[0][1].greedy is not None
    assert pairs[0][1].greedy.value == 3
    assert [found.usable for _, found in pairs] == [True, False]
