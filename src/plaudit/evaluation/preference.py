"""How often the implicit reward agrees with held-out preferences."""

from __future__ import annotations

from plaudit.evaluation.estimates import Estimate, Values, finite_array, proportion_estimate


def preference_accuracy(margins_N: Values, confidence: float = 0.95) -> Estimate:
    """Share of pairs whose chosen answer has the higher implicit reward; a margin of 0 counts ½; Wilson interval.

    Before the first step policy and reference are equal, all margins are 0 and the accuracy is ½: no opinion.

    Args:
        margins_N: r(chosen) - r(rejected) per pair with r = β (log π - log π_ref) (Rafailov et al. 2023,
            arXiv 2305.18290, equation 5); β > 0 does not change the result.

    Raises:
        ValueError: empty or not finite.
    """
    margins = finite_array(margins_N, "margins")
    agreeing = float((margins > 0).sum()) + float((margins == 0).sum()) / 2
    return proportion_estimate(agreeing, margins.size, confidence)
