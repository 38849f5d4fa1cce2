"""BCO's reward shift δ: what BCO on pairs and on single answers share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plaudit.methods.base import MethodState
from plaudit.runs.metrics import MetricSpec, register

if TYPE_CHECKING:
    from torch import Tensor

register(
    MetricSpec("bco/delta", "reward", "neutral", "BCO's reward shift δ: running mean of the rewards of both classes")
)


class ShiftState(MethodState):
    """Running sums of the implicit rewards over all steps so far."""

    chosen_sum: float = 0.0
    chosen_count: float = 0.0
    rejected_sum: float = 0.0
    rejected_count: float = 0.0

    @property
    def delta(self) -> float:
        """δ: the mean of the two classes' mean rewards; 0 before the first step, one class's mean before the other one
        has been seen."""
        means = []
        if self.chosen_count:
            means.append(self.chosen_sum / self.chosen_count)
        if self.rejected_count:
            means.append(self.rejected_sum / self.rejected_count)
        return sum(means) / len(means) if means else 0.0

    def add(self, metrics: Mapping[str, float], chosen_count: float, rejected_count: float) -> None:
        """Take in a step: its mean reward of each class, and how much that counts; a class that is absent counts 0.

        A step whose rewards are not finite is left out: the run stops for it by itself, and δ must not keep it.
        """
        counted = [metrics[n] for n, c in (("rewards/chosen", chosen_count), ("rewards/rejected", rejected_count)) if c]
        if not all(map(math.isfinite, counted)):
            return
        if chosen_count:
            self.chosen_sum += chosen_count * metrics["rewards/chosen"]
            self.chosen_count += chosen_count
        if rejected_count:
            self.rejected_sum += rejected_count * metrics["rewards/rejected"]
            self.rejected_count += rejected_count


def chosen_loss(ratio: Tensor, beta: float, delta: float) -> Tensor:
    """−log σ(β ρ − δ): a desirable answer's reward should lie above δ (BCE of arXiv 2404.04656). [n] → [n]"""
    from torch.nn.functional import softplus

    return softplus(delta - beta * ratio)


def rejected_loss(ratio: Tensor, beta: float, delta: float) -> Tensor:
    """−log σ(−(β ρ − δ)): an undesirable answer's reward should lie below δ. [n] → [n]"""
    from torch.nn.functional import softplus

    return softplus(beta * ratio - delta)


__all__ = ["ShiftState", "chosen_loss", "rejected_loss"]
