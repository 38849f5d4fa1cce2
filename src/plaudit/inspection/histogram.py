"""How long things are, in tokens: bins with round edges, one of which is the length limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plaudit.data.report import Lengths

BINS = 12
"""About how many bins a histogram has."""
_TAIL = 99
"""Percentile at which a long tail is put into one bin."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Lengths from `low` to `high`, both included; `high` is None for the bin without an end."""

    low: int
    high: int | None
    count: int
    over: bool = False
    """Whether the whole bin lies beyond the limit."""

    @property
    def label(self) -> str:
        if self.high is None:
            return f"{self.low:,} and more"
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths of one sort."""

    name: str
    lengths: Lengths
    count: int
    bins: tuple[Bin, ...]
    limit: int | None = None
    """Longest that is allowed; it ends a bin where it lies among the lengths."""

    @property
    def over(self) -> int:
        """How many are longer than the limit."""
        return sum(b.count for b in self.bins if b.over)

    @classmethod
    def of(cls, name: str, lengths: Sequence[int], limit: int | None = None) -> Histogram | None:
        """The histogram of some lengths; None where there are none."""
        if not lengths:
            return None
        values = np.asarray(lengths)
        low, high = int(values.min()), int(values.max())
        shown = int(np.percentile(values, _TAIL))
        shown = high if high <= 2 * max(shown, 1) else shown
        width = _round((max(shown, 1) - low) / BINS)
        starts = list(range(low // width * width, shown + 1, width))
        if open_end := high >= starts[-1] + width:
            starts.append(starts[-1] + width)
        if limit is not None and starts[0] <= limit < high:
            starts = sorted({*starts, limit + 1})
        edges = [*starts, starts[-1] + width]
        counts = np.histogram(values, [*edges[:-1], max(edges[-1], high + 1)])[0]
        ends = [end - 1 for end in edges[1:-1]] + [None if open_end else edges[-1] - 1]
        bins = [
            Bin(start, end, int(n), limit is not None and start > limit)
            for start, end, n in zip(starts, ends, counts, strict=True)
        ]
        return cls(name, Lengths.of(list(lengths)), len(values), tuple(bins), limit)


def _round(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    if width <= 1:
        return 1
    power = 10 ** math.floor(math.log10(width))
    return int(next(power * m for m in (1, 2, 5, 10) if power * m >= width))


__all__ = ["Bin", "Histogram"]
