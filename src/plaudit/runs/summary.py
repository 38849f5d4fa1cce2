"""Runs below a folder, a line each: found by their files, read without loading anything large."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.runs import jsonl, ledger
from plaudit.runs import rundir as names
from plaudit.runs.checkpoints import size_of
from plaudit.runs.metrics import EVAL_PREFIX, spec
from plaudit.runs.state import RunState, run_state

MAIN = ("reward", "rewards/accuracies", "rewards/margins", "perplexity")
"""What a method is about, the first that a run has logged: answers that are sampled have a reward, pairs are ranked,
text has a perplexity."""

_PASSED_OVER = frozenset({"node_modules", "site-packages", "__pycache__"})
_BLOCK = 1 << 16
_FURTHEST = 1 << 22
"""Bytes from the end of metrics.jsonl in which the last evaluation is looked for."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a line.

    Attributes:
        method, model: as the configuration names them.
        step: the last logged step; None before the first.
        total_steps: how many it is to have; None where that is not known.
        loss: last value.
        metric: name of the main metric, held-out where it was evaluated; None where none was logged.
        metric_value: its last value.
        started: when it was first started.
        seconds: how long it has run, all its parts together.
        bytes: of all its files.
    """

    path: Path
    name: str
    method: str
    model: str
    state: RunState
    step: int | None
    total_steps: int | None
    loss: float | None
    metric: str | None
    metric_value: float | None
    started: datetime | None
    seconds: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`; times are ISO 8601 in UTC."""
        return {
            "path": str(self.path),
            "name": self.name,
            "method": self.method,
            "model": self.model,
            "state": self.state.phase,
            "reason": self.state.reason,
            "exit_status": self.state.exit_status,
            "step": self.step,
            "total_steps": self.total_steps,
            "loss": self.loss,
            "metric": self.metric,
            "metric_value": self.metric_value,
            "started": self.started.isoformat().replace("+00:00", "Z") if self.started else None,
            "seconds": round(self.seconds, 1),
            "bytes": self.bytes,
        }


def find_runs(folder: Path) -> Iterator[Path]:
    """Run directories in and below a folder, by name. Not looked into: hidden folders, links, and runs themselves.

    Raises:
        RunError: PL501, there is no such folder.
    """
    if not folder.is_dir():
        raise RunError("PL501", "there is no such folder", where=str(folder), mend="give a folder with runs in it")
    for place, folders, files in os.walk(folder):
        if names.CONFIG_NAME in files and (ledger.LEDGER_NAME in files or names.CHECKPOINTS_NAME in folders):
            folders.clear()
            yield Path(place)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _PASSED_OVER)


def list_runs(folder: str | Path = ".") -> list[RunSummary]:
    """A summary of every run in and below a folder, by path.

    Raises:
        RunError: PL501, there is no such folder.
    """
    root = Path(folder).expanduser()
    return [summarise(path, root) for path in find_runs(root)]


def summarise(path: Path, root: Path | None = None, *, told: bool = False) -> RunSummary:
    """One run in a line. A file that cannot be read leaves its parts open; the state says so.

    Args:
        root: folder that the run's name is relative to; None = the name of the directory alone.
        told: as of `run_state`.
    """
    state = run_state(path, told=told)
    try:
        config = names.read_config(path)
    except RunError as error:
        config, state = {}, _damaged(state, error)
    last: dict[str, tuple[int, float]] = {}
    try:
        last = last_values(path / names.METRICS_NAME)
    except RunError as error:
        state = _damaged(state, error)
    metric = main_metric(last, config)
    events = ledger.read_events(path / ledger.LEDGER_NAME)
    times = [t for t in (_time(e) for e in events) if t is not None]
    relative = path if root is None else path.relative_to(root) if path != root else Path(path.absolute().name)
    return RunSummary(
        path=path,
        name=path.name if root is None else str(relative),
        method=_named(config, "method", "name"),
        model=_named(config, "model", "path"),
        state=state,
        step=max((step for step, _ in last.values()), default=None),
        total_steps=total_steps(path, config),
        loss=last["loss"][1] if "loss" in last else None,
        metric=metric,
        metric_value=last[metric][1] if metric else None,
        started=min(times, default=None),
        seconds=active_seconds(path, events, state),
        bytes=size_of(path),
    )


def _damaged(state: RunState, error: RunError) -> RunState:
    return RunState(state.phase, f"[{error.code}] {error.what}", state.exit_status)


def _named(config: Mapping[str, Any], section: str, key: str) -> str:
    value = config.get(section) or {}
    return str(value.get(key, "?") if isinstance(value, Mapping) else value)


def total_steps(path: Path, config: Mapping[str, Any]) -> int | None:
    """How many steps a run is to have; None where it has not got so far as to say."""
    try:
        plan = names.read_json(path / names.PLAN_NAME) or {}
        complete = names.read_json(path / names.COMPLETE_NAME) or {}
    except RunError:
        return None
    train = config.get("train") or {}
    found = plan.get("total_steps", complete.get("summary", {}).get("steps", train.get("max_steps")))
    return found if isinstance(found, int) else None


def main_metric(logged: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The metric that says most about a run: eval.best_metric where that is no loss, else the first of `MAIN`; as it
    was on held-out data where there is such a value. Without any of them the held-out loss."""
    best = (config.get("eval") or {}).get("best_metric")
    if isinstance(best, str) and best in logged and spec(best).group != "loss":
        return best
    for base in MAIN:
        for name in (EVAL_PREFIX + base, base):
            if name in logged:
                return name
    held_out = f"{EVAL_PREFIX}loss"
    return held_out if held_out in logged else None


def last_values(path: Path) -> dict[str, tuple[int, float]]:
    """Metric → (step, value) as it was last logged, from the end of metrics.jsonl.

    It is read backwards until an evaluation was seen, at most some megabytes.

    Raises:
        RunError: PL504, a line is damaged.
    """
    if not path.exists():
        return {}
    size = path.stat().st_size
    reach = _BLOCK
    while True:
        start = max(0, size - reach)
        found = _last_of(path, start)
        if not start or reach >= _FURTHEST or any(name.startswith(EVAL_PREFIX) for name in found):
            return found
        reach *= 4


def _last_of(path: Path, start: int) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    with path.open("rb") as stream:
        stream.seek(start)
        raw = stream.read()
    whole = raw[: raw.rfind(b"\n") + 1].splitlines()
    for number, line in enumerate(whole[1:] if start else whole, start=1):
        values = jsonl.parse(path, number if not start else None, line)
        step = int(values["step"])
        found.update({name: (step, float(value)) for name, value in values.items() if name != "step"})
    return found


def _time(event: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None


def active_seconds(path: Path, events: list[dict[str, Any]], state: RunState) -> float:
    """How long processes have worked on a run: from each start to its end, or to the last sign of life."""
    total, begun, seen = 0.0, None, None
    for event in events:
        time = _time(event)
        if time is None or event.get("event") == "pruned":
            continue
        if event.get("event") in ("started", "resumed"):
            total += (seen - begun).total_seconds() if begun and seen else 0.0
            begun = time
        seen = time
    if begun is None or seen is None:
        return total
    metrics = path / names.METRICS_NAME
    if state.phase == "running":
        seen = datetime.now(UTC)
    elif state.phase == "failed" and metrics.exists():
        seen = max(seen, datetime.fromtimestamp(metrics.stat().st_mtime, UTC))
    return max(0.0, total + (seen - begun).total_seconds())
