"""Charts with a number on each axis, in the look of the report's curves: reliability, histograms, trade-offs.

Geometry only, in the coordinates of `plaudit.runs.charts`; every label is HTML beside the SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.runs.charts import HEIGHT, WIDTH, Dot, Line, Tick, nice_ticks, tick_text

XY = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points that are drawn in one style.

    Attributes:
        style: CSS class: train, eval, guide, …
        label: its name in the key; empty = not in the key.
        points: (x, y), finite.
        whiskers: (x, low, high) vertical intervals.
        dots: mark the points.
        line: join the points.
    """

    style: str
    label: str
    points: Sequence[XY]
    whiskers: Sequence[tuple[float, float, float]] = ()
    dots: bool = False
    line: bool = True


@dataclass(frozen=True, slots=True)
class Plane:
    """Everything a template needs to draw it."""

    title: str
    meaning: str
    x_name: str
    y_name: str
    lines: list[Line]
    dots: list[Dot]
    key: list[tuple[str, str]]
    """(style, label)"""
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end; outside values stop at the edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def plane(
    title: str,
    meaning: str,
    series: Sequence[Series],
    *,
    x_name: str,
    y_name: str,
    x_range: XY | None = None,
    y_range: XY | None = None,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> Plane:
    """A chart of several series.

    Args:
        x_range, y_range: ends of the axes; None = what the points and whiskers need.
        x_ticks: (place, label) on the horizontal axis; None = round numbers.
    """
    needed = ends(series)
    across, up = _Range(*(x_range or needed[0])), _Range(*(y_range or needed[1]))
    lines: list[Line] = []
    dots: list[Dot] = []
    for one in series:
        lines += [
            Line(f"{one.style} whisker", _path([(x, low), (x, high)], across, up)) for x, low, high in one.whiskers
        ]
        if one.line and len(one.points) > 1:
            lines.append(Line(one.style, _path(one.points, across, up)))
        if one.dots or len(one.points) == 1:
            dots += [Dot(one.style, 100 * across.share(x), 100 - 100 * up.share(y)) for x, y in one.points]
    return Plane(
        title,
        meaning,
        x_name,
        y_name,
        lines,
        dots,
        [(s.style, s.label) for s in series if s.label],
        _ticks(across, 5) if x_ticks is None else [Tick(100 * across.share(x), text) for x, text in x_ticks],
        [Tick(100 - t.at, t.text) for t in _ticks(up, 4)],
    )


def steps(edges: Sequence[float], heights: Sequence[float]) -> list[XY]:
    """The outline of a histogram, from the floor to the floor."""
    points: list[XY] = [(edges[0], 0.0)]
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        points += [(left, height), (right, height)]
    return [*points, (edges[-1], 0.0)]


def ends(series: Sequence[Series]) -> tuple[XY, XY]:
    """The ends of the axes, across and up, that have room for all points and whiskers."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points] + [b for s in series for _, *both in s.whiskers for b in both]
    return _ends(xs, pad=0.0), _ends(ys, pad=0.06)


def _ends(values: Sequence[float], pad: float) -> XY:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * pad if high > low else abs(high) * 0.1 or 1.0
    return low - room, high + room


def _path(points: Sequence[XY], across: _Range, up: _Range) -> str:
    places = (f"{across.share(x) * WIDTH:.1f} {(1 - up.share(y)) * HEIGHT:.2f}" for x, y in points)
    return "M" + "L".join(places)


def _ticks(axis: _Range, count: int) -> list[Tick]:
    found = nice_ticks(axis.low, axis.high, count)
    width = found[1] - found[0] if len(found) > 1 else 1.0
    return [Tick(100 * axis.share(t), tick_text(t, width)) for t in found]
