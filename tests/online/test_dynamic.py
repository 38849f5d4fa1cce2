"""Dynamic sampling, curricula and tasks in whole runs of a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError, DataError, TrainingError
from tests.online.conftest import Run, metrics_of
from tests.train import runs


@pytest.fixture
def one_in_three(tmp_path: Path) -> str:
    """Answers to every third prompt get different rewards; the others all 0."""
    path = tmp_path / "third.py"
    path.write_text(
        "import zlib\n"
        "def third(completion, row):\n"
        "    if int(row['number']) % 3:\n        return 0.0\n"
        "    return (zlib.crc32(completion.encode()) % 1000) / 1000\n",
        encoding="utf-8",
    )
    return f"{path}:third"


@pytest.fixture
def numbered(tmp_path: Path, prompts: Path) -> list[dict[str, Any]]:
    """The prompts, 24 of them, with their number and a task."""
    rows = [
        {**row, "number": i, "task": "odd" if i % 2 else "even"} for i, row in enumerate(runs.rows_of("prompt", 24))
    ]
    runs.write_rows(prompts, rows)
    return rows


def test_a_batch_is_filled_with_prompts_that_teach(
    train: Run, one_in_three: str, numbered: list[dict[str, Any]], tmp_path: Path
) -> None:
    saved = tmp_path / "rollouts.jsonl"
    result = train(
        reward__rewards=[one_in_three],
        rollout__dynamic_sampling=True,
        rollout__save=str(saved),
        rollout__prompts_per_batch=4,
        train__max_steps=3,
    )
    lines = metrics_of(result)
    batches: dict[int, list[int]] = {}
    for row in runs.lines(saved)[1:]:
        batches.setdefault(row["rollout"], []).append(int(row["row"]["number"]))
    assert len(batches) == 3
    for numbers, line in zip(batches.values(), lines, strict=True):
        assert len(numbers) >= 4  # as many as a step has, and all of them teach
        assert len(set(numbers)) == len(numbers)
        assert all(number % 3 == 0 for number in numbers)
        assert line["rollout/unfilled"] == 0
        assert line["rollout/rounds"] > 1
        assert 0.1 < line["rollout/acceptance"] < 0.9
        # What was sampled and replaced is part of what the log says.
        assert line["frac_reward_zero_std"] == pytest.approx(1 - line["rollout/acceptance"])


def test_a_batch_that_cannot_be_filled_is_trained_on_as_it_is(
    train: Run, one_in_three: str, numbered: list[dict[str, Any]]
) -> None:
    """Eight of 24 prompts teach, and twelve are wanted: all prompts are asked, once each, and the run goes on."""
    options: dict[str, Any] = {
        "train__groups_per_step": 12,
        "rollout__prompts_per_batch": 12,
        "train__max_steps": 2,
        "rollout__dynamic_rounds": 20,
    }
    lines = metrics_of(train(reward__rewards=[one_in_three], rollout__dynamic_sampling=True, **options))
    assert [line["rollout/unfilled"] for line in lines] == pytest.approx([4 / 12] * 2)
    assert [line["rollout/acceptance"] for line in lines] == pytest.approx([8 / 24] * 2)
    few = metrics_of(train("few", reward__rewards=[one_in_three], rollout__dynamic_sampling=True,
                           **options | {"rollout__dynamic_rounds": 1}))  # fmt: skip
    assert all(line["rollout/rounds"] == 2 for line in few)


def test_where_nothing_teaches_the_run_says_so_and_goes_on(train: Run, tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text("def flat(completion):\n    return 1.0\n", encoding="utf-8")
    reward = [f"{tmp_path / 'flat.py'}:flat"]
    changes = {"rollout__prompts_per_batch": 4, "train__max_steps": 2}
    result = train(reward__rewards=reward, rollout__dynamic_sampling=True, **changes)
    lines = metrics_of(result)
    assert [line["rollout/acceptance"] for line in lines] == [0, 0]
    assert [line["rollout/idle_steps"] for line in lines] == [1, 1]


def test_a_curriculum_asks_for_what_can_be_learned(
    train: Run, one_in_three: str, numbered: list[dict[str, Any]], tmp_path: Path
) -> None:
    saved = tmp_path / "rollouts.jsonl"
    changes = {"rollout__curriculum_uniform": 0.05, "rollout__curriculum": "learnability", "train__epochs": 10.0,
                   "rollout__prompts_per_batch": 4}  # fmt: skip
    train(reward__rewards=[one_in_three], rollout__pass_threshold=0.5, rollout__save=str(saved), **changes)
    numbers = [int(row["row"]["number"]) for row in runs.lines(saved)[1:]]
    early, late = numbers[:24], numbers[-160:]
    share = [sum(n % 3 == 0 for n in part) / len(part) for part in (early, late)]
    assert share[1] > 0.5  # a third of the prompts
    assert share[0] < share[1]


def test_a_curriculum_needs_to_know_what_passes(train: Run, tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text("def far(completion):\n    return 7.0\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"outside of 0 … 1"):
        train(reward__rewards=[f"{tmp_path / 'far.py'}:far"], rollout__curriculum="learnability")


def test_every_task_has_its_own_metrics(
    train: Run, one_in_three: str, numbered: list[dict[str, Any]], tmp_path: Path
) -> None:
    changes = {"data__eval_fraction": 0.4, "eval__every": 1, "rollout__pass_threshold": 0.5}
    result = train(
        reward__rewards=[one_in_three],
        rollout__task_column="task",
        rollout__eval_completions=4,
        rollout__eval_temperature=1.0,
        train__max_steps=2,
        **changes,
    )
    line = next(line for line in metrics_of(result) if "eval/pass@4" in line)
    for task in ("odd", "even"):
        assert {f"eval/tasks/{task}/{name}" for name in ("reward", "avg@4", "pass@2", "pass@4", "share")} <= line.keys()
    shares = [line[f"eval/tasks/{task}/share"] for task in ("odd", "even")]
    assert sum(shares) == pytest.approx(1)
    assert sum(s * line[f"eval/tasks/{task}/reward"] for s, task in zip(shares, ("odd", "even"), strict=True)) == (
        pytest.approx(line["eval/reward"])
    )
    assert line["eval/avg@4"] <= line["eval/pass@2"] <= line["eval/pass@4"]


def test_a_column_that_names_no_task_is_an_error(train: Run, numbered: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="no column 'tusk'"):
        train(rollout__task_column="tusk")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rollout__dynamic_rounds": 3}, "rollout.dynamic_rounds"),
        ({"rollout__curriculum_uniform": 0.5}, "rollout.curriculum_uniform"),
        ({"rollout__curriculum": "learnability", "data__shuffle": False}, "data.shuffle"),
        ({"method": "ppo", "rollout__dynamic_sampling": True}, "rollout.dynamic_sampling"),
        ({"rollout__dynamic_sampling": True, "rollout__replay": "r.jsonl"}, "rollout.dynamic_sampling"),
    ],
    ids=["rounds", "uniform", "shuffle", "every answer teaches", "replay"],
)
def test_options_without_effect_are_refused(train: Run, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train(**changes)
