"""Estimators of KL(π‖q) from samples of π, and controllers of its coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3", "k3_corrected"]
_MOST_NATS, _MOST_KL = 20.0, 10.0


def kl_loss(logprobs: Tensor, reference: Tensor, estimator: Estimator, ratio: Tensor | None = None) -> Tensor:
    """Per-token KL terms for a loss, with d = log q − log π (Schulman's "Approximating KL divergence"). [N] × 2 → [N]

    k2 = d²/2 has the gradient of the reverse KL on samples of π itself; k3 = e^d − d − 1 that of the forward KL
    (GRPO's term); w · k3 that of the reverse KL again (DeepSeek-V3.2, arXiv 2512.02556). k1 = −d has none in
    expectation, and belongs into the reward.

    d is held within ± 20 nats. k3 grows like e^d and is held at 10 besides, as in verl: a single token would outweigh
    the batch. k2 needs no such bound: its gradient is d itself, and where k3 stops pulling an outlier back it does not.

    Args:
        ratio: w = π_θ / π_old with gradient, for k3_corrected.
    """
    import torch

    gap = (reference - logprobs).clamp(-_MOST_NATS, _MOST_NATS)
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return 0.5 * gap**2
    # The output is held, not the exponent: an outlier then has no gradient at all.
    found = (torch.expm1(gap) - gap).clamp(max=_MOST_KL)
    if estimator == "k3":
        return found
    assert ratio is not None, "the corrected estimator weighs by the ratio"
    return ratio * found


def adapted(coefficient: float, kl: float, target: float, episodes: int, horizon: float) -> float:
    """β after a rollout batch (Ziegler et al. 2019, arXiv 1909.08593, §2.2): β (1 + K e), e = clip((KL − target) /
    target, ± 0.2), K = episodes / horizon.

    Args:
        kl: nats per answer, the mean over the batch of sums over tokens.
        episodes: answers of the batch. Not tokens: those would make the controller a hundred times too fast.
    """
    error = min(0.2, max(-0.2, (kl - target) / target))
    return coefficient * (1.0 + error * episodes / horizon)
