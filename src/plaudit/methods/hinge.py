"""Hinge loss on log-ratios (Liu et al. 2023, "RSO", arXiv 2309.06657; after SLiC, Zhao et al. 2023, arXiv 2305.10425).

Objective:
    L = max(0, 1 − β h) per pair, with h = ρ_w − ρ_l and ρ = log π(y|x) − log π_ref(y|x) ("hinge-norm" of RSO, whose γ
    is β). SLiC's own loss has no reference: it is a margin on log π and a likelihood term.

When:
    A pair that is won by the margin 1/β stops pulling, where DPO's pull only fades: the policy stays nearer to its
    reference once the pairs are won.

Deviations:
    The pairs are those of the data; RSO's rejection sampling, which makes them, is no part of the loss.

Elsewhere:
    TRL: DPOTrainer, loss_type=["hinge"]; beta is the same.
    LLaMA-Factory: pref_loss=hinge; pref_beta is beta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plaudit.methods.preference.losses import hinge_loss
from plaudit.methods.preference.pairs import PairConfig, Pairs, RatioMethod

if TYPE_CHECKING:
    from torch import Tensor


class HingeConfig(PairConfig):
    """Options of the hinge loss."""


class Hinge(RatioMethod):
    """DPO with a hinge loss: pairs that are won by a margin stop counting."""

    name = "hinge"
    title = "Hinge loss on log-ratios (SLiC, RSO)"
    paper = "arXiv 2309.06657"
    Config = HingeConfig
    config: HingeConfig

    def pair_loss(self, pairs: Pairs) -> Tensor:
        return hinge_loss(pairs.chosen, pairs.rejected, self.config.beta)
