"""Curves as plain SVG geometry: down-sampling, axes and paths. Coordinates run from 0 to `WIDTH` and `HEIGHT`.

The SVG is stretched to the page (`preserveAspectRatio="none"`, strokes do not scale) and every label is HTML beside it,
so text keeps its size on a phone. Coordinates of curves are whole numbers, relative to the point before: half the
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from plaudit.runs.metrics import EVAL_PREFIX, MetricSpec, format_value, spec

WIDTH, HEIGHT = 1000.0, 400.0
MAX_POINTS = 600
_SMOOTH_POINTS = 150
"""Points of a smoothed line, which has no extremes to keep."""
_SMOOTH_FROM = 40
"""Noisy curves with at least this many points get a smoothed line over the raw one."""
_DOTS_UP_TO = 60
"""Evaluations are marked with dots unless there are more."""

Point = tuple[int, float]


_value = itemgetter(1)


def downsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: first, last, and from equal stretches between them the lowest, highest and a non-finite.

    Extremes and gaps therefore stay visible, which averaging or striding would hide.
    """
    if len(points) <= limit:
        return list(points)
    inner = points[1:-1]
    buckets = (limit - 2) // 3
    kept: list[Point] = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        finite = [p for p in part if math.isfinite(p[1])]
        chosen = {min(finite, key=_value), max(finite, key=_value)} if finite else set()
        chosen |= set([p for p in part if not math.isfinite(p[1])][:1])
        kept += sorted(chosen, key=lambda p: p[0])
    return [*kept, points[-1]]


def is_noisy(points: Sequence[Point]) -> bool:
    """Whether a curve goes up and down so much that its trend is hard to see.

    The way its value travels is more than five times its range; a curve that only rises travels its range once.
    """
    values = [value for _, value in points if math.isfinite(value)]
    travel = sum(abs(b - a) for a, b in pairwise(values))
    return len(values) >= _SMOOTH_FROM and travel > 5 * (max(values) - min(values))


def smooth(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Centred moving average over a twentieth of the curve: it does not lag. Non-finite values are left out.

    Args:
        limit: most points of it, evenly spread: it has no extremes to keep.
    """
    finite = [p for p in points if math.isfinite(p[1])]
    sums = [0.0, *accumulate(value for _, value in finite)]
    reach = max(1, len(finite) // 40)
    out: list[Point] = []
    count = min(limit, len(finite))
    for place in (i * (len(finite) - 1) // max(1, count - 1) for i in range(count)):
        step = finite[place][0]
        first, last = max(0, place - reach), min(len(finite), place + reach + 1)
        out.append((step, (sums[last] - sums[first]) / (last - first)))
    return out


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2, 5 × 10ⁿ apart) inside [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.7)
    first = math.ceil(low / width - 1e-9)
    last = math.floor(high / width + 1e-9)
    return [n * width for n in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place given in per cent of the plot."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """One drawn line."""

    style: str
    """CSS class: train, train-raw, eval."""
    path: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A marker; per cent of the plot."""

    style: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A step at which an alert was raised.

    Attributes:
        x: per cent of the plot.
        level: of the alert.
        number: which of the page's alerts it is.
        step: at which it was raised.
    """

    x: float
    level: str
    number: int
    step: int


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything the template needs to draw one metric."""

    spec: MetricSpec
    lines: list[Line]
    dots: list[Dot]
    hover: list[dict[str, Any]]
    """Per line of points: label, CSS class, the first step and the way from each to the next, the values as text, and
    their heights from 0 (top) to `HEIGHT` (None where the value is not finite)."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    first_step: int
    last_step: int
    latest: list[tuple[str, str]]
    """(train or eval, last value)"""
    not_finite: int
    smoothed: bool
    marks: list[Mark] = field(default_factory=list)


class _Axes:
    def __init__(self, points: Sequence[Point]) -> None:
        steps = [step for step, _ in points]
        values = [value for _, value in points if math.isfinite(value)] or [0.0]
        self.first, self.last = min(steps), max(steps)
        low, high = min(values), max(values)
        size = max(abs(low), abs(high))
        # What differs in the last digits only is one value; its labels could not be told apart.
        pad = (high - low) * 0.06 if high - low > 1e-9 * size else size * 0.1
        # Where all is 0, shares and counts stay above it.
        self.low, self.high = (low - pad, high + pad) if pad else (-0.06, 1.06)

    def x(self, step: float) -> float:
        """0 to 1."""
        return (step - self.first) / (self.last - self.first) if self.last > self.first else 0.5

    def y(self, value: float) -> float:
        """0 (top) to 1."""
        return (self.high - value) / (self.high - self.low)

    def at(self, step: float, value: float) -> tuple[int, int]:
        """In the coordinates of the SVG."""
        return round(self.x(step) * WIDTH), round(self.y(value) * HEIGHT)

    def path(self, points: Sequence[Point]) -> str:
        parts: list[str] = []
        pen: tuple[int, int] | None = None
        for step, value in points:
            if not math.isfinite(value):
                pen = None  # a gap where the value is not finite
                continue
            x, y = self.at(step, value)
            parts.append(f"M{x} {y}" if pen is None else f"l{x - pen[0]} {y - pen[1]}")
            pen = x, y
        return "".join(parts)


def _step_ticks(axes: _Axes) -> list[Tick]:
    if axes.first == axes.last:
        return [Tick(50.0, str(axes.first))]
    ticks = [t for t in nice_ticks(axes.first, axes.last) if t == round(t)]
    return [Tick(100 * axes.x(t), f"{round(t):,}") for t in ticks]


def _value_ticks(axes: _Axes) -> list[Tick]:
    ticks = nice_ticks(axes.low, axes.high, 3)
    if len(ticks) < 2:  # one says nothing of the scale
        ticks = nice_ticks(axes.low, axes.high, 6)
    width = ticks[1] - ticks[0]
    return [Tick(100 * axes.y(t), tick_text(t, width)) for t in ticks]


def tick_text(value: float, width: float) -> str:
    """The label of a tick on an axis whose ticks are `width` apart."""
    largest = max(abs(value), width)
    # as many digits as tell neighbours apart
    digits = max(3, math.floor(math.log10(abs(value))) - math.floor(math.log10(width)) + 1) if value else 3
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if largest >= size:
            return f"{value / size:.{digits}g}{letter}" if value else "0"
    if width < 1e-4:
        return f"{value:.{digits}g}" if value else "0"
    decimals = max(0, -math.floor(math.log10(width)))
    return f"{value:,.{decimals}f}"


def _hover(label: str, style: str, name: str, points: Sequence[Point], axes: _Axes) -> dict[str, Any]:
    steps = [step for step, _ in points]
    return {
        "label": label,
        "style": style,
        "steps": [steps[0], *(b - a for a, b in pairwise(steps))],
        "texts": [format_value(name, v) for _, v in points],
        "heights": [axes.at(s, v)[1] if math.isfinite(v) else None for s, v in points],
    }


def chart(
    name: str, train: Sequence[Point], held_out: Sequence[Point], alerts: Mapping[int, tuple[int, str]] | None = None
) -> Chart:
    """The chart of metric `name` (without the eval prefix), train and held-out values on one axis.

    Args:
        alerts: number → (step, level) of the alerts that are marked on it.
    """
    axes = _Axes([*train, *held_out])
    lines: list[Line] = []
    hover: list[dict[str, Any]] = []
    latest: list[tuple[str, str]] = []
    thin, thin_eval = downsample(train), downsample(held_out)
    smoothed = is_noisy(train)
    if train:
        lines.append(Line("train-raw" if smoothed else "train", axes.path(thin)))
        if smoothed:
            lines.append(Line("train", axes.path(smooth(train, _SMOOTH_POINTS))))
        hover.append(_hover("train", "train", name, thin, axes))
        latest.append(("train", format_value(name, train[-1][1])))
    if held_out:
        lines.append(Line("eval", axes.path(thin_eval)))
        hover.append(_hover("eval", "eval", name, thin_eval, axes))
        latest.append(("eval", format_value(name, held_out[-1][1])))
    marked = [("train", p) for p in thin if len(thin) == 1]
    marked += [("eval", p) for p in thin_eval if len(thin_eval) <= _DOTS_UP_TO]
    dots = [Dot(style, 100 * axes.x(s), 100 * axes.y(v)) for style, (s, v) in marked if math.isfinite(v)]
    return Chart(
        spec(name if train else EVAL_PREFIX + name),
        lines,
        dots,
        hover,
        _step_ticks(axes),
        _value_ticks(axes),
        axes.first,
        axes.last,
        latest,
        sum(not math.isfinite(v) for _, v in [*train, *held_out]),
        smoothed,
        [
            Mark(100 * min(1.0, max(0.0, axes.x(step))), level, number, step)
            for number, (step, level) in (alerts or {}).items()
        ],
    )


def overlay(name: str, curves: Sequence[tuple[str, str, Sequence[Point]]]) -> Chart:
    """The chart of metric `name` (with its eval prefix) with the curves of several runs on one axis.

    Args:
        name: of the metric.
        curves: (CSS class, label, points) of each run that has logged it, each with a point.
    """
    axes = _Axes([point for _, _, points in curves for point in points])
    lines: list[Line] = []
    dots: list[Dot] = []
    smoothed = False
    for style, _, points in curves:
        thin = downsample(points)
        noisy = is_noisy(points)
        smoothed = smoothed or noisy
        lines.append(Line(f"{style} raw" if noisy else style, axes.path(thin)))
        if noisy:
            lines.append(Line(style, axes.path(smooth(points, _SMOOTH_POINTS))))
        marked = thin if len(thin) == 1 or (name.startswith(EVAL_PREFIX) and len(thin) <= _DOTS_UP_TO) else []
        dots += [Dot(style, 100 * axes.x(s), 100 * axes.y(v)) for s, v in marked if math.isfinite(v)]
    return Chart(
        spec(name),
        lines,
        dots,
        [_hover(label, style, name, downsample(points), axes) for style, label, points in curves],
        _step_ticks(axes),
        _value_ticks(axes),
        axes.first,
        axes.last,
        [(style, format_value(name, points[-1][1])) for style, _, points in curves],
        sum(not math.isfinite(v) for _, _, points in curves for _, v in points),
        smoothed,
    )
