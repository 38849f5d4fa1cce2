"""Identity Preference Optimization (Azar et al. 2023, arXiv 2310.12036).

Objective:
    L = (h − 1/(2τ))² per pair (Eq. 17), with h = ρ_w − ρ_l and ρ = log π(y|x) − log π_ref(y|x). The margin is drawn to
    1/(2τ) and no further, so pairs that are certain cannot push the policy away from its reference without end.
    normalisation=sum takes ρ over the whole answer, as the paper writes it; normalisation=mean divides it by the
    answer's length.

When:
    Labels without noise, or few pairs for many steps: where DPO's margins keep growing. The target 1/(2τ) is in nats
    of the whole answer with sum and in nats per token with mean, so the same τ asks for answers apart by a factor of
    their length.

Deviations:
    None with normalisation=sum. The mean is what the authors are reported to have run, and what other tools do; the
    paper does not mention it.

Elsewhere:
    TRL: DPOTrainer, loss_type=["ipo"]: normalisation=mean, and beta is tau.
    LLaMA-Factory: pref_loss=ipo: normalisation=mean, and pref_beta is tau.
    HALOs: loss=ipo is normalisation=mean too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from plaudit.methods.preference.losses import ipo_loss
from plaudit.methods.preference.pairs import PairMethod, Pairs, SeamConfig

if TYPE_CHECKING:
    from torch import Tensor


class IPOConfig(SeamConfig):
    """Options of IPO."""

    tau: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the KL constraint; the margin is drawn to 1/(2τ) nats."""
    normalisation: Literal["sum", "mean"] = "sum"
    """sum = log-ratios over the whole answer (the paper); mean = per token (TRL, HALOs)."""


class IPO(PairMethod):
    """DPO with a squared loss that draws the margin to a fixed value."""

    name = "ipo"
    title = "Identity Preference Optimization"
    paper = "arXiv 2310.12036"
    variant_of: ClassVar[str | None] = "dpo"
    at_start: ClassVar[Mapping[str, float]] = {"rewards/chosen": 0.0, "rewards/rejected": 0.0}
    elsewhere: ClassVar[Mapping[str, str]] = {
        "beta": "the beta of IPO in other tools is method.tau here, with method.normalisation=mean",
        "pref_beta": "LLaMA-Factory's pref_beta of IPO is method.tau here, with method.normalisation=mean",
    }
    default_learning_rate: ClassVar = {"lora": 5e-5, "full": 1e-6}
    Config = IPOConfig
    config: IPOConfig

    def _ratios(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if self.config.normalisation == "mean":
            return pairs.mean_chosen, pairs.mean_rejected
        return pairs.chosen, pairs.rejected

    def pair_loss(self, pairs: Pairs) -> Tensor:
        return ipo_loss(*self._ratios(pairs), self.config.tau)

    def implicit_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        chosen, rejected = self._ratios(pairs)
        return self.config.tau * chosen, self.config.tau * rejected
