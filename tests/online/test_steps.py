"""Process supervision in a run: rewards of steps go from the reward function to the tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaudit.errors import TrainingError
from tests.online.conftest import Run, metrics_of
from tests.train import runs

REWARDING = Path(runs.__file__).with_name("rewarding.py")


def test_a_run_learns_from_steps(train: Run) -> None:
    result = train(
        method="grpo",
        method__supervision="process",
        reward__rewards=[f"{REWARDING}:words"],
        train__max_steps=2,
        train__epochs=None,
    )
    first = metrics_of(result)[0]
    assert 0 <= first["advantages/without_steps"] < 1
    assert first["advantages/std"] > 0
    assert first["grad_norm"] > 0


def test_a_reward_without_steps_is_refused(train: Run) -> None:
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*rewards of steps(.|\n)*reward\.rewards"):
        train(method="dr_grpo", method__supervision="process")
