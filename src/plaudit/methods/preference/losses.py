"""Losses of a pair that several methods have: of DPO, IPO and the hinge, as functions of two log-ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def dpo_loss(
    chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float, label_smoothing: float | Tensor = 0.0
) -> Tensor:
    """Loss per pair of DPO and its conservative variant.

    Args:
        chosen_ratio, rejected_ratio: [pairs] log π(y|x) − log π_ref(y|x), summed over tokens, in nats.
        beta: β of Eq. 7.
        label_smoothing: ε of cDPO, one or [pairs]; 0 gives DPO.

    Returns:
        [pairs] −(1−ε) log σ(β h) − ε log σ(−β h), with h the difference of the two ratios.
    """
    from torch.nn.functional import softplus

    z = beta * (chosen_ratio - rejected_ratio)
    return (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)  # Eq. 7 of 2305.18290; cDPO Eq. 3


def ipo_loss(chosen_ratio: Tensor, rejected_ratio: Tensor, tau: float) -> Tensor:
    """Loss per pair of IPO.

    Args:
        chosen_ratio, rejected_ratio: [pairs] log π(y|x) − log π_ref(y|x), summed over tokens or per token, in nats.
        tau: τ of Eq. 17.

    Returns:
        [pairs] (h − 1/(2τ))² with h the difference of the two ratios.
    """
    return (chosen_ratio - rejected_ratio - 1 / (2 * tau)) ** 2  # Eq. 17 of arXiv 2310.12036


def hinge_loss(chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float) -> Tensor:
    """Loss per pair of the hinge on log-ratios.

    Args:
        chosen_ratio, rejected_ratio: [pairs] log π(y|x) − log π_ref(y|x), summed over tokens, in nats.
        beta: γ of RSO.

    Returns:
        [pairs] max(0, 1 − β h) with h the difference of the two ratios.
    """
    return (1 - beta * (chosen_ratio - rejected_ratio)).relu()  # hinge-norm, Eq. 10 of arXiv 2309.06657


__all__ = ["dpo_loss", "hinge_loss", "ipo_loss"]
