"""One run on a page of the terminal: what it is, how it stands, what it has logged, where its parts are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plaudit.errors import RunError
from plaudit.runs import checkpoints, jsonl
from plaudit.runs import rundir as names
from plaudit.runs.checkpoints import Stored
from plaudit.runs.curves import Curves, SummaryRow, read_curves, summary_rows
from plaudit.runs.state import RunState
from plaudit.runs.summary import RunSummary, summarise


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything that `plaudit runs show` shows, besides the configuration's changes.

    Attributes:
        data: lines about the sources and what was left out.
        metrics: first, best and last value of each.
        checkpoints: oldest first; `best_step` is that of the best evaluation among them.
        models: (folder, bytes) of the models that the run has written: last, best, KL grid.
        go_on: (what, command) to go on with it, or with what it has left.
        curves: the points that `metrics` sums up.
    """

    summary: RunSummary
    config: dict[str, Any]
    data: list[str]
    metrics: list[SummaryRow]
    alerts: list[dict[str, Any]]
    checkpoints: list[Stored]
    best_step: int | None
    models: list[tuple[Path, int]]
    report: Path | None
    go_on: list[tuple[str, str]]
    curves: Curves = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            **self.summary.as_dict(),
            "config": self.config,
            "data": self.data,
            "metrics": [asdict(row) for row in self.metrics],
            "alerts": self.alerts,
            "checkpoints": [{"step": c.step, "path": str(c.path), "bytes": c.bytes} for c in self.checkpoints],
            "best_step": self.best_step,
            "models": [{"path": str(folder), "bytes": size} for folder, size in self.models],
            "report": None if self.report is None else str(self.report),
            "go_on": [{"what": what, "command": command} for what, command in self.go_on],
        }


def overview(path: str | Path, *, lasting: bool = False) -> Overview:
    """Read a run.

    Args:
        lasting: for a page that is kept: an end that the ledger tells of counts also while the process closes up, and
            commands can be given from any folder.

    Raises:
        RunError: PL501, there is no run; PL504, a file is damaged.
    """
    path = Path(path).expanduser()
    config = names.read_config(path)
    summary = summarise(path, told=lasting)
    curves = read_curves(path)
    stored = checkpoints.stored(path / names.CHECKPOINTS_NAME)
    models = _models(path)
    report = path / names.REPORT_NAME
    return Overview(
        summary=summary,
        config=config,
        data=_data_lines(path, config),
        metrics=summary_rows(curves),
        alerts=jsonl.read_lines(path / names.ALERTS_NAME),
        checkpoints=stored,
        best_step=_best_step(path, stored),
        models=models,
        report=report if report.exists() else None,
        go_on=_go_on(path, summary.state, bool(models), lasting),
        curves=curves,
    )


def _best_step(path: Path, stored: list[Stored]) -> int | None:
    if (complete := names.read_json(path / names.COMPLETE_NAME)) and "best_step" in complete.get("summary", {}):
        best: int | None = complete["summary"]["best_step"]
        return best  # the last checkpoint is older than the evaluation of its step
    try:
        found = checkpoints.progress_of(stored[-1].path).get("best_step") if stored else None
    except RunError:
        return None  # it is about to be deleted by the run, or damaged; `runs prune` says so
    return found if isinstance(found, int) else None


def _models(path: Path) -> list[tuple[Path, int]]:
    folders = [path / names.MODEL_FOLDER, path / names.BEST_FOLDER, *sorted(path.glob(f"{names.KL_FOLDER}*"))]
    return [(folder, checkpoints.size_of(folder)) for folder in folders if folder.is_dir()]


def _data_lines(path: Path, config: Mapping[str, Any]) -> list[str]:
    data = config.get("data") or {}
    lines = []
    for use in ("train", "eval"):
        sources = data.get(use) or []
        shown = ", ".join(str(s.get("path")) if isinstance(s, Mapping) else str(s) for s in sources)
        if shown:
            lines.append(f"{use}: {shown}")
    if data.get("eval_fraction"):
        lines.append(f"held out: {data['eval_fraction']:g} of the rows")
    for use, report in (names.read_json(path / names.DATA_REPORT_NAME) or {}).items():
        if isinstance(report, Mapping):
            lines += [f"{use}: {line}" for line in _counts(report)]
    return lines


def _counts(report: Mapping[str, Any]) -> list[str]:
    """The numbers of a data report in a line, and what was dropped or cut, by reason, in others."""
    numbers = [f"{value:,} {name.replace('_', ' ')}" for name, value in report.items() if type(value) is int]
    lines = [", ".join(numbers)] if numbers else []
    files = [file for file in report.get("files") or [] if isinstance(file, Mapping)]
    for what in ("dropped", "truncated"):
        reasons: dict[str, int] = {}
        for file in files:
            for reason, rows in (file.get(what) or {}).items():
                reasons[reason] = reasons.get(reason, 0) + _count(rows)
        lines += [f"{what}: " + ", ".join(f"{n:,} {reason}" for reason, n in reasons.items())] if reasons else []
    return lines


def _count(rows: Any) -> int:
    """How many rows an entry stands for: it is their number, their list, or a section with their number."""
    if isinstance(rows, Mapping):
        rows = rows.get("count", 0)
    return rows if isinstance(rows, int) else len(rows)


def command_of(path: Path, *, anywhere: bool = False) -> str | None:
    """The command that a run was last started with; None where its directory does not say.

    Args:
        anywhere: it goes to its folder first, also where that is this one.
    """
    try:
        environment = names.read_json(path / names.ENVIRONMENT_NAME) or {}
    except RunError:
        return None
    argv = environment.get("argv")
    if not isinstance(argv, list) or len(argv) < 2 or Path(str(argv[0])).name != "plaudit":
        return None
    command = shlex.join(["plaudit", *map(str, argv[1:])])
    where = environment.get("working_directory")
    return (
        command
        if where is None or (where == os.getcwd() and not anywhere)
        else f"cd {shlex.quote(str(where))} && {command}"
    )


def _go_on(path: Path, state: RunState, has_model: bool, anywhere: bool) -> list[tuple[str, str]]:
    shown = shlex.quote(str(path))
    if state.phase == "running":
        return [("watch it", f"plaudit watch {shown}"), ("stop it", f"plaudit runs stop {shown}")]
    found = []
    if state.phase != "finished":
        command = command_of(path, anywhere=anywhere)
        again = f"plaudit train {shown}/{names.CONFIG_NAME} run.dir={shown} run.if_exists=resume"
        found.append(("mend it, and go on" if state.phase == "failed" else "go on with it", command or again))
    if has_model and _is_reward_model(path / names.MODEL_FOLDER):
        found.append(("measure it", f"plaudit evaluate reward {shown} HELD_OUT_PAIRS.jsonl"))
        found.append(("use it in a run", f"plaudit ppo --reward {shown} …"))
    elif has_model:
        found.append(("try it", f"plaudit chat {shown}"))
        found.append(("use it in a run", f"plaudit METHOD --model {shown} …"))
    return found


def _is_reward_model(folder: Path) -> bool:
    """By the card that training leaves beside a reward model's weights; one that cannot be read says nothing."""
    try:
        card = names.read_json(folder / "plaudit.json")
    except RunError:
        return False
    return card is not None and card.get("kind") == "reward"
