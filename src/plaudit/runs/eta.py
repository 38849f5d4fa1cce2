"""Time left, from smoothed seconds per step."""

from __future__ import annotations

_SMOOTHING = 0.1
"""Weight of the newest interval: the estimate forgets over about ten logged steps."""


class Eta:
    """Feed it (time, step); ask it for the seconds that are left.

    Intervals are weighted by age, not by length, and evaluations count where they fall: the estimate includes them.
    """

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._mean = 0.0
        self._weight = 0.0

    def update(self, now: float, step: int) -> None:
        """A step was finished at time `now` (seconds of any clock)."""
        if self._last is not None and step > self._last[1]:
            per_step = (now - self._last[0]) / (step - self._last[1])
            self._mean += _SMOOTHING * (per_step - self._mean)
            self._weight += _SMOOTHING * (1 - self._weight)
        self._last = (now, step)

    def seconds_left(self, total_steps: int) -> float | None:
        """Seconds until `total_steps`; None before two steps were seen."""
        if self._last is None or not self._weight:
            return None
        # Division by the summed weights takes out the zero the mean started from.
        return max(0, total_steps - self._last[1]) * self._mean / self._weight


def duration(seconds: float) -> str:
    """A duration for people: 45s, 3m20s, 2h05m, 3d04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
