"""`plaudit reward-model`, on models that `plaudit reward` has trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.api import (
    average_reward_models,
    ensemble_reward_models,
    load_reward_model,
    normalise_reward_model,
    score_answers,
)
from plaudit.errors import ConfigError, ModelError
from plaudit.rewards.models.normalisation import measure
from tests.conftest import Ended

ROWS = [
    {"prompt": f"Which colour is thing {i}?", "chosen": f"It is {'blue' if i % 2 else 'green'}.", "rejected": "No."}
    for i in range(12)
]


@pytest.fixture
def run(call_plaudit: Callable[..., Ended]) -> Callable[..., Ended]:
    """Runs `plaudit reward-model …` in this process."""
    return partial(call_plaudit, "reward-model")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[Path]:
    """Two runs of one start that saw the data in another order, and one with LoRA; with a system prompt."""
    folder = tmp_path_factory.mktemp("runs")
    found = []
    for name, options in {"a": {"seed": 1}, "b": {"seed": 2}, "lora": {"lora_r": 4}}.items():
        done = plaudit.train(
            "reward",
            model=str(tiny_model_dir),
            data=ROWS,
            eval_data=[{"prompt": [{"role": "user", "content": r["prompt"]}],
                        "chosen": [{"role": "assistant", "content": r["chosen"]}],
                        "rejected": [{"role": "assistant", "content": r["rejected"]}]} for r in ROWS[:4]],
            output_dir=str(folder / name),
            max_steps=6,
            groups_per_step=4,
            learning_rate=3e-3,
            system_prompt="Be right.",
            observers=(),
            **options,
        )  # fmt: skip
        found.append(done.run_dir)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


@pytest.mark.parametrize("number", [0, 2])
def test_a_run_gives_the_scores_of_its_own_last_evaluation(runs: list[Path], number: int) -> None:
    lines = [json.loads(line) for line in (runs[number] / "samples.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["step"] == lines[-1]["step"]]
    model = load_reward_model(runs[number])
    assert len(last) >= 4
    for line in last:
        prompt = next(r["prompt"] for r in ROWS if r["prompt"] in line["prompt"])
        assert "Be right." in line["prompt"]  # and the model reads it again, without being told
        mine = model.score([([{"role": "user", "content": prompt}], [line["completion"]])])[0][0]
        assert mine == pytest.approx(line["reward"], abs=5.1e-5)  # four digits are written


def test_score_writes_rows(run: Any, runs: list[Path], data: Path, tmp_path: Path) -> None:
    shown = run("score", runs[0], data)
    assert shown.status == 0, shown.err
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [{k: r[k] for k in ROWS[0]} for r in rows] == ROWS
    assert all(r["chosen_score"] > r["rejected_score"] for r in rows)  # it has learned that much
    assert "scored 24 answers of 12 rows" in shown.err
    done = run("score", runs[0], data, data, "-o", tmp_path / "out.jsonl")
    assert done.status == 0
    assert "scored 48 answers of 24 rows" in done.out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 24
    given = list(score_answers(load_reward_model(runs[0]), ROWS))
    assert given[0]["chosen_score"] == pytest.approx(rows[0]["chosen_score"], abs=1e-6)


def test_scored_rows_can_be_evaluated(run: Any, runs: list[Path], data: Path, tmp_path: Path) -> None:
    run("score", runs[0], data, "-o", tmp_path / "out.jsonl")
    evaluation = plaudit.api.evaluate_reward(None, str(tmp_path / "out.jsonl"))
    assert evaluation.accuracy.accuracy.value == 1.0


def test_normalise_in_place_and_as_a_copy(run: Any, runs: list[Path], data: Path, tmp_path: Path) -> None:
    copied = run("normalise", runs[1], data, "--std", "2", "-o", tmp_path / "copy")
    assert copied.status == 0, copied.err
    assert "24 reference answers" in copied.out
    assert "mean 0 and std 2" in copied.out
    scores = [s for r in score_answers(tmp_path / "copy", ROWS) for s in (r["chosen_score"], r["rejected_score"])]
    assert (measure(scores).mean, measure(scores).std) == (pytest.approx(0, abs=1e-5), pytest.approx(2, abs=1e-5))
    assert load_reward_model(runs[1]).normalisation.is_identity
    kept = run("normalise", runs[1], data)
    assert f"kept in {runs[1] / 'model' / 'plaudit.json'}" in kept.out
    model = load_reward_model(runs[1])
    assert (model.normalisation.gain, model.normalisation.measured.data) == (1.0, (str(data),))  # type: ignore[union-attr]
    origin = json.loads((runs[1] / "model" / "plaudit.json").read_text())
    assert origin["start_fingerprint"]  # what was there is still there


def test_a_copy_keeps_the_system_prompt(runs: list[Path], tmp_path: Path) -> None:
    done = normalise_reward_model(runs[0], ROWS, output=tmp_path / "copy")
    messages = [([{"role": "user", "content": "Sky?"}], ["Blue."])]
    assert load_reward_model(tmp_path / "copy").score(messages) == done.model.score(messages)
    plain = load_reward_model(tmp_path / "copy")
    assert plain.layout.renderer.template._system.content == "Be right."  # type: ignore[attr-defined]


def test_the_bare_model_folder_keeps_the_system_prompt_too(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0] / "model", tmp_path / "elsewhere")
    messages = [([{"role": "user", "content": "Sky?"}], ["Blue.", "Green."])]
    moved = load_reward_model(tmp_path / "elsewhere")
    assert moved.raw_score(messages) == load_reward_model(runs[0]).raw_score(messages)
    assert moved.layout.renderer.template._system.content == "Be right."  # type: ignore[attr-defined]


def test_ensemble_and_average(run: Any, runs: list[Path], data: Path, tmp_path: Path) -> None:
    made = run(
        "ensemble", tmp_path / "both", *runs, "--reference", data, "--combine", "uwo", "--uncertainty-weight", "0.1"
    )
    assert made.status == 0, made.err
    assert "combined by uwo (uncertainty weight 0.1)" in made.out
    scored = run("score", tmp_path / "both", data)
    assert "members disagree 1 times as much as on the reference set" in scored.err
    mean = run("average", tmp_path / "mean", *runs, "--check", data)
    assert mean.status == 0, mean.err
    assert "accuracy on 12 pairs: average 1.0000" in mean.out
    members = [load_reward_model(r).raw_score([("Sky?", ["Blue."])])[0][0] for r in runs]
    found = load_reward_model(tmp_path / "mean").score([("Sky?", ["Blue."])])[0][0]
    assert min(members) < found < max(members)


def test_the_same_through_python(runs: list[Path], tmp_path: Path) -> None:
    built = ensemble_reward_models(tmp_path / "both", runs[:2], ROWS, combine="min")
    assert built.ensemble.how == "min"
    averaged = average_reward_models(tmp_path / "mean", runs[:2], check=ROWS)
    assert averaged.accuracy == 1.0


def test_a_model_of_the_hub_needs_a_folder(tmp_path: Path, foreign_dir: Path, data: Path) -> None:
    """From a cache of the hub, without a network: no folder of ours to keep anything in, unless one is named."""
    cached = tmp_path / "hub" / "models--some--reward"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).symlink_to(foreign_dir)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "plaudit", "reward-model", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    refused = call("normalise", "some/reward", str(data))
    assert refused.returncode == 2
    assert "[PL702] the model is not in a folder" in refused.stderr
    done = call("normalise", "some/reward", str(data), "--output", "copy")
    assert done.returncode == 0, done.stderr
    copy, there = load_reward_model(tmp_path / "copy"), load_reward_model(foreign_dir)
    item = [("Sky?", ["Blue."])]
    assert copy.raw_score(item)[0] == pytest.approx(there.raw_score(item)[0], abs=1e-6)
    assert copy.normalisation.bias != 0


def test_mistakes(run: Any, runs: list[Path], data: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    for arguments, what in [
        (("score", tiny_model_dir, data), "[PL701]"),
        (("score", runs[0], tmp_path / "nothing.jsonl"), "[PL201]"),
        (("score", runs[0], data, "--overlong", "cut"), "[PL102]"),
        (("score", runs[0], data, "--invalid", "maybe"), "[PL102]"),
        (("score", runs[0], data, "-o", tmp_path / "no" / "out.jsonl"), "[PL102]"),
        (("normalise", runs[0], data, "--std", "0"), "[PL702]"),
        (("normalise", runs[0], data, "-o", runs[0]), "[PL102]"),
        (("ensemble", tmp_path / "e", runs[0], "--reference", data), "[PL703]"),
        (("ensemble", tmp_path / "f", *runs, "--reference", data, "--combine", "max"), "[PL102]"),
        (("average", tmp_path / "g", runs[0]), "[PL704]"),
    ]:
        ended = run(*arguments)
        assert (ended.status, what in ended.err) == (2, True), (arguments, ended)
    with pytest.raises(ConfigError, match="no option 'token'"):
        load_reward_model(runs[0], token=3)
    with pytest.raises(ConfigError, match="at least 1"):
        load_reward_model(runs[0], tokens=0)


def test_a_lora_runs_adapter_is_merged_already(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"PL306.*merged already(.|\n)*lora/model as it is"):
        plaudit.merge(runs[2], tmp_path / "merged")
