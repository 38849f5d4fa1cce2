"""Whether what a method is about has moved the way it should, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from plaudit.runs.charts import Point
from plaudit.runs.curves import Curves
from plaudit.runs.metrics import EVAL_PREFIX, format_value, rounding, spec
from plaudit.runs.summary import main_metric

Outcome = Literal["better", "worse", "unclear"]

_BESIDE = {"rewards/accuracies": "rewards/margins", "rewards/margins": "rewards/accuracies", "reward": "gold"}
"""What has to be looked at together: pairs may be in the right order by nothing, a reward may be won without what it
stands for."""
_FROM = 5
"""Fewest points whose scatter is taken into account."""
_SPREAD = 1.05
"""Standard deviation of a normal value for a median distance of 1 between two of them."""
_LOST = 0.1
"""Share of the way to its best that a metric has to give back for this to be said."""


@dataclass(frozen=True, slots=True)
class Movement:
    """How one metric has moved.

    Attributes:
        name: with its eval prefix.
        first, last: for people. Of noisy curves, means over their first and last fifth.
        lost: step of the best value where the last is clearly worse, else None.
    """

    name: str
    first: str
    last: str
    outcome: Outcome
    lost: int | None

    @property
    def words(self) -> str:
        """What it did, without its name."""
        if self.outcome == "unclear":
            return f"was {self.first} and is {self.last}, which is within its scatter"
        rising = (spec(self.name).direction == "higher") == (self.outcome == "better")
        return f"{'rose' if rising else 'fell'} from {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole of it.

    Attributes:
        outcome: mixed: one of them got better and another worse; early: nothing was measured twice.
        movements: the main metric first.
        held_out: whether they were measured on data that is not trained on.
    """

    outcome: Literal["better", "worse", "mixed", "unclear", "early"]
    movements: list[Movement]
    held_out: bool

    @property
    def head(self) -> str:
        """In three or four words."""
        return {
            "better": "Going the right way",
            "worse": "Going the wrong way",
            "mixed": "Better and worse",
            "unclear": "No clear change",
            "early": "Too early to tell",
        }[self.outcome]


def verdict(curves: Curves, config: Mapping[str, Any]) -> Verdict:
    """Judge by the run's main metric, and by the one that belongs beside it."""
    main = main_metric(curves, config) or ("loss" if "loss" in curves else None)
    if main is None:
        return Verdict("early", [], False)
    held_out = main.startswith(EVAL_PREFIX)
    beside = _BESIDE.get(main.removeprefix(EVAL_PREFIX))
    names = [main, *([EVAL_PREFIX * held_out + beside] if beside else [])]
    found = [moved for name in names if name in curves and (moved := movement(name, curves[name])) is not None]
    outcomes = {moved.outcome for moved in found}
    if not found:
        return Verdict("early", [], held_out)
    if {"better", "worse"} <= outcomes:
        return Verdict("mixed", found, held_out)
    for outcome in ("worse", "better"):
        if outcome in outcomes:
            return Verdict(outcome, found, held_out)
    return Verdict("unclear", found, held_out)


def movement(name: str, points: Sequence[Point]) -> Movement | None:
    """From the beginning to the end of a curve; None where it has no better direction, or fewer than two points.

    A change counts where it is more than two standard errors, as the distance between neighbouring points has them (its
    median: a single jump is no scatter).
    """
    direction = spec(name).direction
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if direction == "neutral" or len(finite) < 2:
        return None
    values = [value for _, value in finite]
    sign = 1.0 if direction == "higher" else -1.0
    reach = len(values) // 5 if len(values) >= 2 * _FROM else 1
    first, last = sum(values[:reach]) / reach, sum(values[-reach:]) / reach
    scatter = median(abs(b - a) for a, b in pairwise(values)) * _SPREAD
    error = scatter * math.sqrt(2 / reach) if len(values) >= _FROM else 0.0
    gain = sign * (last - first)
    outcome: Outcome = "unclear" if abs(gain) <= max(2 * error, rounding(name)) else "better" if gain > 0 else "worse"
    best_step, best = max(finite, key=lambda point: sign * point[1])
    # The best of a noisy training curve is chance; an evaluation is of the same rows each time.
    lost = name.startswith(EVAL_PREFIX) and sign * (best - values[-1]) > _LOST * sign * (best - values[0])
    return Movement(name, format_value(name, first), format_value(name, last), outcome, best_step if lost else None)
