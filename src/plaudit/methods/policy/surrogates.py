"""Losses of a policy and of a value function on sampled tokens: pure functions on tensors, nothing is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

    from plaudit.methods.base import View

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
_MOST = 20.0
"""Nats: log-ratios are held within ± this before they are exponentiated."""


def ratio_of(logprobs: Tensor, old: Tensor) -> Tensor:
    """w = π_θ / π_old from log-probs, of tokens or of whole answers (sums over them). [N], [N] → [N]"""
    return (logprobs - old).clamp(-_MOST, _MOST).exp()


def dual_clipped(ratio: Tensor, advantages: Tensor, dual: float) -> Tensor:
    """1 where the dual clip holds the loss: A < 0 and w > c (arXiv 1912.09729, eq. 5). [N], [N] → [N]"""
    return ((advantages < 0) & (ratio > dual)).float()


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None
) -> tuple[Tensor, Tensor]:
    """max(−A w, −A clip(w, 1 − ε_low, 1 + ε_high)) per token (PPO, arXiv 1707.06347, eq. 7). [N], [N] → [N], [N]

    Args:
        dual: c > 1; for A < 0 the loss is at most −c A (dual-clip PPO, arXiv 1912.09729, eq. 5).

    Returns:
        The loss, and 1 where clipping took its gradient away.
    """
    import torch

    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    loss = torch.maximum(plain, clipped)
    cut = clipped > plain
    if dual is not None:
        bounded = torch.minimum(loss, -dual * advantages)
        cut = cut | ((advantages < 0) & (bounded < loss))
        loss = torch.where(advantages < 0, bounded, loss)
    return loss, cut.detach().float()


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """½ max((V − G)², (clip(V, V_old ± ε) − G)²) per token, and 1 where it was clipped. [N] × 3 → [N], [N]

    Source: the value loss of OpenAI's PPO2, as in lm-human-preferences.
    """
    import torch

    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain)
    # Clamped between tensors, a value within the range stays itself; old + (V − old) is another number by rounding, and
    # would be counted as clipped.
    held = (values.clamp(old - clip, old + clip) - returns) ** 2
    return 0.5 * torch.maximum(plain, held), (held > plain).detach().float()


def aggregate(values_N: Tensor, view: View, mode: Aggregation) -> Tensor:
    """The numerator of an aggregation over a micro-batch; `denominator` is what the trainer divides by."""
    if mode == "seq-mean-token-mean":
        return view.mean_C(values_N).sum()
    return values_N.sum()


def denominator(
    groups: Sequence[PromptGroup], counted: Sequence[Sequence[bool]], mode: Aggregation, longest: int
) -> float:
    """What the sums of a step are divided by: a pure function of masks.

    Args:
        groups, counted: the answers, and whether each takes part.
        longest: most tokens of an answer (L_max), for "seq-mean-token-sum-norm".
    """
    kept = [
        int(c.action_mask.sum()) for g, row in zip(groups, counted, strict=True)
        for c, keeps in zip(g.completions, row, strict=True) if keeps
    ]  # fmt: skip
    if mode == "token-mean":
        return float(sum(kept))
    return float(len(kept) * (longest if mode == "seq-mean-token-sum-norm" else 1))
