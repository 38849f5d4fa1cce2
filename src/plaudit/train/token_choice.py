"""How many tokens a micro-batch may have, from measurements: a pure function of what a measurement returns.

Peak memory follows the tokens of a micro-batch along a line, so a few sizes tell about the others. Where running out of
memory kills the process (a CPU), no size is tried that the sizes before it do not allow, and each is at most twice as
large as the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

MARGIN = {True: 0.4, False: 0.2}
"""Share of the free memory that is left alone, careful or not: fragments of the allocator, and what only occurs in a
later step. On a CPU the C library keeps pieces of freed memory that fit nothing, and more of them in every step."""
GAIN = 0.03
"""A larger micro-batch must be faster by this share, or it is no faster."""
FIRST = {True: 256, False: 1024}
"""The first size: careful or not."""
_SHOWS = 1024
"""Tokens of a micro-batch that shows what larger ones take."""
_COMFORT = 0.5
"""Share of the free memory up to which an extrapolation leaves no doubt."""
_LINE = 3
"""Sizes that are measured before a line is trusted beyond them, where trying is safe."""
_TRIES = 8

Reason = Literal["memory", "step", "speed", "longest"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a micro-batch of `tokens` took."""

    tokens: int
    bytes: int | None
    """beyond what the process held at the start, with everything that a run has to hold meanwhile; None = more than
    there is"""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a choice must respect."""

    free: int
    """bytes that can be had beyond what the process holds at the start"""
    fixed: int
    """bytes of gradients and optimiser state, which are there at any size"""
    share: int
    """tokens of the largest optimiser step that fall on one process: more are of no use; at least `longest`"""
    longest: int
    """tokens of the longest unit, which cannot be cut"""
    careful: bool
    """whether running out of memory kills the process"""
    margin: float | None = None
    """None = `MARGIN`"""
    rated: bool = True
    """whether, where one is careful, a larger size must also be faster"""

    @property
    def share_left(self) -> float:
        """The margin."""
        return MARGIN[self.careful] if self.margin is None else self.margin

    @property
    def usable(self) -> int:
        """Bytes of `free` without the margin."""
        return int(self.free * (1 - self.share_left))


@dataclass(frozen=True, slots=True)
class Choice:
    """A number of tokens and why it is this one."""

    tokens: int
    bytes: int
    """what a micro-batch of that size takes, as in `Measurement`"""
    free: int
    margin: float
    reason: Reason
    """memory: more would not fit; step: an optimiser step has no more; speed: more are no faster; longest: less than
    the longest unit is of no use, and there is no margin left beside it"""
    measured: tuple[Measurement, ...]

    @property
    def bytes_per_token(self) -> float:
        """Slope of the line through what was measured."""
        return Line.through(self.measured).slope


class DoesNotFit(Exception):
    """The longest unit, or what is there at any size, needs more memory than there is.

    Args:
        tokens: of the unit; 0 = gradients and optimiser state alone.
        bytes: estimated; None = it was tried.
        free: bytes.
    """

    def __init__(self, tokens: int, bytes: int | None, free: int) -> None:
        super().__init__(tokens, bytes, free)
        self.tokens, self.bytes, self.free = tokens, bytes, free


@dataclass(frozen=True, slots=True)
class Line:
    """bytes = base + slope · tokens, on or above everything that it was drawn through."""

    base: float
    slope: float

    @classmethod
    def through(cls, measured: Sequence[Measurement], fixed: int = 0) -> Line:
        """Least squares, moved up to the highest point. One point alone: nothing but `fixed` is there without tokens,
        which overestimates what is larger.

        Args:
            measured: sizes that fit, at least one.
            fixed: bytes that are there without tokens.
        """
        points = [(m.tokens, m.bytes) for m in measured if m.bytes is not None]
        if len({tokens for tokens, _ in points}) == 1:
            tokens, most = points[0][0], max(held for _, held in points)
            return cls(min(fixed, most), max(most - fixed, 0) / tokens)
        x, y = sum(t for t, _ in points) / len(points), sum(b for _, b in points) / len(points)
        slope = sum((t - x) * (b - y) for t, b in points) / sum((t - x) ** 2 for t, _ in points)
        slope = max(slope, 0.0)
        return cls(max(b - slope * t for t, b in points), slope)

    def at(self, tokens: int) -> int:
        """Bytes of a size."""
        return int(self.base + self.slope * tokens)

    def capacity(self, limit: int, most: int) -> int:
        """The largest size up to `most` that takes at most `limit` bytes; 0 = none."""
        if self.at(most) <= limit:
            return most
        return max(0, min(most, int((limit - self.base) / self.slope))) if self.slope else 0


Measure = Callable[[int], Measurement]


def choose(measure: Measure, bounds: Bounds) -> Choice:
    """The largest size that is of use and fits.

    Args:
        measure: runs a micro-batch of about so many tokens.

    Raises:
        DoesNotFit: the longest unit does not, or no size at all.
    """
    if bounds.fixed > bounds.free:
        raise DoesNotFit(0, bounds.fixed, bounds.free)
    return _carefully(measure, bounds) if bounds.careful else _boldly(measure, bounds)


def fits(measure: Measure, bounds: Bounds) -> Choice:
    """Whether micro-batches of `bounds.share` tokens fit, by as few measurements as it takes: where small ones leave no
    doubt the largest is not run.

    Returns:
        A choice of fewer tokens where they do not.

    Raises:
        DoesNotFit: the longest unit does not, or no size at all.
    """
    if bounds.fixed > bounds.free:
        raise DoesNotFit(0, bounds.fixed, bounds.free)
    small, larger = min(FIRST[True], bounds.longest), min(bounds.share, max(bounds.longest, _SHOWS))
    measured = [measure(small)]
    if not _more_than(measured[0], bounds.free) and Line.through(measured, bounds.fixed).at(larger) <= bounds.usable:
        measured += [measure(larger)] if larger > small else []
        if not _more_than(measured[-1], bounds.usable):
            expected = _steeper(measured, bounds, bounds.share).at(bounds.share)
            if measured[-1].tokens == bounds.share or expected <= _COMFORT * bounds.free:
                return _chosen(Measurement(bounds.share, expected), bounds, "step", measured)
    return choose(measure, bounds)


def _following(size: int, bounds: Bounds) -> int:
    """Twice as much, but not past the longest unit nor past what is of use."""
    if size < bounds.longest:
        return min(2 * size, bounds.longest)
    return min(2 * size, bounds.share)


def _carefully(measure: Measure, bounds: Bounds) -> Choice:
    measured: list[Measurement] = []
    size = min(FIRST[True], bounds.longest)
    while True:
        measured.append(measure(size))
        if size > bounds.longest and _more_than(measured[-1], bounds.usable):
            return _chosen(measured[-2], bounds, "memory", measured)
        # Below the longest unit texts are cut, and a short text is faster than a long one.
        rated = [m for m in measured if m.tokens >= bounds.longest]
        if bounds.rated and (fast := _fast_enough(rated)) is not None:
            return _chosen(fast, bounds, "speed", measured)
        if size >= bounds.share:
            return _chosen(measured[-1], bounds, "step", measured)
        following = _following(size, bounds)
        line = _steeper(measured, bounds, following)
        expected = line.at(following)
        if following <= bounds.longest and expected > bounds.free:
            raise DoesNotFit(bounds.longest, line.at(bounds.longest), bounds.free)
        if following > bounds.longest and expected > bounds.usable:
            return _between(measure, bounds, measured, line, following)
        size = following


def _steeper(measured: Sequence[Measurement], bounds: Bounds, following: int) -> Line:
    """The line through all sizes or through the last two, whichever expects more: what small sizes take may hide in
    memory that the process has and does not use."""
    lines = [Line.through(measured, bounds.fixed), Line.through(measured[-2:], bounds.fixed)]
    return max(lines, key=lambda line: line.at(following))


def _between(measure: Measure, bounds: Bounds, measured: list[Measurement], line: Line, most: int) -> Choice:
    """The most that fits between the last size and one that does not."""
    last = measured[-1]
    size = rounded(line.capacity(bounds.usable, most))
    if size > last.tokens:
        tried = measure(size)
        measured.append(tried)
        if not _more_than(tried, bounds.usable):
            return _chosen(tried, bounds, "memory", measured)
    return _chosen(last, bounds, "memory", measured)


def _more_than(found: Measurement, limit: int) -> bool:
    return found.bytes is None or found.bytes > limit


def _fast_enough(rated: Sequence[Measurement]) -> Measurement | None:
    """The smallest size that is as fast as any, once the last one is no faster than those before it."""
    if len(rated) < 2 or not all(m.rate for m in rated):
        return None
    if rated[-1].rate >= max(m.rate for m in rated[:-1]) * (1 + GAIN):
        return None
    best = max(m.rate for m in rated)
    return next(m for m in rated if m.rate * (1 + GAIN) >= best)


def _boldly(measure: Measure, bounds: Bounds) -> Choice:
    measured: list[Measurement] = []
    size, most = min(FIRST[False], bounds.share), bounds.share
    while True:
        found = measure(size)
        measured.append(found)
        if found.bytes is None:
            most = size - 1
            break
        if size >= bounds.share or len(measured) == _LINE:
            break
        size = min(2 * size, bounds.share)
    good = [m for m in measured if m.bytes is not None]
    if not good:
        return _smaller(measure, bounds, measured, most)
    for _ in range(_TRIES):
        wanted = Line.through(good, bounds.fixed).capacity(bounds.usable, most)
        if wanted < bounds.longest:
            break
        size = wanted if wanted == bounds.share else max(rounded(wanted), bounds.longest)
        known = next((m for m in good if m.tokens == size), None)
        found = known or measure(size)
        if known is None:
            measured.append(found)
        if not _more_than(found, bounds.usable):
            return _chosen(found, bounds, "step" if size == bounds.share else "memory", measured)
        if found.bytes is not None:
            good = [*good, found] if known is None else good
        most = int(0.9 * size)
    return _longest(measure, bounds, measured)


def _smaller(measure: Measure, bounds: Bounds, measured: list[Measurement], most: int) -> Choice:
    """Not even the first size fits."""
    while most >= bounds.longest:
        size = max(most // 2, bounds.longest)
        found = measure(size)
        measured.append(found)
        if not _more_than(found, bounds.usable if size > bounds.longest else bounds.free):
            return _chosen(found, bounds, "memory", measured)
        most = size - 1
    raise DoesNotFit(bounds.longest, None, bounds.free)


def _longest(measure: Measure, bounds: Bounds, measured: list[Measurement]) -> Choice:
    """The largest size that was seen to fit; else the longest unit alone, in all the memory that there is."""
    good = [m for m in measured if m.tokens >= bounds.longest and not _more_than(m, bounds.usable)]
    if good:
        return _chosen(max(good, key=lambda m: m.tokens), bounds, "memory", measured)
    tried = next((m for m in measured if m.tokens == bounds.longest), None)
    if tried is None:
        tried = measure(bounds.longest)
        measured.append(tried)
    if tried.bytes is None or tried.bytes > bounds.free:
        raise DoesNotFit(bounds.longest, tried.bytes, bounds.free)
    return _chosen(tried, bounds, "memory", measured)


def _chosen(found: Measurement, bounds: Bounds, reason: Reason, measured: Sequence[Measurement]) -> Choice:
    assert found.bytes is not None
    if found.bytes > bounds.free:
        raise DoesNotFit(max(found.tokens, bounds.longest), found.bytes, bounds.free)
    tight = found.bytes > bounds.usable and found.tokens <= bounds.longest
    return Choice(
        found.tokens, found.bytes, bounds.free, bounds.share_left, "longest" if tight else reason, tuple(measured)
    )


def rounded(tokens: int) -> int:
    """A number that one can say: down to a multiple of 64, from 4,096 on of 256."""
    step = 256 if tokens >= 4096 else 64
    return tokens // step * step if tokens >= step else tokens
