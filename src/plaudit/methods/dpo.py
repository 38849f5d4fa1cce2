"""Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290).

Objective:
    L = −(1−ε) log σ(β h) − ε log σ(−β h) per pair, with h = ρ_w − ρ_l and ρ = log π(y|x) − log π_ref(y|x), summed over
    the answer's tokens, its end-of-turn token included (Eq. 7). ε = label_smoothing is the conservative variant, cDPO
    (Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3). A row's own `preference` p (a vote share, a judge's
    probability) takes the place of 1 − ε.

When:
    Pairs of answers, and a reference that has been tuned on answers of this kind. The first thing to try. Watch
    logps/chosen: where it falls with the margin rising, likelihood is displaced; nll_weight = 1, apo_zero or dpo_norm
    help.

Deviations:
    AdamW instead of RMSprop. The log-ratio is taken token by token before summing, which avoids the cancellation of
    two large sums.

Elsewhere:
    TRL: DPOTrainer, loss_type=["sigmoid"]; beta is the same. Its `sigmoid` ignores label_smoothing, ours does not.
    loss_type=["sigmoid", "sft"] is nll_weight with nll_aggregation=token-mean; rpo_alpha is nll_weight; use_weighting
    is weighting=wpo; ld_alpha is the same.
    LLaMA-Factory: pref_loss=sigmoid; pref_beta is beta, pref_ftx is nll_weight, dpo_label_smoothing is label_smoothing,
    ld_alpha is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from plaudit.methods.base import RowField
from plaudit.methods.preference.losses import dpo_loss
from plaudit.methods.preference.pairs import PairConfig, Pairs, RatioMethod

if TYPE_CHECKING:
    from torch import Tensor


class DPOConfig(PairConfig):
    """Options of DPO."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed probability that a label is flipped (cDPO)."""


class DPO(RatioMethod):
    """Pairs of a chosen and a rejected answer; the reference is the starting state."""

    name = "dpo"
    title = "Direct Preference Optimization"
    paper = "arXiv 2305.18290"
    variant_of = None
    reads: ClassVar[frozenset[RowField]] = frozenset({"preference"})
    Config = DPOConfig
    config: DPOConfig

    def pair_loss(self, pairs: Pairs) -> Tensor:
        epsilon = self.config.label_smoothing
        # A label is right with probability 1 − ε; a row's own probability says it better, also where it is 1.
        flipped = (1 - pairs.preference).where(pairs.preference_stated, epsilon)
        return dpo_loss(pairs.chosen, pairs.rejected, self.config.beta, flipped)
