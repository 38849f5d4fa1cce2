"""CISPO, clipped importance sampling weights (MiniMax 2025, MiniMax-M1, arXiv 2506.13585).

Objective:
    L = −(1 / Σ_i T_i) Σ_i Σ_t sg(min(w, ratio_cap)) A log π_θ, with A as in `grpo` and sg = without gradient (eqs. 4
    and 5): REINFORCE on every token, weighed by a ratio that is capped and not differentiated.

When:
    As `grpo`, with many steps on each rollout batch. PPO's clip drops a token's gradient once its ratio has left the
    interval, and the first to leave are the rare tokens at which a line of thought turns; here none is dropped.

Deviations:
    ratio_cap is the cap itself, not 1 + ε; the paper gives no value for its ε_high and no lower bound is in force there
    either. The value of the loss says nothing about progress: at a ratio of 1 it is −mean A log π.

Elsewhere:
    TRL: GRPOTrainer with loss_type=cispo; its epsilon_high is ratio_cap, the same number; without it TRL caps ratios at
    epsilon = 0.2. verl: policy_loss.loss_mode=cispo; its clip_ratio_high is ratio_cap − 1, and clip_ratio_low is a
    floor that is not offered here. LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plaudit.methods.base import MethodConfig, View
from plaudit.methods.policy.base import Positive
from plaudit.methods.policy.group import NormalisedConfig, NormalisedMethod

if TYPE_CHECKING:
    from torch import Tensor


class CISPOConfig(NormalisedConfig):
    """Options of CISPO."""

    ratio_cap: Positive = 5.0
    """ε_max: a token's weight is at most this, whatever its ratio. The cap itself, not what may be added to 1."""


class CISPO(NormalisedMethod):
    """REINFORCE with capped importance weights; no token is dropped."""

    name = "cispo"
    title = "Clipped IS-weight Policy Optimization"
    paper = "arXiv 2506.13585"
    elsewhere: ClassVar[Mapping[str, str]] = {
        **NormalisedMethod.elsewhere,
        "epsilon": "no ratio is clipped here; the cap of the weights is method.ratio_cap",
        "epsilon_high": "it is method.ratio_cap here, the same number",
        "clip_ratio_high": "method.ratio_cap is 1 + it",
        "clip_low": "no ratio is clipped here; the cap of the weights is method.ratio_cap",
        "clip_high": "no ratio is clipped here; the cap of the weights is method.ratio_cap",
        "dual_clip": "no ratio is clipped here; the cap of the weights is method.ratio_cap",
    }
    Config: ClassVar[type[MethodConfig]] = CISPOConfig
    config: CISPOConfig

    def policy_loss(self, logprobs: Tensor, ratio: Tensor, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """See `SampledMethod`."""
        weight, cap = ratio.detach(), self.config.ratio_cap
        loss = -weight.clamp(max=cap) * view.columns["advantage"] * logprobs  # eq. 4
        return loss, {"policy/clipfrac": (weight > cap).float()}
