"""The kill matrix: whatever kills a run wherever, the same call again ends with the same bits.

Every kill is a real SIGKILL of a real process: after a step, in the middle of an evaluation, before each single file
operation of a checkpoint, at any time. Every registered offline method takes part by being registered.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.train import runs
from tests.train.runs import Job, Kill

Control = Callable[[str, str], tuple[dict[str, Any], Path]]
CELLS = runs.cells(others=False)
LOG_EVERY = {"log.every": 5, "checkpoint.every": 4}
"""A log window of several steps, so that what lies between two lines has to survive as well."""


@pytest.fixture(scope="module")
def job_of(
    tiny_model_dir: Path, data_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Job]:
    """A job in a directory of its own, with a cache of its own."""

    def of(method: str, variant: str, **changes: Any) -> Job:
        folder = tmp_path_factory.mktemp(f"{method}-{variant}")
        options = runs.options_for(tiny_model_dir, data_of(method), folder / "run", **runs.VARIANTS[variant], **changes)
        return Job(method, options, folder / "outcome.json")

    return of


@pytest.fixture(scope="module")
def control(job_of: Callable[..., Job]) -> Callable[..., dict[str, Any]]:
    """The state of the uninterrupted run of a cell."""
    cache: dict[str, dict[str, Any]] = {}

    def of(method: str, variant: str, ahead: int = 256, **changes: Any) -> dict[str, Any]:
        key = f"{method} {variant} {ahead} {sorted(changes.items())}"
        if key not in cache:
            job = replace(job_of(method, variant, **changes), ahead=ahead)
            runs.completed(job)
            cache[key] = runs.state_of(Path(job.options["run.dir"]))
        return cache[key]

    return of


def die(job: Job, kill: Kill) -> None:
    outcome = runs.run_process(replace(job, kill=kill))
    assert outcome == {}, outcome.get("traceback", f"{kill} did not strike: {outcome}")


def resumed_state(job: Job) -> dict[str, Any]:
    runs.completed(job)
    return runs.state_of(Path(job.options["run.dir"]))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    # How much of the reference a run has to compute itself depends on what an earlier attempt has left in the cache.
    for state in (found, expected):
        state["summary"].pop("reference_tokens", None)
    assert runs.difference(found, expected) is None


@pytest.mark.parametrize(("method", "variant"), CELLS)
def test_killed_at_a_step_and_while_writing(method, variant, job_of, control):
    """Twice: after a step without a checkpoint, and inside a checkpoint (before its manifest, rename, deletions …)."""
    rng = random.Random(f"{method}{variant}")
    job = job_of(method, variant)
    die(job, Kill("step", rng.choice([3, 5])))
    # Restoring a checkpoint reads it (7 operations at most before the next write).
    die(job, Kill("operation", rng.randint(8, 20)))
    assert_same(resumed_state(job), control(method, variant))


def while_evaluating() -> list[Any]:
    """(method, where): the default run kills one method at both places, and the others of `CORE` at one each."""
    places = ("evaluation", "samples")
    shown = {("dpo", at) for at in places} | {(method, places[n % 2]) for n, method in enumerate(runs.CORE)}
    cells = [(method, at) for method in runs.METHODS for at in places]
    return [pytest.param(*cell, marks=() if cell in shown else pytest.mark.slow) for cell in cells]


@pytest.mark.parametrize(("method", "at"), while_evaluating())
def test_killed_while_evaluating(method, at, job_of, control):
    """The checkpoint of the step was written before; its evaluation is done again, and no line is there twice."""
    variant = "lora_dropout" if "lora_dropout" in runs.variants_of(method) else "lora"
    job = job_of(method, variant)
    die(job, Kill(at, 0))
    die(job, Kill(at, 3))
    die(job, Kill(at, 3))
    checkpoints = sorted(p.name for p in (Path(job.options["run.dir"]) / "checkpoints").iterdir())
    assert checkpoints[-1] == "step-00000003"
    assert_same(resumed_state(job), control(method, variant))


def test_killed_while_the_reference_is_computed(job_of, control):
    job = replace(job_of("dpo", "full"), ahead=4)
    for chunk in (1, 2):
        die(job, Kill("message", chunk, "reference log-probs"))
    outcome = runs.completed(job)
    expected = control("dpo", "full", ahead=4)
    assert 0 < outcome["reference_tokens"] < expected["summary"].pop("reference_tokens")
    assert_same(runs.state_of(Path(job.options["run.dir"])), expected)


@pytest.mark.parametrize("cache", ["default", "off"])
def test_the_reference_of_a_second_epoch_has_the_same_bits(cache, job_of, control):
    """A score depends on its micro-batch to rounding; what a run has trained with is what it resumes with."""
    changes: dict[str, Any] = {"train.epochs": 3.0, "train.tokens_per_microbatch": 400}
    if cache == "off":
        changes["run.reference_cache"] = "off"
    job = job_of("dpo", "lora", **changes)
    die(job, Kill("step", 5))
    assert_same(resumed_state(job), control("dpo", "lora", **changes))


def test_a_log_window_survives_a_kill(job_of, control):
    job = job_of("sft", "full", **LOG_EVERY)
    die(job, Kill("step", 4))
    assert_same(resumed_state(job), control("sft", "full", **LOG_EVERY))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(signum, job_of, control):
    """Also in the middle of a log window."""
    job = job_of("sft", "lora_dropout", **LOG_EVERY)
    process = runs.start(replace(job, kill=Kill("step", 1, signum=signum)))
    outcome = runs.finish(process, job)
    run = Path(job.options["run.dir"])
    assert outcome["interrupted"] == signum
    assert "stopped after step" in outcome["message"]
    assert "resume with" in outcome["message"]
    step = int(outcome["message"].split("after step ")[1].split()[0])
    assert step < 4
    assert sorted(p.name for p in (run / "checkpoints").iterdir())[-1] == f"step-{step:08d}"
    assert [e for e in runs.lines(run / "ledger.jsonl") if e["event"] == "interrupted"]
    assert (run / "report.html").exists()
    assert not (run / "COMPLETE").exists()
    found = resumed_state(job)
    expected = control("sft", "lora_dropout", **LOG_EVERY)
    # The interrupted step's checkpoint counts among the recent ones until newer ones push it out.
    assert_same(found, expected)


def test_a_second_signal_acts_at_once(job_of):
    """Somebody who presses Ctrl-C twice does not want to wait for a checkpoint."""

    job = job_of("sft", "full")
    outcome = runs.run_process(replace(job, kill=Kill("samples", 3, signum=signal.SIGINT)))
    assert outcome["interrupted"] == signal.SIGINT, "one signal in an evaluation ends the run after the next step"


def test_counters_go_on(job_of, control):
    """num_tokens restarted at 0 in other trainers."""
    job = job_of("dpo", "full")
    die(job, Kill("step", 5))
    runs.completed(job)
    counts = [
        line["num_tokens"]
        for line in runs.lines(Path(job.options["run.dir"]) / "metrics.jsonl")
        if "num_tokens" in line
    ]
    assert counts == sorted(counts)
    assert counts[-1] == control("dpo", "full")["metrics"][-2]["num_tokens"]


@pytest.mark.parametrize("method", runs.core_methods())
def test_early_stopping_survives(method, job_of, control):
    """A rate that makes everything worse: patience runs out at the same step, with a kill on the way and without."""
    changes = {
        "train.learning_rate": 0.5, "eval.every": 1, "eval.early_stopping_patience": 3, "train.epochs": 5.0,
        "train.warmup_fraction": 0.5, "log.alert_after": 2,
    }  # fmt: skip
    expected = control(method, "full", **changes)
    stopped_at = expected["summary"]["steps"]
    job = job_of(method, "full", **changes)
    die(job, Kill("evaluation", stopped_at - 1))
    found = resumed_state(job)
    assert expected["progress"]["evaluations_without_gain"] >= 2
    assert [a["code"] for a in expected["alerts"]].count("early_stopping") == 1
    assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant"), [(m, v) for m in runs.METHODS if m in runs.CORE for v in runs.variants_of(m)]
)
def test_killed_at_any_time_again_and_again(method, variant, job_of, control):
    """At random moments, from outside, until the run has come through."""
    rng = random.Random(f"any {method}{variant}")
    job = job_of(method, variant)
    expected = control(method, variant)
    outcome: dict[str, Any] = {}
    for attempt in range(60):
        process = runs.start(job)
        # Later ones come later: on a busy machine none would get as far as its next checkpoint otherwise.
        process.join(rng.uniform(0.1, 1.2) * (1 + attempt / 15))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        outcome = runs.finish(process, job)
        if outcome:
            break
    assert "steps" in outcome, outcome.get("traceback")
    assert_same(runs.state_of(Path(job.options["run.dir"])), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in runs.METHODS if m in runs.CORE])
def test_killed_before_every_single_file_operation(method, job_of, control):
    """From the first checkpoint on: one run, killed at its n-th operation for every n that the rest of the run has."""
    job = job_of(method, "lora")
    struck = 0
    for number in range(1, 400):
        outcome = runs.run_process(replace(job, kill=Kill("operation", number)))
        if outcome:
            assert "steps" in outcome, outcome.get("traceback")
            break
        struck += 1
    assert struck > 30
    assert_same(runs.state_of(Path(job.options["run.dir"])), control(method, "lora"))


@pytest.mark.parametrize("method", runs.core_methods())
def test_killed_when_the_hidden_folder_appears(method, job_of, control):
    """From outside: as soon as a checkpoint is being written."""
    job = job_of(method, "full")
    folder = Path(job.options["run.dir"]) / "checkpoints"
    process = runs.start(job)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_alive():
        if folder.is_dir() and any(p.startswith(".writing-") for p in os.listdir(folder)):
            os.kill(process.pid, signal.SIGKILL)
            break
    outcome = runs.finish(process, job)
    assert outcome == {}, outcome.get("traceback", "never seen being written")
    assert_same(resumed_state(job), control(method, "full"))
