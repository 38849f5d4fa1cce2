"""Histograms count everything once, and the limit is an edge."""

from __future__ import annotations

import numpy as np
import pytest

from plaudit.inspection.histogram import Histogram


def of(lengths: list[int], limit: int | None = None) -> Histogram:
    found = Histogram.of("total", lengths, limit)
    assert found is not None
    return found


@pytest.mark.parametrize("limit", [None, 0, 1, 37, 100, 999, 5000])
@pytest.mark.parametrize("seed", range(5))
def test_every_length_is_in_its_bin(seed: int, limit: int | None) -> None:
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([3, 60, 900]))
    lengths = [int(n) for n in rng.gamma(rng.choice([0.3, 2.0]), scale, 400)]
    h = of(lengths, limit)
    for b in h.bins:
        inside = [n for n in lengths if n >= b.low and (b.high is None or n <= b.high)]
        assert b.count == len(inside), b
    assert sum(b.count for b in h.bins) == len(lengths)
    assert all(a.high is not None and a.high + 1 == b.low for a, b in zip(h.bins, h.bins[1:], strict=False))
    assert h.over == (0 if limit is None else sum(n > limit for n in lengths))
    assert len(h.bins) <= 16


def test_a_long_tail_is_one_bin() -> None:
    h = of([*range(100, 200), 50_000])
    assert h.bins[-1].high is None
    assert h.bins[-1].count == 1
    assert h.bins[-1].label == f"{h.bins[-1].low:,} and more"


def test_single_lengths() -> None:
    assert [(b.label, b.count) for b in of([7, 7, 7]).bins] == [("7", 3)]
    assert [(b.label, b.count) for b in of([0]).bins] == [("0", 1)]
    assert Histogram.of("prompt", []) is None


def test_the_limit_splits_a_bin() -> None:
    bins = of([*range(1000)], limit=512).bins
    assert [b.over for b in bins] == sorted(b.over for b in bins)
    assert next(b for b in bins if b.over).low == 513
