"""Rewards that fail one time in ten: the run goes on, and what it learns from is what it would have learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.online.conftest import Run, metrics_of
from tests.train import runs
from tests.train.rewarding import vowels

_FAILING = """
import time
from tests.train.rewarding import vowels as right

calls = 0


def vowels(completion, **columns):
    global calls
    calls += 1
    which = calls // 10 % 3 if calls % 10 == 0 else None
    if which == 0:
        raise RuntimeError("injected")
    if which == 1:
        time.sleep(1.5)
    return float("nan") if which == 2 else right(completions=[completion])[0]
"""


@pytest.fixture
def failing(tmp_path: Path) -> dict[str, Any]:
    """Every tenth call raises, takes too long or returns NaN."""
    path = tmp_path / "failing.py"
    path.write_text(_FAILING)
    return {"kind": "function", "function": f"{path}:vowels", "timeout": 0.5}


def test_with_retries_the_run_is_the_one_without_failures(train: Run, failing: dict[str, Any]) -> None:
    told = [metrics_of(train(name, **more)) for name, more in (("a", {}), ("b", {"reward__rewards": [failing]}))]
    retried = [[line.pop("rewards/retried") for line in lines if "rewards/retried" in line] for lines in told]
    assert not any(retried[0])
    assert 0.05 < sum(retried[1]) / len(retried[1]) < 0.2
    right, injected = ([runs.without_timing(line) for line in lines] for lines in told)
    assert injected == right


def test_without_retries_groups_are_left_out_and_no_value_is_made_up(
    train: Run, failing: dict[str, Any], tmp_path: Path
) -> None:
    more = {"reward__retries": 0, "reward__max_error_fraction": 0.5, "rollout__save": str(tmp_path / "r.jsonl")}
    result = train(reward__rewards=[failing], **more)
    lines = metrics_of(result)
    errors, excluded = (
        [line[name] for line in lines if name in line] for name in ("rewards/error_rate", "rewards/excluded")
    )
    assert 0.05 < sum(errors) / len(errors) < 0.2
    assert 0 < sum(excluded) / len(excluded) < 1
    answers = [a for row in runs.lines(tmp_path / "r.jsonl")[1:] for a in row["completions"]]
    given = [(a["text"], a["reward"]) for a in answers if a.get("reward") is not None]
    assert len(answers) / 3 < len(given) < len(answers)
    assert all(reward == vowels(completions=[text])[0] for text, reward in given)
