"""The arithmetic of reward ensembles: how members' scores become one, and how far they disagree.

Source: Coste et al. 2023 (arXiv 2310.02743): mean, worst-case optimisation (eq. 3 there: the smallest member) and
uncertainty-weighted optimisation (mean − λ · variance within the ensemble). The variance divides by the number of
members.

Shapes: M members, N answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Combine = Literal["mean", "min", "uwo"]


def combine(scores_MN: Array, how: Combine, uncertainty_weight: float = 0.5) -> Array:
    """One score per answer. [M, N] → [N]

    Args:
        scores_MN: standardised scores: without a common scale, min and variance belong to the loudest member.
        how: mean, min (worst case), or uwo: mean − uncertainty_weight · variance.
    """
    if how == "min":
        lowest: Array = scores_MN.min(0)
        return lowest
    mean: Array = scores_MN.mean(0)
    return mean if how == "mean" else mean - uncertainty_weight * scores_MN.var(0)


def member_std(scores_MN: Array) -> Array:
    """Disagreement: the standard deviation over members of each answer. [M, N] → [N]"""
    std: Array = scores_MN.std(0)
    return std


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the members were apart on the reference set.

    Attributes:
        answers: how many there were.
        mean: mean of the member standard deviation.
        p95: its 95th percentile.
    """

    answers: int
    mean: float
    p95: float

    @classmethod
    def of(cls, scores_MN: Array) -> Disagreement:
        """Measured on standardised scores [M, N]."""
        std = member_std(scores_MN)
        return cls(len(std), float(std.mean()), float(np.percentile(std, 95)))

    def to_json(self) -> dict[str, Any]:
        return {"answers": self.answers, "mean": self.mean, "p95": self.p95}


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Disagreement on some data against the reference set.

    Attributes:
        ratio: mean member standard deviation here ÷ on the reference set; above 1, the data is stranger to the members
            than the reference was. 1 when both are 0 (identical members).
        above_p95: share of answers whose member standard deviation exceeds the reference's 95th percentile; 0.05 is
            expected on data like the reference.
    """

    ratio: float
    above_p95: float


def uncertainty(std_N: Array, reference: Disagreement) -> Uncertainty:
    """Compare `member_std` of N ≥ 1 answers with the reference set's."""
    here = float(std_N.mean())
    ratio = here / reference.mean if reference.mean > 0 else (1.0 if here == 0 else float("inf"))
    return Uncertainty(ratio, float((std_N > reference.p95).mean()))
