"""`report.html`: one self-contained page made from the run directory and nothing else.

No network, no library: inline style, inline SVG, one small inline script whose hash is the only one the page's content
security policy admits. Every text is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from plaudit.errors import RunError
from plaudit.runs import charts, jsonl, ledger, yaml_text
from plaudit.runs import rundir as names
from plaudit.runs.alert_curves import curves_of
from plaudit.runs.curves import Curves, gold_plane, is_online, metric_groups
from plaudit.runs.data_view import data_uses
from plaudit.runs.eta import duration
from plaudit.runs.metrics import EVAL_PREFIX, format_bytes, format_value, spec, table_order
from plaudit.runs.observer import Sample, SilentObserver
from plaudit.runs.overview import Overview, overview
from plaudit.runs.sample_view import sample_view
from plaudit.runs.templating import source, template_engine, visible
from plaudit.runs.verdict import verdict

_TILES = ("loss", "rewards/margins", "rewards/accuracies", "perplexity", "logps/mean", "tokens_per_second")
_ONLINE_TILES = (
    *("reward", "gold", "kl", "entropy", "completions/mean_length", "completions/clipped_ratio", "tokens_per_second"),
)
_TILE_COUNT = 4
_SEVERITY = ("error", "warn", "info")
_SHARE = 0.05
"""Most of a run's time that writing its report takes at evaluations."""


class Choice(Protocol):
    """A key of the configuration that is not what the defaults make of it."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def default(self) -> Any: ...
    @property
    def has_default(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number."""

    label: str
    value: str
    note: str


def _tiles(curves: Curves) -> list[Tile]:
    tiles: list[Tile] = []
    for base in _ONLINE_TILES if is_online(curves) else _TILES:
        name = EVAL_PREFIX + base if EVAL_PREFIX + base in curves else base
        if name not in curves:
            continue
        points = curves[name]
        value, start = format_value(name, points[-1][1]), format_value(name, points[0][1])
        changed = len(points) > 1 and spec(base).group != "speed"
        note = f"from {start}" if changed else spec(base).unit
        tiles.append(Tile(name, value, note))
    return tiles[:_TILE_COUNT]


@dataclass(frozen=True, slots=True)
class ShownAlert:
    """An alert with its place on the page."""

    number: int
    level: str
    code: str
    step: int
    message: str
    advice: str
    curves: list[str]
    """metrics whose charts are marked with it"""


def _alerts(found: Overview) -> list[ShownAlert]:
    """The gravest first, then in the order of steps."""

    def rank(alert: Mapping[str, Any]) -> tuple[int, int]:
        level = alert["level"]
        return _SEVERITY.index(level) if level in _SEVERITY else len(_SEVERITY), alert["step"]

    return [
        ShownAlert(
            number,
            a["level"],
            a["code"],
            a["step"],
            a["message"],
            a["advice"],
            curves_of(a, found.curves, found.config),
        )
        for number, a in enumerate(sorted(found.alerts, key=rank), start=1)
    ]


def _chart_groups(curves: Curves, alerts: Sequence[ShownAlert]) -> list[tuple[str, str, list[charts.Chart]]]:
    """(key, heading, charts)"""
    bases = table_order({name.removeprefix(EVAL_PREFIX) for name in curves})
    groups: list[tuple[str, str, list[charts.Chart]]] = []
    for key, title in metric_groups(curves):
        drawn = [
            charts.chart(
                base,
                curves.get(base, []),
                curves.get(EVAL_PREFIX + base, []),
                {a.number: (a.step, a.level) for a in alerts if base in a.curves},
            )
            for base in bases
            if spec(base).group == key
        ]
        if drawn:
            groups.append((key, title, drawn))
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


def _context(path: Path, choices: Sequence[Choice] | None) -> dict[str, Any]:
    found = overview(path, lasting=True)
    complete = names.read_json(path / names.COMPLETE_NAME)
    alerts = _alerts(found)
    report = names.read_json(path / names.DATA_REPORT_NAME)
    record = ledger.verify_ledger(path / ledger.LEDGER_NAME, expected=complete["ledger_head"] if complete else None)
    return {
        "headline": _headline(path, found.config),
        "run": found.summary,
        "found": found,
        "verdict": verdict(found.curves, found.config),
        "evaluated": any(name.startswith(EVAL_PREFIX) for name in found.curves),
        # Metrics have a table of their own below; here is what only the end of the run knows.
        "summary": {n: v for n, v in (complete or {}).get("summary", {}).items() if n not in found.curves},
        "tiles": _tiles(found.curves),
        "rows": {row.name: row for row in found.metrics},
        "chart_groups": _chart_groups(found.curves, alerts),
        "alerts": alerts,
        "grid": _grid(path),
        "gold": gold_plane(found.curves),
        "samples": sample_view(jsonl.read_lines(path / names.SAMPLES_NAME)),
        "data_report": report,
        "data_uses": data_uses(report or {}),
        "plan": _plan(names.read_json(path / names.PLAN_NAME) or {}),
        "token_budget": names.read_json(path / names.TOKEN_BUDGET_NAME),
        "choices": choices,
        "config": yaml_text.dump(found.config),
        "environment": names.read_json(path / names.ENVIRONMENT_NAME) or {},
        "ledger": record,
        "history": [e for e in record.events if e.get("event") not in ("note", "checkpoint")],
        "config_path": shlex.quote(str(path / names.CONFIG_NAME)),
        "run_path": shlex.quote(str(path)),
        "written": datetime.now(UTC),
    }


def _plan(known: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the plan; columns are divided by signs here, where more than a space is not seen."""
    rows = known.get("plan") or {}
    return {label: re.sub(" {2,}", " · ", v.strip()) if isinstance(v, str) else v for label, v in rows.items()}


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


def _setting(value: Any) -> str:
    """A value of the configuration."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else jsonl.dumps(value)


def _breakable(name: str) -> Markup:
    """A metric's name that may wrap after its slashes and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_])", name))


def _anchor(name: str) -> str:
    """Where the chart of a metric is on the page."""
    return f"curve:{quote(name.removeprefix(EVAL_PREFIX), safe='/_-@')}"


def _sentence(text: str) -> str:
    """Ends with a full stop, and begins with a capital unless that is a name."""
    is_name = any(sign in text.split(" ", 1)[0] for sign in "/_.=")
    return f"{text[:1] if is_name else text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


@cache
def page_engine() -> tuple[Environment, dict[str, Any]]:
    """The template engine of the pages about runs, compiled once in a process, and what every page is given: style,
    script and its hash."""
    engine, style = template_engine()
    engine.filters |= {
        "show": _show,
        "numbers": _numbers,
        "setting": _setting,
        "breakable": _breakable,
        "anchor": _anchor,
        "sentence": _sentence,
        "visible": visible,
        "bytes": format_bytes,
        "duration": duration,
    }
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


def write_report(path: str | Path, choices: Sequence[Choice] | None = None) -> Path:
    """Write report.html into a run directory, from what the directory holds, and return its path.

    Works at any time, also while the run goes on. An earlier report is replaced at once or not at all.

    Args:
        choices: the keys of its configuration that are no defaults (`plaudit.config.changed`); None = not told.

    Raises:
        RunError: PL501, there is no run; PL504, a file is damaged; PL505, the page cannot be written.
    """
    path = Path(path).expanduser().absolute()
    engine, given = page_engine()
    page = engine.get_template("report.html.jinja").render(**_context(path, choices), **given)
    target = path / names.REPORT_NAME
    jsonl.write_atomically(target, page)
    return target


class ReportWriter(SilentObserver):
    """Writes the report of a run behind each evaluation, and at its end however it ends.

    A run does not end for a report that cannot be written.

    Args:
        path: the run directory.
        choices: makes the choices that the report shows; asked once, when they are needed.
        say: told when it cannot be written.
    """

    def __init__(self, path: Path, choices: Callable[[], Sequence[Choice]], say: Callable[[str], None]) -> None:
        self._path = path
        self._choices = cache(choices)
        self._say = say
        self._due = False
        self._not_before = 0.0
        self._ended = False

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._due = True  # its alerts and samples are still to come

    def on_samples(self, step: int, samples: Sequence[Sample]) -> None:
        self._write_if_due()

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._write_if_due()

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self.close()

    def close(self) -> None:
        if not self._ended:
            self._ended = True
            self._write()

    def _write_if_due(self) -> None:
        begun = time.monotonic()
        if self._due and begun >= self._not_before:
            self._due = False
            self._write()
            self._not_before = time.monotonic() + (time.monotonic() - begun) / _SHARE

    def _write(self) -> None:
        try:
            write_report(self._path, self._choices())
        except RunError as error:
            self._say(f"{names.REPORT_NAME} was not written: {error.what}")
