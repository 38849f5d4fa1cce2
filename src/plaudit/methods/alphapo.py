"""AlphaPO: SimPO with another shape of the reward (Gupta et al. 2025, arXiv 2501.03884).

Objective:
    L = −log σ(r_w − r_l − γ) per pair, with r = β (1 − P^(−α)) / α and P = exp(S̄), the geometric mean of the answer's
    token probabilities. α → 0 is SimPO (r = β S̄). With α > 0 the reward falls faster than the log-prob for unlikely
    answers, with α < 0 it levels off.

When:
    SimPO pushes the chosen answers' log-prob down or overshoots: α moves that. The paper's best values are small and
    positive (0.25 with β = 2.5, γ/β = 0.1 for an instruction-tuned 7B model); tune α last.

Deviations:
    Beyond an exponent −α S̄ of 30 the reward, 10¹³ β there, goes on along its tangent: the exponential would overflow,
    and a constant would take the gradient away without a word. With α = 0.25 that is a mean of −120 nats per token,
    with α = 5 one of −6.

Elsewhere:
    TRL: CPOTrainer, loss_type="alphapo"; alpha and beta are the same (alpha=0 by default there), simpo_gamma is gamma.
    LLaMA-Factory: not offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from plaudit.methods.preference.target_margin import MarginConfig, MarginMethod

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_EXPONENT = 30.0
_SMALLEST_ALPHA = 1e-12


class AlphaPOConfig(MarginConfig):
    """Options of AlphaPO."""

    beta: Annotated[float, Field(gt=0)] = 2.5
    """Scale of the reward."""
    gamma_beta_ratio: Annotated[float, Field(ge=0)] | None = None
    """γ / β, the margin in units of log-prob per token; 0.1 where neither this nor gamma is given."""
    alpha: Annotated[float, Field(allow_inf_nan=False)] = 0.25
    """Shape of the reward; 0 is SimPO."""


def alpha_reward(mean_logprob: Tensor, beta: float, alpha: float) -> Tensor:
    """Reward of each answer.

    Args:
        mean_logprob: [n] mean log-prob per token, S̄.
        beta, alpha: β and α of the paper.

    Returns:
        [n] β (1 − exp(−α S̄)) / α, and its limit β S̄ for α = 0.
    """
    import torch

    if abs(alpha) < _SMALLEST_ALPHA:
        return beta * mean_logprob
    exponent = -alpha * mean_logprob
    capped = exponent.clamp(max=_LARGEST_EXPONENT)
    # expm1 keeps the digits where α S̄ is small. Beyond the cap the tangent goes on: a constant would have no gradient.
    tangent = math.expm1(_LARGEST_EXPONENT) + math.exp(_LARGEST_EXPONENT) * (exponent - _LARGEST_EXPONENT)
    return -beta / alpha * torch.where(exponent > _LARGEST_EXPONENT, tangent, torch.expm1(capped))


class AlphaPO(MarginMethod):
    """SimPO whose reward is bent by α."""

    name = "alphapo"
    title = "AlphaPO"
    paper = "arXiv 2501.03884"
    variant_of = "simpo"
    elsewhere: ClassVar[Mapping[str, str]] = {
        "simpo_gamma": "it is method.gamma here; γ / β is method.gamma_beta_ratio",
        "cpo_alpha": "the weight of a likelihood term is method.nll_weight here; method.alpha is the reward's shape",
    }
    default_ratio = 0.1
    default_learning_rate: ClassVar = {"lora": 2e-5, "full": 7e-7}
    Config = AlphaPOConfig
    config: AlphaPOConfig

    def reward(self, mean_logprob: Tensor) -> Tensor:
        return alpha_reward(mean_logprob, self.config.beta, self.config.alpha)
