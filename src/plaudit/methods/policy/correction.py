"""Importance weights for the gap between the distribution that was sampled and the one that is scored.

Source: truncated importance sampling for rollout engines (Yao et al. 2025); the sequence and masking forms are those of
masked importance sampling. All on the host, without gradient: the weight is a constant of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from plaudit.types import Floats

Correction = Literal[
    "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_truncate", "geometric_mask"
]
_MOST = 20.0
"""Nats: log-ratios are held within ± this before they are exponentiated."""


def importance_weights(old: Floats, sampled: Floats, correction: Correction, cap: float, floor: float) -> Floats:
    """Weight of each token of one answer in the policy term.

    Args:
        old: [T] log-probs of the policy that is corrected to, in nats.
        sampled: [T] log-probs under the distribution that was sampled.
        correction: per token; of the sequence, the product of its tokens' ratios; or their geometric mean. truncate:
            min(w, cap); mask: w inside [floor, cap] and 0 outside.
        cap, floor: bounds of the weight.

    Returns:
        [T] weights; 1 where both distributions are the same.
    """
    gap = old.astype(np.float64) - sampled.astype(np.float64)
    if correction == "none" or not len(gap):
        return np.ones(len(gap), dtype=np.float32)
    level, _, how = correction.partition("_")
    if level == "sequence":
        gap = np.full_like(gap, gap.sum())
    elif level == "geometric":
        gap = np.full_like(gap, gap.mean())
    weights = np.exp(np.clip(gap, -_MOST, _MOST))
    if how == "truncate":
        return np.minimum(weights, cap).astype(np.float32)
    inside = (weights >= floor) & (weights <= cap)
    return np.where(inside, weights, 0.0).astype(np.float32)


def gap_statistics(old: Sequence[Floats], sampled: Sequence[Floats]) -> dict[str, float]:
    """How far sampled and scored distribution are apart, over all tokens of some answers.

    Returns:
        gap_mean and gap_max of |old − sampled| in nats; gap_k3, the estimate e^d − d − 1 ≥ 0 of KL(sampled‖old) with
        d = old − sampled; ess, the effective sample size (Σw)² / Σw² of the answers' weights as a share of their
        number.
    """
    gaps = [o.astype(np.float64) - s.astype(np.float64) for o, s in zip(old, sampled, strict=True)]
    flat = np.concatenate(gaps) if gaps else np.zeros(0)
    if not len(flat):
        return {"gap_mean": 0.0, "gap_max": 0.0, "gap_k3": 0.0, "ess": 1.0}
    held = np.clip(flat, -_MOST, _MOST)
    # Weights up to a common factor: the share does not depend on it, and the largest is 1.
    sums = np.array([g.sum() for g in gaps if len(g)])
    weights = np.exp(sums - sums.max())
    return {
        "gap_mean": float(np.abs(flat).mean()),
        "gap_max": float(np.abs(flat).max()),
        "gap_k3": float((np.expm1(held) - held).mean()),
        "ess": float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
    }
