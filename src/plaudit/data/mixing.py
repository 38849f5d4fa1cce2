"""Which rows an epoch sees and in which order: pure functions of sizes, weights, seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def epoch_order(
    sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int, shuffle: bool = True
) -> list[int]:
    """Row indices of one epoch, over the concatenation of all sources.

    Weight 2 shows every row of a source twice, 0.5 half of them. The rows of a fractional part are a window on a fixed
    permutation of the source that moves on with the epoch: two epochs at 0.5 see every row once. The number of rows is
    the same in every epoch, and at least 1 for a source that has rows.

    Args:
        sizes: rows of each source.
        weights: weight of each source, > 0.
        shuffle: False keeps sources and rows in their order.
    """
    assert len(sizes) == len(weights)
    order: list[int] = []
    start = 0
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        whole, part = _counts(size, weight)
        rows = list(range(start, start + size))
        order += rows * whole
        if part:
            permutation = np.random.default_rng([seed, 1, source]).permutation(size)
            window = permutation[(epoch * part + np.arange(part)) % size]
            order += [start + int(i) for i in np.sort(window)]
        start += size
    if shuffle:
        shuffled = np.random.default_rng([seed, 2, epoch]).permutation(len(order))
        order = [order[int(i)] for i in shuffled]
    return order


def epoch_size(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Rows of one epoch (of every epoch)."""
    counts = [(size, *_counts(size, weight)) for size, weight in zip(sizes, weights, strict=True)]
    return sum(size * whole + part for size, whole, part in counts)


def _counts(size: int, weight: float) -> tuple[int, int]:
    """(full passes, rows of the fractional part)."""
    total = max(int(size * weight + 0.5), 1 if size else 0)
    return (total // size, total % size) if size else (0, 0)
