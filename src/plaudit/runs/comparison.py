"""Several runs side by side: what differs in their configurations, their last values, and their curves on one page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError
from plaudit.runs import charts, jsonl
from plaudit.runs import rundir as names
from plaudit.runs.config_diff import flat_beside
from plaudit.runs.curves import Curves, metric_groups, read_curves
from plaudit.runs.metrics import EVAL_PREFIX, format_value, spec, table_order
from plaudit.runs.report import page_engine
from plaudit.runs.summary import RunSummary, summarise

MOST = 8
"""Runs that one page can tell apart by colour and dashes."""
_OWN_KEYS = ("run.dir",)
"""Keys that differ between any two runs."""
_ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Compared:
    """A run of a comparison."""

    label: str
    summary: RunSummary

    @property
    def about(self) -> str:
        """Method, model, state and steps in a line."""
        s = self.summary
        steps = (
            "no step" if s.step is None else f"step {s.step:,}" + (f" of {s.total_steps:,}" if s.total_steps else "")
        )
        state = f"{s.state.phase} {s.state.reason}".strip()
        return f"{s.method} on {s.model}; {state}; {steps}"


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """A key of the configuration with its value in each run, as text."""

    key: str
    values: list[str]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A metric with its last value in each run."""

    name: str
    unit: str
    direction: str
    values: list[float | None]
    best: list[int]
    """places of the runs with the best value; none where no value is better, or all are equal"""

    @property
    def texts(self) -> list[str]:
        """The values for people."""
        return [_ABSENT if value is None else format_value(self.name, value) for value in self.values]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is shown of runs side by side; rows are in the order of `runs`."""

    runs: list[Compared]
    differences: list[DifferenceRow]
    metrics: list[MetricRow]
    curves: list[Curves] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        labels = [run.label for run in self.runs]
        return {
            "runs": [{"label": run.label, **run.summary.as_dict()} for run in self.runs],
            "config": {row.key: dict(zip(labels, row.values, strict=True)) for row in self.differences},
            "metrics": {row.name: dict(zip(labels, row.values, strict=True)) for row in self.metrics},
            "notes": self.notes,
        }


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read runs and put them side by side.

    Raises:
        ConfigError: PL102, fewer than two runs, or one of them twice.
        RunError: PL501, one is no run; PL504, a file is damaged.
    """
    folders = [Path(path).expanduser() for path in paths]
    if len(folders) < 2:
        raise ConfigError(
            "PL102",
            "one run cannot be compared",
            mend="name two or more; `plaudit runs show` shows one",
            where=str(folders[0]) if folders else "plaudit runs compare",
        )
    real = [folder.resolve() for folder in folders]
    if twice := next((folder for i, folder in enumerate(real) if folder in real[:i]), None):
        raise ConfigError("PL102", "a run is named twice", where=str(twice), mend="name each run once")
    configs = [names.read_config(folder) for folder in folders]
    curves = [read_curves(folder) for folder in folders]
    runs = [Compared(label, summarise(f)) for label, f in zip(_labels(folders), folders, strict=True)]
    return Comparison(runs, _differences(configs), _metrics(curves), curves, _notes(folders, runs))


def _labels(folders: Sequence[Path]) -> list[str]:
    """The names of the directories, with as much of their paths as tells them apart."""
    parts = [folder.absolute().parts for folder in folders]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    return [os.sep.join(p[-depth:]) for p in parts]


def _differences(configs: Sequence[Mapping[str, Any]]) -> list[DifferenceRow]:
    # A section that one of them does not have is one entry everywhere, not one for each of its keys.
    flat = [dict(flat_beside(config, configs)) for config in configs]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key not in _OWN_KEYS]
    rows = []
    for key in keys:
        texts = [_text(one[key]) if key in one else _ABSENT for one in flat]
        if len(set(texts)) > 1:
            rows.append(DifferenceRow(key, texts))
    return rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else jsonl.dumps(value)


def _metrics(curves: Sequence[Curves]) -> list[MetricRow]:
    everything = {name: points for one in curves for name, points in one.items()}
    bases = table_order({name.removeprefix(EVAL_PREFIX) for name in everything})
    rows = []
    for key, _ in metric_groups(everything):
        for base in (b for b in bases if spec(b).group == key):
            for name in (base, EVAL_PREFIX + base):
                if name in everything:
                    rows.append(_metric_row(name, [one[name][-1][1] if name in one else None for one in curves]))
    return rows


def _metric_row(name: str, values: list[float | None]) -> MetricRow:
    about = spec(name)
    finite = [v for v in values if v is not None and math.isfinite(v)]
    best: list[int] = []
    if about.direction != "neutral" and len(set(finite)) > 1:
        top = max(finite) if about.direction == "higher" else min(finite)
        best = [i for i, value in enumerate(values) if value == top]
    return MetricRow(name, about.unit, about.direction, values, best)


def _notes(folders: Sequence[Path], runs: Sequence[Compared]) -> list[str]:
    """What makes a comparison say less than it seems to."""
    notes = []
    steps = {run.summary.step for run in runs}
    if len(steps) > 1:
        notes.append("the runs have come to different steps: the last values are not of the same step")
    bases = {_fact(folder, "base_fingerprint") for folder in folders} - {None}
    if len(bases) > 1:
        notes.append("the runs started from different weights")
    if len({run.summary.method for run in runs}) > 1:
        notes.append("the methods differ: a loss, or a reward made of log-probs, means something else in each of them")
    return notes


def _fact(folder: Path, name: str) -> str | None:
    found = (names.read_json(folder / names.ENVIRONMENT_NAME) or {}).get(name)
    return None if found is None else str(found)


def write_comparison(comparison: Comparison, target: Path) -> Path:
    """Write the comparison as one self-contained page, with the curves of all runs overlaid.

    Raises:
        ConfigError: PL102, more runs than one page can tell apart.
        RunError: PL505, the page cannot be written.
    """
    if len(comparison.runs) > MOST:
        raise ConfigError(
            "PL102",
            f"a page tells {MOST} runs apart, and these are {len(comparison.runs)}",
            where="--html",
            mend=f"name {MOST} or fewer; the tables of the terminal have no such limit",
        )
    engine, given = page_engine()
    assert engine.loader is not None
    page = engine.get_template("compare.html.jinja").render(
        c=comparison,
        groups=_chart_groups(comparison),
        labels={_style(i): run.label for i, run in enumerate(comparison.runs)},
        compare_style=engine.loader.get_source(engine, "compare.css")[0],
        **given,
    )
    target = target.expanduser().absolute()
    jsonl.write_atomically(target, page)
    return target


def _style(place: int) -> str:
    return f"run-{place + 1}"


def _chart_groups(comparison: Comparison) -> list[tuple[str, list[charts.Chart]]]:
    """(heading, charts) in the order of the report; a metric and its held-out twin each have a chart."""
    titles = dict(metric_groups({n: p for one in comparison.curves for n, p in one.items()}))
    groups: dict[str, list[charts.Chart]] = {}
    for row in comparison.metrics:
        drawn = [
            (_style(i), run.label, curves[row.name])
            for i, (run, curves) in enumerate(zip(comparison.runs, comparison.curves, strict=True))
            if row.name in curves
        ]
        groups.setdefault(titles[spec(row.name).group], []).append(charts.overlay(row.name, drawn))
    return list(groups.items())
