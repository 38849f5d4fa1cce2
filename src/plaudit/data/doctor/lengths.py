"""Whether the better answers are the longer ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, Skipped, Verdict, percent, wilson
from plaudit.data.doctor.thresholds import FEWEST_COMPARISONS, LENGTH_FAIL, LENGTH_WARN

Floats = npt.NDArray[np.float64]
TITLE = "length bias"
MEND = (
    "use a loss that discounts length (rdpo, simpo, method.ld_alpha of the methods on pairs), or collect pairs of like "
    "length; `plaudit evaluate reward` shows what a reward model made of it"
)


def check(facts: Sequence[Facts]) -> Finding | Skipped:
    """Length bias of comparisons, or of liked and disliked answers."""
    if any(f.label is not None for f in facts):
        return _of_labels(facts)
    return _of_comparisons(facts)


def _of_comparisons(facts: Sequence[Facts]) -> Finding | Skipped:
    """A row counts once: the share of its comparisons in which the better answer is longer, equal lengths as half."""
    better: list[int] = []
    worse: list[int] = []
    rows: list[float] = []
    for f in facts:
        outcomes = []
        for a in f.answers:
            for b in f.answers:
                if a.rank is not None and b.rank is not None and a.rank < b.rank:
                    outcomes.append((a.length > b.length) + (a.length == b.length) / 2)
                    better.append(a.length)
                    worse.append(b.length)
        if outcomes:
            rows.append(sum(outcomes) / len(outcomes))
    if len(rows) < FEWEST_COMPARISONS:
        what = "nothing is compared" if not rows else f"{len(rows)} comparisons say nothing about it"
        return Skipped(check="length_bias", title=TITLE, why=what)
    share = sum(rows) / len(rows)
    low, high = wilson(sum(rows), len(rows))
    return _finding(
        share, low, high, len(rows), np.array(better), np.array(worse), "the better answer is the longer one"
    )


def _of_labels(facts: Sequence[Facts]) -> Finding | Skipped:
    """The chance that a liked answer is longer than a disliked one: the area under the ROC curve of length."""
    liked = np.array([a.length for f in facts if f.label is True for a in f.answers])
    disliked = np.array([a.length for f in facts if f.label is False for a in f.answers])
    if min(len(liked), len(disliked)) < FEWEST_COMPARISONS:
        why = f"{len(liked)} liked and {len(disliked)} disliked answers say nothing about it"
        return Skipped(check="length_bias", title=TITLE, why=why)
    area = auc(liked, disliked)
    half = 1.96 * _auc_error(area, len(liked), len(disliked))
    low, high = max(0.0, area - half), min(1.0, area + half)
    n = len(liked) + len(disliked)
    return _finding(area, low, high, n, liked, disliked, "a liked answer is longer than a disliked one")


def _finding(
    share: float,
    low: float,
    high: float,
    n: int,
    better: npt.NDArray[np.int64],
    worse: npt.NDArray[np.int64],
    what: str,
) -> Finding:
    d, area = cohens_d(np.log1p(better), np.log1p(worse)), auc(better, worse)
    medians = float(np.median(better)), float(np.median(worse))
    detail = (
        f"{what} in {percent(share)} of cases (95 % interval {percent(low)} – {percent(high)}; 50 % is no bias); "
        f"medians {medians[0]:,.0f} and {medians[1]:,.0f} characters, Cohen's d (log) {d:.2f}, AUC {area:.2f}"
    )
    return Finding(
        check="length_bias",
        title=TITLE,
        verdict=_verdict(low, high),
        count=round(share * n),
        of=n,
        share=share,
        detail=detail,
        numbers={"low": low, "high": high, "cohens_d": d, "auc": area, "median_better": medians[0],
                 "median_worse": medians[1]},
        mend=MEND,
    )  # fmt: skip


def _verdict(low: float, high: float) -> Verdict:
    if low > LENGTH_FAIL or high < 1 - LENGTH_FAIL:
        return "FAIL"
    return "WARN" if low > LENGTH_WARN or high < 1 - LENGTH_WARN else "OK"


def cohens_d(a: Floats, b: Floats) -> float:
    """Difference of the means in pooled standard deviations; 0 where nothing varies."""
    if len(a) < 2 or len(b) < 2:
        return 0.0
    spread = math.sqrt((float(a.var(ddof=1)) + float(b.var(ddof=1))) / 2)
    return float(a.mean() - b.mean()) / spread if spread > 0 else 0.0


def auc(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    """Chance that a value of `a` exceeds one of `b`, ties as half (Mann and Whitney 1947)."""
    ordered = np.sort(b)
    below = np.searchsorted(ordered, a, side="left")
    not_above = np.searchsorted(ordered, a, side="right")
    return float((below + not_above).sum() / 2 / (len(a) * len(b)))


def _auc_error(area: float, n: int, m: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, Radiology 143:29)."""
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (n - 1) * (q1 - area * area) + (m - 1) * (q2 - area * area)
    return math.sqrt(max(variance, 0.0) / (n * m))
