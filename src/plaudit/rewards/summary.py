"""What a file's rewards look like: a line per reward, and how the values are spread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_FEW = 8
"""Up to so many different values are counted one by one; more are put into bins."""
_BINS = 10


@dataclass(frozen=True, slots=True)
class Line:
    """Some values in a line.

    Attributes:
        std: the population's.
    """

    name: str
    count: int
    mean: float
    std: float
    least: float
    most: float

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Line:
        """Of at least one value."""
        mean = math.fsum(v / len(values) for v in values)
        try:
            std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
        except OverflowError:  # numbers near the end of what a float can be
            std = math.inf
        return cls(name, len(values), mean, std, min(values), max(values))


@dataclass(slots=True)
class Summary:
    """What was scored.

    Attributes:
        total: the values of all answers that have one.
        parts: the values of each part.
        failed: answers without a value, by kind of failure.
        notes: what was done, in sentences.
    """

    total: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def take(self, value: float | None, parts: Mapping[str, float], error: str | None) -> None:
        """Add one answer. Of an error, what stands before the first colon is its kind."""
        if value is None:
            self.failed[(error or "unknown").partition(":")[0]] += 1
            return
        self.total.append(value)
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part)

    @property
    def lines(self) -> list[Line]:
        """The whole, then its parts where they say more than the whole."""
        if not self.total:
            return []
        lines = [Line.of("score", self.total)]
        parts = [Line.of(name, values) for name, values in self.parts.items()]
        same = len(parts) == 1 and self.parts[parts[0].name] == self.total
        return lines + ([] if same else parts)

    @property
    def histogram(self) -> list[tuple[str, int]]:
        """(value or range, how many answers), from low to high."""
        counts = Counter(self.total)
        if len(counts) <= _FEW:
            return [(f"{value:.4g}", n) for value, n in sorted(counts.items())]
        return _binned(self.total)


def _binned(values: Iterable[float]) -> list[tuple[str, int]]:
    values = sorted(values)
    low, high = values[0], values[-1]
    width = (high - low) / _BINS
    if not math.isfinite(width):
        return [(f"{low:.4g} to {high:.4g}", len(values))]
    counts = [0] * _BINS
    for value in values:
        counts[min(int((value - low) / width), _BINS - 1)] += 1
    return [(f"{low + i * width:.4g} to {low + (i + 1) * width:.4g}", n) for i, n in enumerate(counts)]
