"""Whatever kills an online run wherever, the same call again ends with the same bits: rollouts, rewards, weights.

Every kill is a real SIGKILL. Checkpoints fall into the middle of a rollout batch, where it has to be kept, and between
two, with and without a batch that was made ahead.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.online.conftest import METHOD
from tests.train import runs
from tests.train.runs import Job, Kill

CASES: dict[str, dict[str, Any]] = {
    "in the middle of a batch": {"rollout.ppo_epochs": 2, "checkpoint.every": 3},
    "ahead": {"rollout.ahead": 1, "rollout.ppo_epochs": 2, "checkpoint.every": 3, "rollout.correction": "token_mask"},
    "Dr. GRPO, answers of all lengths": {
        "method": "dr_grpo",
        "rollout.ppo_epochs": 2,
        "rollout.stop": ["e", "a", "o"],
        "checkpoint.every": 3,
    },
    "dynamic sampling and a curriculum, ahead": {
        "rollout.ahead": 1,
        "rollout.dynamic_sampling": True,
        "rollout.curriculum": "learnability",
        "rollout.pass_threshold": 0.4,
        "rollout.ppo_epochs": 2,
        "checkpoint.every": 3,
    },
    "ReMax": {"method": "remax", "rollout.ppo_epochs": 2, "checkpoint.every": 3, "rollout.completions_per_prompt": 1},
    "ReMax, ahead": {
        "method": "remax",
        "rollout.ahead": 1,
        "rollout.ppo_epochs": 2,
        "rollout.completions_per_prompt": 2,
        "rollout.temperature": 0.8,
        "checkpoint.every": 3,
        "lora": {"r": 4},
    },
    "rewards of steps, ahead": {
        "method": "gspo",
        "method.supervision": "process",
        "method.token_level": True,
        "reward.rewards": [f"{Path(runs.__file__).with_name('rewarding.py')}:words"],
        "rollout.ahead": 1,
        "rollout.ppo_epochs": 2,
        "checkpoint.every": 3,
    },
    "LoRA, evaluated": {"lora": {"r": 4}, "data.eval_fraction": 0.3, "eval.every": 3, "train.epochs": 8.0},
}

LONG = ("ReMax", "rewards of steps, ahead")
"""Left to the slow run."""


def cases(*names: str) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in names]


@pytest.fixture
def job(options: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Job]:
    def of(case: str, name: str) -> Job:
        found = options(name, **{"train.epochs": 2.0, "log.every": 1, "rollout.samples_every": 1} | CASES[case])
        found["rollout.save"] = str(tmp_path / name / "rollouts.jsonl")
        return Job(found.pop("method", METHOD), found, tmp_path / f"{name}.json")

    return of


def state(job: Job) -> dict[str, Any]:
    run = Path(job.options["run.dir"])
    rollouts = runs.lines(Path(job.options["rollout.save"]))[1:]
    found = runs.state_of(run) | {"rollouts": rollouts}
    del found["summary"]["reference_tokens"]  # of the last process alone
    return found


@pytest.mark.parametrize("case", cases(*CASES))
def test_killed_and_killed_again(case: str, job: Callable[..., Job]) -> None:
    control, broken = job(case, "control"), job(case, "run")
    runs.completed(control)
    for kill in (Kill("step", 4), Kill("operation", 14), Kill("samples", 8)):
        outcome = runs.run_process(replace(broken, kill=kill))
        assert outcome == {}, outcome.get("traceback", f"{kill} did not strike")
    runs.completed(broken)
    assert runs.difference(state(broken), state(control)) is None


@pytest.mark.parametrize("case", cases("ReMax", "ReMax, ahead"))
def test_greedy_answers_are_those_of_the_weights_that_sampled(case: str, job: Callable[..., Job]) -> None:
    """Every row of the file has one, the same for equal weights; and they change with the weights."""
    own = job(case, "run")
    runs.completed(own)
    rows = runs.lines(Path(own.options["rollout.save"]))[1:]
    versions = [{c["weight_version"] for c in (*row["completions"], row["greedy"])} for row in rows]
    assert all(len(found) == 1 for found in versions)
    assert len(set.union(*versions)) > 1
    said: dict[tuple[str, int], set[tuple[int, ...]]] = {}
    for row in rows:
        key = (row["prompt"], row["greedy"]["weight_version"])
        said.setdefault(key, set()).add(tuple(row["greedy"]["token_ids"]))
    assert all(len(answers) == 1 for answers in said.values())


def test_the_buffer_is_in_the_checkpoint(job: Callable[..., Job]) -> None:
    """A rollout that is half used is not sampled again: a judge would answer otherwise the second time."""
    own = job("in the middle of a batch", "run")
    runs.run_process(replace(own, kill=Kill("step", 4)))
    [checkpoint] = (Path(own.options["run.dir"]) / "checkpoints").iterdir()
    kept = torch.load(checkpoint / "source.pt", weights_only=True)
    assert checkpoint.name == "step-00000003"
    assert kept["rollout"]["number"] == 0
    assert set(kept["per_token"]) == {"old", "advantage"}
    assert len(kept["rollout"]["completions"]) == 8


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_sampling(signum: int, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The batch that was begun is given up; the state is that of the last step."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\nCALLS = []\n"
        "def slow(completions, **_):\n"
        "    CALLS.append(1)\n"
        f"    if len(CALLS) == 12 and not os.path.exists({str(tmp_path / 'struck')!r}):\n"
        f"        open({str(tmp_path / 'struck')!r}, 'w').close()\n"
        f"        os.kill(os.getpid(), {int(signum)})\n"
        "    return [float(len(c)) for c in completions]\n",
        encoding="utf-8",
    )
    changes = {"reward.rewards": [f"{tmp_path / 'slow.py'}:slow"], "train.epochs": 2.0}
    broken = Job(METHOD, options("run", **changes), tmp_path / "run.json")
    outcome = runs.run_process(broken)
    assert outcome.get("interrupted") == signum, outcome
    runs.completed(broken)
    control = Job(METHOD, options("control", **changes), tmp_path / "control.json")
    runs.completed(control)
    found = [runs.state_of(Path(j.options["run.dir"])) for j in (broken, control)]
    for one in found:
        del one["checkpoints"]  # the signal has written one more
    assert runs.difference(*found) is None


DYNAMIC = {"rollout.dynamic_sampling": True, "rollout.curriculum": "learnability", "rollout.pass_threshold": 0.4}


@pytest.mark.parametrize(
    ("method", "more"), [(METHOD, {}), (METHOD, DYNAMIC), ("remax", {})], ids=["own", "dynamic", "remax"]
)
def test_two_processes_are_one_run(
    method: str, more: dict[str, Any], options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Each samples and scores its share, greedy answers too; equal prompts draw apart wherever they are."""
    rows = runs.rows_of("prompt", 8)
    runs.write_rows(tmp_path / "prompt.jsonl", rows + rows[:4])
    changes = {"rollout.ppo_epochs": 2, "data.eval_fraction": 0.3, "eval.every": 2} | more
    one = Job(method, options("one", **changes), tmp_path / "one.json")
    two = Job(method, options("two", **changes), tmp_path / "two.json")
    runs.completed(one)
    for outcome in runs.two_ranks(two):
        assert "steps" in outcome, outcome.get("traceback", outcome)
    lines = [runs.lines(Path(j.options["run.dir"]) / "metrics.jsonl") for j in (one, two)]
    assert len(lines[0]) == len(lines[1])
    for a, b in zip(*([runs.without_timing(x) for x in found] for found in lines), strict=True):
        assert a.keys() == b.keys()
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def test_an_error_in_one_process_ends_both(options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        "import os\ndef half(completions, **_):\n"
        "    if os.environ.get('RANK') == '1':\n        raise RuntimeError('no GPU left')\n"
        "    return [1.0 for _ in completions]\n",
        encoding="utf-8",
    )
    changes = {
        "reward.rewards": [f"{tmp_path / 'half.py'}:half"],
        "reward.retries": 0,
        "reward.max_error_fraction": 0.0,
    }
    outcomes = runs.two_ranks(Job(METHOD, options("run", **changes), tmp_path / "run.json"))
    assert [o.get("code") for o in outcomes] == ["PL706", "PL706"], outcomes
