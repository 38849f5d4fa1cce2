"""`plaudit harden` in the small world: a hacked reward model is no longer taken in by what hacked it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.facts import facts_of, stated
from benchmarks.facts_model import Taught, judge
from benchmarks.hardening import GOLD, LATE, drawn, fooled, hackable, harden, optimise, policy_of


@pytest.mark.slow
def test_what_over_optimised_it_does_not_win_any_more(world: Taught, tmp_path: Path) -> None:
    """Half of the raters like length; PPO finds answers that the facts call worse, and hardening with gold rejects
    them, on prompts that neither PPO nor the reward model was trained on."""
    reward, _ = hackable(world, tmp_path, 0)
    late = optimise(world, reward, tmp_path / "late", seed=0, batches=LATE)
    hacked = drawn(world, late, 0)
    assert policy_of(hacked).gold < 1.5  # the taught model's is 1.7
    before = fooled(world, reward, hacked)
    assert before.worse_preferred > 0.9
    done = harden(reward, [late.run_dir], tmp_path / "out", gold=GOLD)
    assert done.reward is not None
    after = fooled(world, done.reward, hacked)
    assert after.worse_preferred < 0.3, (before, after)
    (entry,) = done.rounds
    assert entry.before is not None
    assert entry.after is not None
    assert entry.before.beats_held_out == 1.0
    assert entry.after.beats_held_out is not None
    assert entry.after.beats_held_out < 0.2, entry
    assert judge(world, done.reward).accuracy > judge(world, reward).accuracy - 0.05
    # What was added is worse by the facts; what is as good as the chosen answer was seen, and left out.
    rows = [json.loads(line) for line in (tmp_path / "out" / "adversarial.jsonl").read_text().splitlines()]
    assert len(rows) > 100
    assert all(_facts(row["prompt"], row["chosen"]) > _facts(row["prompt"], row["rejected"]) for row in rows)
    assert sum(p.right for p in entry.found.policies) > 0


def _facts(prompt: str, answer: str) -> int:
    """How many slots are stated once and rightly."""
    said = stated(answer.strip())
    return sum(said[slot] == [value] for slot, value in facts_of(prompt).items())
