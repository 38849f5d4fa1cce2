from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit.errors import RunError
from plaudit.runs.alerts import Alert
from plaudit.runs.observer import Observer
from plaudit.runs.rundir import RunDir
from plaudit.runs.sinks import make_sinks

CONFIG = {"method": {"name": "dpo"}, "model": {"path": "tiny"}}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as opened:
        yield opened


def drive(sink: Observer) -> None:
    sink.on_start({"steps": 2})
    for step in (1, 2):
        sink.on_step(step, 2, {"loss": 1.0 / step})
    sink.on_eval(2, {"eval/loss": 0.5})
    sink.on_samples(2, [{"prompt": "p", "completion": "c"}])
    sink.on_alert(Alert("info", "x", "m", "a", 2))
    sink.on_finish({"loss": 0.5})
    sink.close()
    sink.close()


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_says_how_to_install_it(name: str, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself does for "cannot be imported"
    monkeypatch.setitem(sys.modules, f"{name}.summary", None)
    with pytest.raises(RunError) as caught:
        make_sinks([name], run.path, "plaudit")
    assert caught.value.code == "PL506"
    assert f"pip install 'plaudit[{name}]'" in str(caught.value)


def test_nothing_is_imported_when_nothing_is_asked_for(run: RunDir) -> None:
    assert make_sinks([], run.path, "plaudit") == []


def needs(package: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package} is an optional extra and not installed")


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(run: RunDir) -> None:
    drive(make_sinks(["tensorboard"], run.path, "plaudit")[0])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors("loss")] == [(1, 1.0), (2, 0.5)]
    assert [e.step for e in events.Tensors("eval/loss")] == [2]


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    drive(make_sinks(["wandb"], run.path, "plaudit")[0])
    identity = json.loads((run.path / "trackers.json").read_text())["wandb"]
    assert list((run.path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    drive(make_sinks(["trackio"], run.path, "plaudit-test")[0])
    assert list((tmp_path / "trackio").rglob("plaudit-test*"))
