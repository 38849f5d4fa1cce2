"""Trackers beside the run directory. Each package is imported only when its tracker is asked for."""

from __future__ import annotations

import importlib.util
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.runs import jsonl
from plaudit.runs.alerts import Alert
from plaudit.runs.observer import Observer, Sample, SilentObserver
from plaudit.runs.rundir import read_config, read_json

_IDS_NAME = "trackers.json"


def _import(package: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or package)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0] == package
        raise _unusable(package, "is not installed" if missing else f"cannot be loaded: {error}") from error


def _unusable(package: str, why: str) -> RunError:
    mend = f"pip install 'plaudit[{package}]', or take {package} out of log.sinks"
    return RunError("PL506", f"the tracker {package} {why}", where="log.sinks", mend=mend)


def need_trackers(names: Sequence[str]) -> None:
    """Raise RunError PL506 where the package of a tracker is missing; nothing is imported or started."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise _unusable(name, "is not installed")


def _tracker_id(run_dir: Path, tracker: str) -> str:
    """A tracker's id of this run, kept in the run directory so that a resumed run goes on in the same curves."""
    file = run_dir / _IDS_NAME
    ids = read_json(file) or {}
    if tracker not in ids:
        ids[tracker] = uuid.uuid4().hex[:12]
        jsonl.write_atomically(file, jsonl.dumps(ids, indent=2) + "\n")
    return str(ids[tracker])


class TensorBoardSink(SilentObserver):
    """Writes event files to <run directory>/tensorboard. Uses tensorboard's own writer; needs neither torch nor TF."""

    def __init__(self, run_dir: Path) -> None:
        folder = run_dir / "tensorboard"
        self._writer: Any = _import("tensorboard", "tensorboard.summary").Writer(str(folder))

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._scalars(step, metrics)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._scalars(step, metrics)

    def _scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class TrackioSink(SilentObserver):
    """Logs to trackio's local store."""

    def __init__(self, run_dir: Path, project: str) -> None:
        self._trackio = _import("trackio")
        name = f"{run_dir.name}-{_tracker_id(run_dir, 'trackio')}"
        self._trackio.init(project=project, name=name, config=read_config(run_dir), resume="allow", embed=False)
        self._open = True

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._trackio.log(dict(metrics), step=step)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._trackio.log(dict(metrics), step=step)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._trackio.finish()


class WandbSink(SilentObserver):
    """Logs to Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, run_dir: Path, project: str) -> None:
        self._wandb = _import("wandb")
        self._run: Any = self._wandb.init(
            project=project,
            name=run_dir.name,
            id=_tracker_id(run_dir, "wandb"),
            resume="allow",
            dir=str(run_dir),
            config=read_config(run_dir),
        )
        # wandb's own counter never goes back, but a run resumed from a checkpoint does: plot against our step.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        columns = list(dict.fromkeys(key for sample in samples for key in sample))
        rows = [[str(sample.get(c, "")) for c in columns] for sample in samples]
        self._run.log({"step": step, "samples": self._wandb.Table(columns=columns, data=rows)})

    def on_alert(self, alert: Alert) -> None:
        level = {"info": "INFO", "warn": "WARN", "error": "ERROR"}[alert.level]
        self._run.alert(title=alert.code, text=f"{alert.message}\n{alert.advice}", level=level)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update({k: v for k, v in summary.items() if not isinstance(v, float) or math.isfinite(v)})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def make_sinks(names: Sequence[str], run_dir: Path, project: str) -> list[Observer]:
    """The trackers by the names of ``log.sinks``. The run directory must be open: its config.yaml is sent along.

    Raises:
        RunError: PL506, a tracker's package is missing.
    """
    makers: dict[str, Callable[[], Observer]] = {
        "tensorboard": lambda: TensorBoardSink(run_dir),
        "trackio": lambda: TrackioSink(run_dir, project),
        "wandb": lambda: WandbSink(run_dir, project),
    }
    sinks: list[Observer] = []
    try:
        for name in names:
            sinks.append(makers[name]())
    except RunError:
        for sink in sinks:
            sink.close()
        raise
    return sinks
