"""The curves of a run as its directory has them: read, ordered under headings, and in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from plaudit.runs import charts, jsonl, planes
from plaudit.runs import rundir as names
from plaudit.runs.metrics import EVAL_PREFIX, format_value, spec, table_order

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


def read_curves(path: Path) -> Curves:
    """All metrics of a run directory: name → points in order of steps. Of a step written twice the last counts."""
    found: Curves = {}
    for line in jsonl.read_lines(path / names.METRICS_NAME):
        step = int(line.pop("step"))
        for name, value in line.items():
            found.setdefault(name, []).append((step, float(value)))
    return {name: _in_order(points) for name, points in found.items()}


def _in_order(points: list[charts.Point]) -> list[charts.Point]:
    ordered = all(a[0] < b[0] for a, b in pairwise(points))
    return points if ordered else sorted(dict(points).items())


def is_online(curves: Curves) -> bool:
    """Whether the run samples answers: only then is there a reward."""
    return "reward" in curves or f"{EVAL_PREFIX}reward" in curves


def metric_groups(curves: Curves) -> list[tuple[str, str]]:
    """(group, heading) in the order of the page: where answers are sampled the loss says little, and stands further
    down."""
    groups = list(GROUPS)
    if is_online(curves):
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
    untold = ("speed", "loss") if is_online(curves) else ("speed",)
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
