"""Alerts that end a run, and models that are kept on a grid of KL: with real runs, killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plaudit.api import load
from plaudit.cli.exits import guarded
from plaudit.errors import ConfigError, TrainingError
from plaudit.runs.report import write_report
from plaudit.train.interrupt import Halted
from tests.online.conftest import Run
from tests.train import runs
from tests.train.runs import Job, Kill

MOVES: dict[str, Any] = {"train__learning_rate": 2e-2, "train__epochs": 3.0, "train__warmup_steps": 0}
MOVES |= {"lora": {"r": 4}, "checkpoint__every": 6}
"""Far enough in a few steps."""
STOPS: dict[str, Any] = {"watch__kl_budget": 0.01, "watch__stop": ["kl_over_budget"], **MOVES}


def ledger(run: Path) -> list[dict[str, Any]]:
    return runs.lines(run / "ledger.jsonl")


def test_an_alert_ends_the_run(train: Run, tmp_path: Path) -> None:
    with pytest.raises(Halted) as stopped:
        train(method="rloo", **STOPS)
    run = tmp_path / "run"
    [alert] = [a for a in runs.lines(run / "alerts.jsonl") if a["code"] == "kl_over_budget"]
    last = ledger(run)[-1]
    assert (last["event"], last["code"], last["step"]) == ("stopped", "kl_over_budget", alert["step"])
    kl = [line["kl"] for line in runs.lines(run / "metrics.jsonl") if "kl" in line]
    assert sum(kl[-3:]) / 3 > 0.01 >= sum(kl[-4:-1]) / 3  # at the first step that it can be said
    message = str(stopped.value)
    assert message.startswith(f"kl_over_budget has stopped the run after step {alert['step']} of ")
    assert "take kl_over_budget out of watch.stop, and resume with" in message
    assert (run / "checkpoints" / f"step-{alert['step']:08d}").is_dir()
    assert not (run / "COMPLETE").exists()
    assert load(run).model is not None  # the model as it was when the run was stopped
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f">stopped</strong><span> by kl_over_budget at step {alert['step']} (watch.stop)" in page


def test_the_same_command_says_it_again_and_computes_nothing(train: Run, tmp_path: Path) -> None:
    messages, files = [], []
    for _ in range(2):
        with pytest.raises(Halted) as stopped:
            train(method="rloo", **STOPS)
        messages.append(str(stopped.value))
        files.append({str(p): p.read_bytes() for p in (tmp_path / "run").iterdir() if p.suffix in (".jsonl", ".html")})
    assert messages[0] == messages[1]
    assert files[0] == files[1]


def test_without_the_code_it_goes_on_as_if_it_had_never_stopped(train: Run, tmp_path: Path) -> None:
    with pytest.raises(Halted):
        train(method="rloo", **STOPS)
    again = train(method="rloo", **STOPS | {"watch__stop": []})
    control = train("control", method="rloo", **STOPS | {"watch__stop": []})
    found = [runs.state_of(r.run_dir) for r in (again, control)]
    for one in found:
        del one["checkpoints"]  # the stop has written one more
        del one["summary"]["reference_tokens"]
    assert runs.difference(*found) is None
    resumed = [e for e in ledger(tmp_path / "run") if e["event"] == "resumed"]
    assert any("watch.stop" in note for note in resumed[0]["notes"])


def test_a_stop_at_an_evaluation(train: Run, tmp_path: Path) -> None:
    """The checkpoint is of before the evaluation, which is done again where the run goes on."""
    gold = tmp_path / "gold.py"
    gold.write_text(
        "def gold(completions, **_):\n    return [-float(sum(c in 'aeiou' for c in t)) for t in completions]\n"
    )
    options = {"watch__gold": f"{gold}:gold", "watch__gold_correlation": 1.0, "watch__stop": "gold_correlation"}
    options |= {"data__eval_fraction": 0.4, "eval__every": 2, "rollout__eval_temperature": 1.0, **MOVES}
    with pytest.raises(Halted, match="gold_correlation has stopped the run after step 4"):
        train(method="rloo", **options)
    again = train(method="rloo", **options | {"watch__stop": []})
    control = train("control", method="rloo", **options | {"watch__stop": []})
    found = [runs.state_of(r.run_dir) for r in (again, control)]
    for one in found:
        del one["summary"]["reference_tokens"]
    assert runs.difference(*found) is None


@pytest.mark.slow
@pytest.mark.parametrize("kill", [Kill("operation", 20), Kill("step", 3)], ids=["while it stops", "before"])
def test_killed_while_it_stops(kill: Kill, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    changes = {k.replace("__", "."): v for k, v in STOPS.items()}
    job = Job("rloo", options("run", **changes), tmp_path / "run.json")
    assert runs.run_process(replace(job, kill=kill)) == {}
    outcome = runs.run_process(job)
    assert outcome["kind"] == "Halted", outcome
    control = Job("rloo", options("control", **changes), tmp_path / "control.json")
    assert runs.run_process(control)["kind"] == "Halted"
    lines = [runs.lines(tmp_path / n / "metrics.jsonl") for n in ("run", "control")]
    assert [runs.without_timing(x) for x in lines[0]] == [runs.without_timing(x) for x in lines[1]]
    stopped = [
        [(e["step"], e["code"]) for e in ledger(tmp_path / n) if e["event"] == "stopped"] for n in ("run", "control")
    ]
    assert stopped[0] == stopped[1] != []


def test_two_processes_stop_together(options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    changes = {k.replace("__", "."): v for k, v in STOPS.items()} | {"checkpoint.kl_grid": [0.001]}
    outcomes = runs.two_ranks(Job("rloo", options("run", **changes), tmp_path / "run.json"))
    assert [o.get("kind") for o in outcomes] == ["Halted", "Halted"], outcomes
    assert [e["event"] for e in ledger(tmp_path / "run")].count("stopped") == 1
    assert load(tmp_path / "run" / "kl-0.001").model is not None


def test_the_exit_status_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, guarded():
        raise Halted("kl_over_budget", 3, "kl_over_budget has stopped the run")
    assert ended.value.code == 3
    assert capsys.readouterr().err == "kl_over_budget has stopped the run\n"


def test_a_method_without_kl_is_told_so(train: Run) -> None:
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*own does not measure the KL(.|\n)*checkpoint\.kl_grid"):
        train(checkpoint__kl_grid=[1.0])


# -- the grid

GRID: dict[str, Any] = {"checkpoint.kl_grid": [0.0005, 0.001, 0.02, 1e6], "data.eval_fraction": 0.3, "eval.every": 4}
GRID |= {k.replace("__", "."): v for k, v in MOVES.items()} | {"train.epochs": 4.0}


def kept(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "kl_grid.json").read_text(encoding="utf-8"))
    return found


def exported(run: Path) -> dict[str, bytes]:
    files = [f for folder in run.glob("kl-*") for f in folder.rglob("*.safetensors")]
    return {str(f.relative_to(run)): f.read_bytes() for f in files}


def test_models_on_the_grid(train: Run, options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Each value once, with the smoothed KL that passed it first and an evaluation of that very model."""
    run = runs.train_here("rloo", options("run", **GRID)).run_dir
    lines = runs.lines(run / "metrics.jsonl")
    kl = [(line["step"], line["kl"]) for line in lines if "kl" in line]
    smooth = [(kl[i][0], (kl[i - 2][1] + kl[i - 1][1] + kl[i][1]) / 3) for i in range(2, len(kl))]
    found = kept(run)
    assert [v for entry in found for v in entry["grid"]] == [0.0005, 0.001, 0.02]
    for entry in found:
        first = next(step for step, value in smooth if value >= entry["grid"][-1])
        assert entry["step"] == first
        assert entry["kl"] == pytest.approx(dict(smooth)[first])
        assert entry["path"] == f"kl-{entry['grid'][-1]:g}"
        [evaluated] = [line for line in lines if line["step"] == first and "eval/reward" in line]
        assert entry["metrics"]["eval/reward"] == evaluated["eval/reward"]
        assert entry["metrics"]["reward"] == next(x["reward"] for x in lines if x["step"] == first and "reward" in x)
        assert load(run / entry["path"]).model is not None
    assert len(list(run.glob("kl-*"))) == len(found)
    assert [p.name for p in (run / "checkpoints").iterdir()]  # `keep` has pruned there and not here
    text = write_report(run).read_text(encoding="utf-8")
    assert "Models on the KL grid" in text
    assert "kl-0.02" in text


@pytest.mark.slow  # test_watched_models.py kills a run with a grid in the default run
@pytest.mark.parametrize("lora", [True, False], ids=["LoRA", "full"])
def test_killed_and_gone_on_with_it_keeps_the_same_models(
    lora: bool, options: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    changes = GRID if lora else {k: v for k, v in GRID.items() if k != "lora"} | {"train.learning_rate": 1e-3}
    control = Job("rloo", options("control", **changes), tmp_path / "control.json")
    broken = Job("rloo", options("run", **changes), tmp_path / "run.json")
    runs.completed(control)
    first = kept(tmp_path / "control")[0]["step"]
    for kill in (Kill("samples", first), Kill("message", 1, "kl has passed"), Kill("step", first + 2)):
        assert runs.run_process(replace(broken, kill=kill)) == {}, kill
    runs.completed(broken)
    assert kept(tmp_path / "run") == kept(tmp_path / "control")
    assert exported(tmp_path / "run") == exported(tmp_path / "control") != {}
    found = [runs.state_of(tmp_path / name) for name in ("run", "control")]
    for one in found:
        del one["summary"]["reference_tokens"]
    assert runs.difference(*found) is None


@pytest.mark.parametrize("values", [[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
def test_a_grid_rises(values: list[float], options: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="kl_grid"):
        runs.resolved("rloo", options("run", **{"checkpoint.kl_grid": values}))
