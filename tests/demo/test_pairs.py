"""How the pairs are made, and that the files in the repository are what the script makes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from make_pairs import SHARPNESS, SMALLEST_GAP, is_heldout, make_pair, write_files
from rule import preference_probability, reward

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


def read(name: str) -> list[dict[str, Any]]:
    return read_file(DEMO / f"{name}.jsonl")


def read_file(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def question(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])


def sampled(text: str, *answers: tuple[str, bool]) -> dict[str, Any]:
    return {"question": text, "topic": "t", "answers": [{"text": a, "finished": f} for a, f in answers]}


GOOD, BAD = ("A galaxy is a system of stars.", True), ("Well now let us see", False)


def test_labels_follow_bradley_terry() -> None:
    gap = reward("What is a galaxy?", *GOOD) - reward("What is a galaxy?", *BAD)
    row, random = sampled("What is a galaxy?", BAD, GOOD), Random(0)
    pairs = [make_pair(row, random) for _ in range(5000)]
    right = sum(p is not None and p["chosen"][0]["content"] == GOOD[0] for p in pairs) / 5000
    expected = preference_probability(gap, SHARPNESS)
    assert abs(right - expected) < 4 * (expected * (1 - expected) / 5000) ** 0.5


def test_a_pair_is_best_against_worst() -> None:
    middle = ("A galaxy is a system of stars", True)
    pair = make_pair(sampled("What is a galaxy?", middle, BAD, GOOD), Random(0))
    assert pair is not None
    assert {pair["chosen"][0]["content"], pair["rejected"][0]["content"]} == {GOOD[0], BAD[0]}


def test_no_pair_without_a_gap_and_no_label_moves_when_a_row_is_dropped() -> None:
    rows = [sampled(f"What is galaxy {i}?", BAD, GOOD) for i in range(50)]
    empty = sampled("What is nothing?", BAD, BAD)
    assert make_pair(empty, Random(0)) is None
    alone, beside = Random(1), Random(1)
    first = [make_pair(row, alone) for row in rows]
    second = [make_pair(row, beside) for row in [*rows[:10], empty, *rows[11:]]]
    assert second[10] is None
    assert first[11:] == second[11:]


def test_files_split_by_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files([sampled(f"What is galaxy {i}?", BAD, GOOD) for i in range(200)], tmp_path, Random(0))
    train, heldout = ({question(r) for r in read_file(tmp_path / f)} for f in ("pairs.jsonl", "heldout_pairs.jsonl"))
    assert not train & heldout
    assert len(train) + len(heldout) == 200
    assert 0.15 < len(heldout) / 200 < 0.35
    assert "wrong by the rule" in capsys.readouterr().out


def test_kept_pairs_hold_out_whole_questions() -> None:
    train, heldout = {question(r) for r in read("pairs")}, {question(r) for r in read("heldout_pairs")}
    prompts = [question(r) for r in read("heldout_prompts")]
    assert not train & heldout
    assert not train & set(prompts)
    assert heldout <= set(prompts)
    assert len({p.lower() for p in prompts}) == len(prompts)
    assert not any(map(is_heldout, train))
    assert all(map(is_heldout, prompts))


@pytest.mark.parametrize("name", ["pairs", "heldout_pairs"])
def test_kept_pairs_carry_the_reward_of_the_rule(name: str) -> None:
    rows = read(name)
    for row in rows:
        for side in ("chosen", "rejected"):
            expected = reward(question(row), row[side][0]["content"], row[f"{side}_finished"])
            assert row[f"reward_{side}"] == pytest.approx(expected, abs=6e-4)
        assert abs(row["reward_chosen"] - row["reward_rejected"]) >= SMALLEST_GAP - 2e-3


def test_kept_labels_have_about_the_stated_noise() -> None:
    rows = read("pairs") + read("heldout_pairs")
    wrong = sum(r["reward_chosen"] < r["reward_rejected"] for r in rows)
    chances = [1 - preference_probability(abs(r["reward_chosen"] - r["reward_rejected"]), SHARPNESS) for r in rows]
    assert wrong == pytest.approx(sum(chances), abs=4 * sum(c * (1 - c) for c in chances) ** 0.5)


def test_kept_files_are_small() -> None:
    assert sum(f.stat().st_size for f in DEMO.iterdir() if f.is_file()) < 1_000_000
