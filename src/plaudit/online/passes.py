"""pass@k and avg@k of answers that are right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

Totals = dict[str, tuple[float, float]]
"""Name → (sum, count), so that batches can be added up before anybody divides."""
_ROUNDING = 1e-9


def pass_at_k(count: int, right: int, k: int) -> float:
    """Probability that at least one of k answers is right, from `count` ≥ k answers of which `right` are.

    1 − C(count − right, k) / C(count, k), which is unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1).
    """
    assert 0 <= right <= count
    assert 1 <= k <= count
    return 1.0 - comb(count - right, k) / comb(count, k)


def pass_metrics(rows: Sequence[Sequence[float]], threshold: float | None) -> Totals:
    """avg@n, the share of right answers with n to each prompt, and pass@k for k = 2, 4, 8, … up to n and n itself.

    Args:
        rows: [G][n] rewards. Prompts with fewer than n answers (a batch with different numbers) are left out of pass@k
            for the k that they do not have; n is the largest number.
        threshold: an answer is right from this reward on. None: where every reward is 0 or 1, 1 is right; otherwise
            nobody knows, and there are no such metrics.
    """
    flat = [reward for row in rows for reward in row]
    if not flat:
        return {}
    if threshold is None:
        if any(min(abs(r), abs(r - 1.0)) > _ROUNDING for r in flat):
            return {}
        threshold = 0.5
    else:
        threshold -= _ROUNDING * max(1.0, abs(threshold))
    right = [sum(reward >= threshold for reward in row) for row in rows]
    most = max(map(len, rows))
    found: Totals = {f"avg@{most}": (float(sum(right)), float(len(flat)))}
    powers = [2**i for i in range(1, most.bit_length()) if 2**i <= most]
    for k in sorted({*powers, most} - {1}):
        several = [pass_at_k(len(row), r, k) for row, r in zip(rows, right, strict=True) if len(row) >= k]
        found[f"pass@{k}"] = (sum(several), float(len(several)))
    return found
