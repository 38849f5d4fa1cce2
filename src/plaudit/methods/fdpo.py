"""DPO with other f-divergences, f-DPO (Wang et al. 2023, "Beyond Reverse KL", arXiv 2309.16240).

Objective:
    L = −log σ(β f′(u_w) − β f′(u_l)) per pair, with u = π(y|x)/π_ref(y|x), ρ = log u, and by divergence

    - reverse_kl: f′ = ρ, which is DPO;
    - forward_kl: f′ = 1 − e^(−ρ);
    - js: f′ = log 2 + log σ(ρ);
    - alpha: f′ = (1 − e^(−αρ))/α with 0 < α < 1, from reverse_kl (α → 0) to forward_kl (α → 1).

    Constants are chosen so that f′ = 0 at the reference; they drop out of the loss.

When:
    The policy loses diversity with DPO: the reverse KL seeks modes, js and alpha less so, forward_kl least, at the cost
    of reward. js is the mild choice, and its reward has an upper bound: an answer gains no more than β log 2.

Deviations:
    Exponents above 25 are continued by the tangent there: e^(−ρ) of a whole answer overflows otherwise, and clamping
    alone would leave exactly those pairs without a gradient.

Elsewhere:
    TRL: DPOTrainer, f_divergence_type: js_divergence is js, alpha_divergence is alpha. Its f_alpha_divergence_coef is
    1 − alpha: the same names count from the other end. Its rewards/* are β ρ for every divergence; ours are β f′(u).
    LLaMA-Factory: not offered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from plaudit.methods.preference.pairs import PairConfig, Pairs, RatioMethod

if TYPE_CHECKING:
    from torch import Tensor

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

_MAX_EXPONENT = 25.0
"""The slope of f′ is at most e²⁵ ≈ 7e10. Times β, and times a gradient of the log-ratio of some thousands, its square
stays below the largest fp32 number, 3e38, so the gradient's norm is finite and clipping can act on it."""


class FDPOConfig(PairConfig):
    """Options of f-DPO."""

    divergence: Divergence = "js"
    """What holds the policy to the reference: reverse_kl (DPO), forward_kl, js or alpha."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """α of divergence=alpha, as the paper counts: near 0 is the reverse KL, near 1 the forward KL."""

    @model_validator(mode="after")
    def _alpha_belongs_to_its_divergence(self) -> FDPOConfig:
        if self.divergence == "alpha" and self.alpha is None:
            raise ValueError("divergence=alpha needs alpha, between 0 (reverse KL) and 1 (forward KL)")
        if self.divergence != "alpha" and self.alpha is not None:
            raise ValueError(f"alpha has no effect with divergence={self.divergence}; it belongs to divergence=alpha")
        return self


def f_prime(ratio: Tensor, divergence: Divergence, alpha: float | None = None) -> Tensor:
    """f′(u) of a divergence at u = e^ρ.

    Args:
        ratio: [any] ρ = log π(y|x) − log π_ref(y|x), in nats.
        divergence: which f.
        alpha: α of the alpha divergence, in (0, 1).

    Returns:
        [any] f′(u), shifted to 0 at ρ = 0.
    """
    from torch.nn.functional import logsigmoid

    if divergence == "reverse_kl":
        return ratio
    if divergence == "js":
        return math.log(2) + logsigmoid(ratio)
    power = 1.0 if divergence == "forward_kl" else alpha
    assert power is not None
    exponent = -power * ratio
    inside = exponent.clamp(max=_MAX_EXPONENT)
    return -(inside.expm1() + inside.exp() * (exponent - inside)) / power


def fdpo_loss(
    chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float, divergence: Divergence, alpha: float | None = None
) -> Tensor:
    """Loss per pair.

    Args:
        chosen_ratio, rejected_ratio: [pairs] log π(y|x) − log π_ref(y|x), summed over tokens, in nats.
        beta: β of DPO.
        divergence: what takes the place of the reverse KL.
        alpha: α of the alpha divergence, in (0, 1).

    Returns:
        [pairs] −log σ(β f′(u_w) − β f′(u_l)).
    """
    from torch.nn.functional import softplus

    # The f-DPO objective of arXiv 2309.16240: DPO with β f′ of the two ratios as rewards.
    return softplus(beta * (f_prime(rejected_ratio, divergence, alpha) - f_prime(chosen_ratio, divergence, alpha)))


class FDPO(RatioMethod):
    """DPO with another divergence in the place of the reverse KL."""

    name = "fdpo"
    title = "DPO with f-divergences"
    paper = "arXiv 2309.16240"
    elsewhere: ClassVar[Mapping[str, str]] = {
        "f_divergence_type": "TRL's f_divergence_type is method.divergence: reverse_kl, forward_kl, js or alpha",
        "f_alpha_divergence_coef": "TRL's f_alpha_divergence_coef is 1 − method.alpha",
    }
    Config = FDPOConfig
    config: FDPOConfig

    def pair_loss(self, pairs: Pairs) -> Tensor:
        config = self.config
        return fdpo_loss(pairs.chosen, pairs.rejected, config.beta, config.divergence, config.alpha)

    def implicit_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        beta, divergence, alpha = self.config.beta, self.config.divergence, self.config.alpha
        return (
            beta * f_prime(pairs.chosen, divergence, alpha),
            beta * f_prime(pairs.rejected, divergence, alpha),
        )
