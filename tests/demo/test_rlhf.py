"""The second half of the demo: its small world, its preferences, and the script from its first line to its last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

RLHF = Path(__file__).resolve().parents[2] / "examples" / "rlhf"
sys.path.insert(0, str(RLHF))

import sign_data  # noqa: E402
import signs  # noqa: E402

PROMPT = "a red fox from kenya"


@pytest.mark.parametrize(
    ("answer", "ended", "reward"),
    [
        ("home kenya . animal fox . coat red .", True, 3),
        ("coat red .", True, 1),
        ("coat red . coat red .", True, 0),  # said twice counts once
        ("coat red . animal owl .", True, 0),
        ("coat grey . animal owl .", True, -2),
        ("coat red . animal fox", True, 0),  # the last sentence has no end
        ("coat red . animal fox .", False, 1),
        ("", True, 0),
    ],
)
def test_gold_reward(answer: str, ended: bool, reward: int) -> None:
    assert signs.gold_reward(PROMPT, answer, ended) == reward


def test_no_held_out_prompt_is_trained_on() -> None:
    training, held_out = signs.prompts()
    assert len(held_out) == signs.HELD_OUT
    assert len({*training, *held_out}) == len(training) + len(held_out) == 8**3
    assert all(signs.gold_reward(p, signs.demonstration(p, Random(0), 1.0, 0.0), True) == 3 for p in held_out)


def sampled(*texts: str) -> list[dict[str, Any]]:
    return [{"prompt": PROMPT, "completion": text, "finish_reason": "stop"} for text in texts]


def test_annotators_compare_the_best_with_the_worst_and_err_as_bradley_terry_says() -> None:
    rows = sampled("coat grey .", "coat red .", "", "animal owl .", "animal fox .")
    pairs = [pair for seed in range(2000) for pair in sign_data.compared(rows, seed)]
    assert len(pairs) == 4000
    assert {frozenset((p["chosen"], p["rejected"])) for p in pairs} == {
        frozenset((" coat red .", " animal owl .")),
        frozenset((" animal fox .", " coat grey .")),
    }
    right = sum(signs.gold_reward(PROMPT, pair["chosen"], True) > 0 for pair in pairs) / len(pairs)
    expected = signs.preference_probability(2)
    assert abs(right - expected) < 4 * (expected * (1 - expected) / len(pairs)) ** 0.5


def test_equally_good_answers_are_not_compared() -> None:
    assert sign_data.compared(sampled("coat red .", "animal fox ."), 0) == []


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(RLHF / "run_rlhf.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "What RLHF changed" in done.stdout
    folder = tmp_path / "runs" / "rlhf"
    numbers = json.loads((folder / "rlhf.json").read_text(encoding="utf-8"))
    assert numbers["reward_model"]["low"] > 0.6
    assert numbers["win_rate"]["rate"]["low"] > 0.7
    assert numbers["gold"]["ppo"]["low"] > numbers["gold"]["sft"]["high"] + 1
    assert 0 < numbers["kl"]["value"] < 4
    for step in ("sft", "reward", "ppo"):
        assert (folder / step / "report.html").is_file()
