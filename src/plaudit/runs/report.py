"""`report.html`: one self-contained page made from the run directory and nothing else.

No network, no library: inline style, inline SVG, one small inline script whose hash is the only one the page's content
security policy admits. Every text is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from plaudit.runs import charts, jsonl, ledger, planes, yaml_text
from plaudit.runs import rundir as names
from plaudit.runs.metrics import EVAL_PREFIX, format_value, spec, table_order
from plaudit.runs.sample_view import SampleView, sample_view
from plaudit.runs.state import run_state
from plaudit.runs.templating import source, template_engine

GROUPS = (
    ("loss", "Loss"),
    ("rewards", "Rewards"),
    ("completions", "Answers"),
    ("divergence", "KL and entropy"),
    ("policy", "Policy update"),
    ("value", "Value function"),
    ("rollout", "Sampling"),
    ("log-probs", "Log-probabilities"),
    ("optimiser", "Optimiser"),
    ("speed", "Speed and progress"),
    ("other", "Other metrics"),
)
_TILES = ("loss", "rewards/margins", "rewards/accuracies", "perplexity", "logps/mean", "tokens_per_second")
_ONLINE_TILES = (
    *("reward", "gold", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "tokens_per_second"),
)
_TILE_COUNT = 4

Curves = dict[str, list[charts.Point]]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """First, last and best value of one metric."""

    name: str
    unit: str
    direction: str
    first: str
    last: str
    best: str
    best_step: int | None
    better: bool | None
    """Whether the last value is better than the first; None without a direction."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number."""

    label: str
    value: str
    note: str


def read_curves(path: Path) -> Curves:
    """All metrics of a run directory: name → points in order of steps. Of a step written twice the last counts."""
    by_name: dict[str, dict[int, float]] = {}
    for line in jsonl.read_lines(path / names.METRICS_NAME):
        for name, value in line.items():
            if name != "step":
                by_name.setdefault(name, {})[int(line["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in by_name.items()}


def _is_online(curves: Curves) -> bool:
    """Whether the run samples answers: only then is there a reward."""
    return "reward" in curves or f"{EVAL_PREFIX}reward" in curves


def metric_groups(curves: Curves) -> list[tuple[str, str]]:
    """(group, heading) in the order of the page: where answers are sampled the loss says little, and stands further
    down."""
    groups = list(GROUPS)
    if _is_online(curves):
        loss = groups.pop(0)
        groups.insert([key for key, _ in groups].index("policy") + 1, loss)
    return groups


def summary_rows(curves: Curves) -> list[SummaryRow]:
    """One row per metric, in the order of the groups, held-out beside train."""
    bases = table_order({name.removeprefix(EVAL_PREFIX) for name in curves})
    ordered = [
        n for key, _ in metric_groups(curves) for b in bases if spec(b).group == key for n in (b, EVAL_PREFIX + b)
    ]
    rows: list[SummaryRow] = []
    untold = ("speed", "loss") if _is_online(curves) else ("speed",)
    for name in (n for n in ordered if n in curves):
        about, points = spec(name), curves[name]
        finite = [(s, v) for s, v in points if math.isfinite(v)]
        best: charts.Point | None = None
        if finite and about.direction != "neutral":
            best = (max if about.direction == "higher" else min)(finite, key=lambda p: p[1])
        first, last = points[0][1], points[-1][1]
        better = None
        if about.direction != "neutral" and about.group not in untold and first != last:
            better = last > first if about.direction == "higher" else last < first
        rows.append(
            SummaryRow(
                name,
                about.unit,
                about.direction,
                format_value(name, first),
                format_value(name, last),
                format_value(name, best[1]) if best else "–",
                best[0] if best else None,
                better,
            )
        )
    return rows


def _tiles(curves: Curves) -> list[Tile]:
    tiles: list[Tile] = []
    for base in _ONLINE_TILES if _is_online(curves) else _TILES:
        name = EVAL_PREFIX + base if EVAL_PREFIX + base in curves else base
        if name not in curves:
            continue
        points = curves[name]
        value, start = format_value(name, points[-1][1]), format_value(name, points[0][1])
        changed = len(points) > 1 and spec(base).group != "speed"
        note = f"from {start}" if changed else spec(base).unit
        tiles.append(Tile(name, value, note))
    return tiles[:_TILE_COUNT]


def _chart_groups(curves: Curves) -> list[tuple[str, list[charts.Chart]]]:
    bases = table_order({name.removeprefix(EVAL_PREFIX) for name in curves})
    groups: list[tuple[str, list[charts.Chart]]] = []
    for key, title in metric_groups(curves):
        drawn = [
            charts.chart(base, curves.get(base, []), curves.get(EVAL_PREFIX + base, []))
            for base in bases
            if spec(base).group == key
        ]
        if drawn:
            groups.append((title, drawn))
    return groups


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model of the KL grid."""

    path: str
    step: int
    kl: str
    reward: str
    held_out: str
    gold: str


def _grid(path: Path) -> list[KeptModel]:
    """The models that were kept where the KL passed a value, with what was measured of them."""
    file = path / names.KL_GRID_NAME
    entries = jsonl.loads(file.read_bytes()) if file.exists() else []

    def shown(entry: Mapping[str, Any], name: str) -> str:
        value = entry["metrics"].get(name)
        return "–" if value is None else format_value(name, value)

    return [
        KeptModel(
            e["path"],
            e["step"],
            format_value("kl", e["kl"]),
            shown(e, "reward"),
            shown(e, "eval/reward"),
            shown(e, "eval/gold"),
        )
        for e in entries
    ]


def gold_plane(curves: Curves) -> planes.Plane | None:
    """Held-out reward and gold over √KL, each as its rise since the first evaluation; None where one of them is not
    there. The KL of an evaluation is the last that was logged up to it."""
    reward, gold = dict(curves.get("eval/reward", [])), dict(curves.get("eval/gold", []))
    kl = curves.get("kl", [])
    steps = [s for s in sorted(reward.keys() & gold.keys()) if math.isfinite(reward[s]) and math.isfinite(gold[s])]
    if len(steps) < 2 or not kl:
        return None
    at = {s: next((v for t, v in reversed(kl) if t <= s and math.isfinite(v)), 0.0) for s in steps}
    roots = {s: math.sqrt(max(0.0, at[s])) for s in steps}
    series = [
        planes.Series(style, label, sorted((roots[s], values[s] - values[steps[0]]) for s in steps), dots=True)
        for style, label, values in (("train", "reward", reward), ("eval", "gold", gold))
    ]
    return planes.plane(
        "reward and gold over √KL",
        "Rise since the first evaluation of eval/reward (what is trained on) and of eval/gold (what is not). Where "
        "gold bends down and the reward does not, the reward is being won without what it stands for",
        series,
        x_name="square root of the KL to the reference, in nats per answer",
        y_name="rise",
    )


def _status(path: Path) -> tuple[str, str]:
    """(style, text)"""
    state = run_state(path, told=True)
    if state.phase == "finished":
        return "good", "complete"
    if state.phase == "running":
        return "running", "running"
    return "stopped", f"not complete: {state.phase} {state.reason}; the same command goes on with it"


def _headline(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    method = config.get("method") or {}
    model = config.get("model") or {}
    data = config.get("data") or {}
    sources = data.get("train") if isinstance(data, Mapping) else None
    shown = [str(s.get("path")) if isinstance(s, Mapping) else str(s) for s in sources or []]
    return {
        "name": path.name,
        "method": str(method.get("name", "?") if isinstance(method, Mapping) else method).upper(),
        "model": str(model.get("path", "?") if isinstance(model, Mapping) else model),
        "data": ", ".join(shown) or "?",
    }


def _context(path: Path) -> dict[str, Any]:
    config = names.read_config(path)
    complete = names.read_json(path / names.COMPLETE_NAME)
    curves = read_curves(path)
    samples: SampleView = sample_view(jsonl.read_lines(path / names.SAMPLES_NAME))
    steps = [points[-1][0] for points in curves.values()]
    expected = complete.get("ledger_head") if complete else None
    return {
        "headline": _headline(path, config),
        "status": _status(path),
        "last_step": max(steps, default=None),
        # Metrics have a table of their own below; here is what only the end of the run knows.
        "summary": {n: v for n, v in (complete or {}).get("summary", {}).items() if n not in curves},
        "tiles": _tiles(curves),
        "rows": summary_rows(curves),
        "chart_groups": _chart_groups(curves),
        "alerts": jsonl.read_lines(path / names.ALERTS_NAME),
        "grid": _grid(path),
        "gold": gold_plane(curves),
        "samples": samples,
        "data_report": names.read_json(path / names.DATA_REPORT_NAME),
        "config": yaml_text.dump(config),
        "environment": names.read_json(path / names.ENVIRONMENT_NAME) or {},
        "ledger": ledger.verify_ledger(path / ledger.LEDGER_NAME, expected=expected),
    }


def _show(value: Any) -> str:
    """A value of a JSON file for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return format_value("", value)
    return str(value)


def _numbers(value: Any) -> str | None:
    """Named numbers in a line; None for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(number, (int, float)) for number in value.values()):
        return None
    return ", ".join(f"{name} {_show(number)}" for name, number in value.items())


def _breakable(name: str) -> Markup:
    """A metric's name that may wrap after its slashes."""
    return Markup("/<wbr>").join(name.split("/"))


@cache
def page_engine() -> tuple[Environment, dict[str, Any]]:
    """The template engine of the pages about runs, compiled once in a process, and what every page is given: style,
    script and its hash."""
    engine, style = template_engine()
    engine.filters["show"] = _show
    engine.filters["numbers"] = _numbers
    engine.filters["breakable"] = _breakable
    engine.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    script = source(engine, "report.js").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return engine, {
        "style": style,
        "script": script,
        "script_hash": digest,
        "chart_width": int(charts.WIDTH),
        "chart_height": int(charts.HEIGHT),
        "max_points": charts.MAX_POINTS,
    }


def write_report(path: str | Path) -> Path:
    """Write report.html into a run directory, from what the directory holds, and return its path.

    Works at any time, also while the run goes on.

    Raises:
        RunError: PL504, there is no configuration or a file is damaged; PL505, the page cannot be written.
    """
    path = Path(path).expanduser().absolute()
    engine, given = page_engine()
    page = engine.get_template("report.html.jinja").render(**_context(path), **given)
    target = path / names.REPORT_NAME
    jsonl.write_atomically(target, page)
    return target
