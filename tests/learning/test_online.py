"""Online methods make a known reward rise on prompts they have not seen; small copies of benchmarks/online_learning.py.

The default run gives each method a few optimiser steps on the gold reward. The slow run trains on a verifier until most
sums are right, and against a trained reward model, with the gold reward as the judge.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import arithmetic
from benchmarks.facts_model import Taught, play
from benchmarks.online_learning import BUDGET, GOLD, gold_trial, online_facts

DEFAULT_RUN = ("ppo", "grpo", "online_dpo", "raft")
"""A critic, a group's mean, pairs, and the best answers imitated. The others differ from one of these in how an
advantage is made or a ratio clipped: what they compute is tested number by number, and they learn in the slow run."""


@pytest.mark.parametrize("method", [pytest.param(m, marks=() if m in DEFAULT_RUN else pytest.mark.slow) for m in GOLD])
def test_it_learns_what_is_rewarded(method: str, world: Taught, tmp_path: Path) -> None:
    reward = "benchmarks.online_learning:facts_reward"
    result = online_facts(method, world, tmp_path / "run", seed=0, reward=reward, steps=8)
    found = play(world, result.model, result.tokenizer, 0)
    assert found.win.rate.low > 0.55, found
    assert found.well_formed > 0.85, found
    assert abs(found.tokens - 14.5) < 1.5, found  # by the facts, and not by its length


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, arithmetic.Marks]:
    """The warm start in the world of sums."""
    return arithmetic.warm_start(tmp_path_factory.mktemp("sums"), 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_sums_with_a_verifier(method: str, start: tuple[Path, arithmetic.Marks], tmp_path: Path) -> None:
    folder, before = start
    assert before.known < 0.3
    assert before.held_out < 0.3
    found = arithmetic.trial(method, folder, before, tmp_path / "run", seed=0)
    assert found.after.known > 0.75, found
    assert found.after.held_out > before.held_out + 0.05, found
    assert found.own_after > found.own_before + 0.4, found


@pytest.mark.slow
@pytest.mark.parametrize("method", GOLD)
def test_a_trained_reward_model(method: str, world: Taught, tmp_path: Path) -> None:
    found = gold_trial(method, world, tmp_path, 0)
    assert found.reward_model > 0.7, found
    assert found.win_low > 0.5, found
    assert found.proxy_after > found.proxy_before, found
    assert found.kl < BUDGET, found
    assert found.well_formed > 0.8, found
