"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plaudit.runs.charts import Point

_LEVELS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
"""What stands where a value is not a number, or infinite."""


def sparkline(points: Sequence[Point], width: int) -> str:
    """The course of a metric over its steps in at most `width` characters.

    Each character is the mean of the points in its stretch of steps; a stretch with a value that is not finite shows
    that. A stretch without a point repeats the one before it. A flat curve is drawn in the middle.
    """
    if not points or width < 1:
        return ""
    first, last = points[0][0], points[-1][0]
    cells = min(width, last - first + 1)
    stretches: list[list[float]] = [[] for _ in range(cells)]
    for step, value in points:
        stretches[(step - first) * cells // (last - first + 1)].append(value)
    means: list[float | None] = []
    for values in stretches:
        means.append(sum(values) / len(values) if values else means[-1])
    finite = [m for m in means if m is not None and math.isfinite(m)]
    if not finite:
        return NOT_FINITE * cells
    low, high = min(finite), max(finite)
    return "".join(_level(mean, low, high) for mean in means)


def _level(mean: float | None, low: float, high: float) -> str:
    if mean is None or not math.isfinite(mean):
        return NOT_FINITE
    if high == low:
        return _LEVELS[len(_LEVELS) // 2 - 1]
    return _LEVELS[min(len(_LEVELS) - 1, int((mean - low) / (high - low) * len(_LEVELS)))]
