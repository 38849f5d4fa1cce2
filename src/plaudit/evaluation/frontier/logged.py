"""A frontier from what a run has logged itself: no model is loaded and nothing is sampled.

A point is an evaluation with proxy and gold (`eval/reward`, `eval/gold`). Its distance is the run's own estimate of KL
per answer (`kl`) at that step, or at the latest logged step before it. The log has means and no prompts, so there are
no intervals of points; those of the laws come from the residuals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.errors import EvaluationError
from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.frontier.analysis import root_estimate
from plaudit.evaluation.frontier.results import (
    ONE_CURVE,
    Frontier,
    Loss,
    NamedFit,
    PolicyPoint,
    RewardName,
    Start,
)
from plaudit.evaluation.laws import LEAST_POINTS, fit_law
from plaudit.runs import jsonl
from plaudit.runs.rundir import METRICS_NAME, read_config

GOLD, PROXY, KL = "eval/gold", "eval/reward", "kl"


def logged_frontier(run: Path, confidence: float = 0.95) -> Frontier:
    """The frontier of a run from its `metrics.jsonl`.

    Raises:
        RunError: PL501, there is no run; PL504, its log is damaged. EvaluationError: PL806, it has not logged what is
            needed.
    """
    config = read_config(run)
    lines = jsonl.read_lines(run / METRICS_NAME)
    rows = [line for line in lines if GOLD in line and PROXY in line]
    start = next((line for line in rows if line["step"] == 0), None)
    if not rows or start is None:
        what = "no evaluation with a gold reward" if not rows else "no evaluation before its first step"
        raise EvaluationError(
            "PL806",
            f"the run has logged {what} ({PROXY} and {GOLD}), which the gains are counted from",
            where=str(run / METRICS_NAME),
            mend="leave out --from-log: the answers are then sampled and scored here",
        )
    kls = [(int(line["step"]), float(line[KL])) for line in lines if KL in line and math.isfinite(line[KL])]
    placed = [(line, kl) for line in rows if line is not start if (kl := _kl_at(kls, int(line["step"]))) is not None]
    if not placed:
        raise EvaluationError(
            "PL806",
            f"the run has logged no {KL} up to any of its {len(rows) - 1} evaluations after the first step",
            where=str(run / METRICS_NAME),
            mend="leave out --from-log: the KL is then measured here",
        )
    points = [_point(line, start, kl, confidence) for line, (_, kl) in placed]
    notes = [f"proxy and gold are {PROXY} and {GOLD} of the log, and have no intervals there"]
    late = sum(int(line["step"]) != step for line, (step, _) in placed)
    if late:
        notes.append(
            f"{late} of {len(points)} evaluations take their KL from an earlier step: none was logged at theirs"
        )
    if (config.get("rollout") or {}).get("eval_temperature", 0.0) == 0:
        notes.append(
            "the rewards are of the most likely answers (rollout.eval_temperature is 0), the KL of sampled ones"
        )
    missing = len(rows) - 1 - len(points)
    if missing:
        notes.append(f"{missing} evaluations have no {KL} before them and are left out")
    fits = [_fit(points, "proxy"), _fit(points, "gold")]
    begin = Start("step 0", 0, 0, 0, 0, float(start[PROXY]), float(start[GOLD]), 0.0, 0.0, None)
    loss = _loss(points, confidence)
    return Frontier(begin, confidence, points, [], fits, loss, None, losses={ONE_CURVE: loss}, notes=notes)


def _kl_at(kls: Sequence[tuple[int, float]], step: int) -> tuple[int, float] | None:
    return max((k for k in kls if k[0] <= step), key=lambda k: k[0], default=None)


def _known(value: float, confidence: float) -> Estimate:
    """A value whose spread nobody knows."""
    return Estimate(value, -math.inf, math.inf, 0, confidence)


def _point(line: Mapping[str, Any], start: Mapping[str, Any], kl: float, confidence: float) -> PolicyPoint:
    proxy, gold = float(line[PROXY]), float(line[GOLD])
    step, distance = int(line["step"]), _known(kl, confidence)
    return PolicyPoint(
        name=f"step {step}",
        step=step,
        answers=0,
        failed=0,
        kl=distance,
        distance=root_estimate(distance),
        proxy=_known(proxy - float(start[PROXY]), confidence),
        gold=_known(gold - float(start[GOLD]), confidence),
        proxy_mean=proxy,
        gold_mean=gold,
        gap=None,
        correlation=None,
        within=None,
    )


def _fit(points: Sequence[PolicyPoint], name: RewardName) -> NamedFit:
    kept = [p for p in points if p.distance.value > 0]
    distances = [p.distance.value for p in kept]
    different = len(np.unique(distances))
    if different < LEAST_POINTS:
        why = f"a fit needs {LEAST_POINTS} points at different distances, and there are {different}"
        return NamedFit("rl", name, None, why, len(points) - len(kept))
    fit = fit_law("rl", distances, [getattr(p, name).value for p in kept])
    return NamedFit("rl", name, fit, None, len(points) - len(kept))


def _loss(points: Sequence[PolicyPoint], confidence: float) -> Loss | None:
    best, last = max(points, key=lambda p: p.gold.value), points[-1]
    if best.gold.value <= 0:
        return None
    share = Estimate(1 - last.gold.value / best.gold.value, 0.0, math.inf, 0, confidence)
    return Loss(best.name, best.gold, last.name, last.gold, share)
