"""Group Sequence Policy Optimization (Zheng et al. 2025, arXiv 2507.18071).

Objective:
    L = −mean_i min(s_i A_i, clip(s_i, 1 − ε_low, 1 + ε_high) A_i), with A as in `grpo` and the ratio of the whole
    answer per token, s_i = (π_θ(y_i|x) / π_old(y_i|x))^(1/T_i) = exp(mean_t (log π_θ − log π_old)) (eqs. 5 to 7).
    token_level: the ratio of a token has the value s_i and the gradient of its own log-prob (GSPO-token, eqs. 13, 14).

When:
    As `grpo`, where ratios of single tokens are mostly noise: mixtures of experts, whose routing changes between
    sampling and training, long answers, and several minibatches on each rollout batch. With one step on a batch it is
    `grpo`.

    Ratios of answers lie much nearer to 1 than those of tokens, and the paper clips them at 3e-4 and 4e-4. A clip of
    0.2, as for tokens, holds back none.

Deviations:
    kl_estimator=k3_corrected weighs each token by its own ratio; TRL weighs it by the answer's.

Elsewhere:
    TRL: GRPOTrainer with importance_sampling_level=sequence and loss_type=grpo; epsilon is clip_low and epsilon_high is
    clip_high (both default to 0.2 there, which clips nothing).
    verl: policy_loss.loss_mode=gspo, with the gradient of token_level=true. OpenRLHF: policy_loss_type=gspo.
    LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from plaudit.methods.base import MethodConfig, View
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod, Positive
from plaudit.methods.policy.group import NormalisedConfig, NormalisedMethod
from plaudit.methods.policy.surrogates import Aggregation, ratio_of

if TYPE_CHECKING:
    from torch import Tensor

_WIDE = 0.05
"""Of a clip: mean log-ratios over an answer hardly ever reach it."""


class GSPOConfig(NormalisedConfig, PolicyConfig):
    """Options of GSPO."""

    clip_low: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """The ratio of an answer may fall to 1 − this before its gradient stops."""
    clip_high: Positive | None = 4e-4
    """The ratio of an answer may rise to 1 + this; null = clip_low."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """Only of the entropy bonus and the KL term: the policy term is a mean over answers."""
    token_level: bool = False
    """Each token's ratio has the gradient of that token alone (GSPO-token). The gradient is the same where an answer
    has one advantage; supervision=process and corrections per token need it."""

    @model_validator(mode="after")
    def _gspo_has_effect(self) -> GSPOConfig:
        if self.is_changed("aggregation") and self.entropy_weight == 0 and self.kl_weight == 0:
            raise ValueError("aggregation has no effect without entropy_weight or kl_weight: answers are averaged")
        return self


class GSPO(NormalisedMethod, PolicyMethod):
    """GRPO with one ratio for each answer."""

    name = "gspo"
    title = "Group Sequence Policy Optimization"
    paper = "arXiv 2507.18071"
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        **NormalisedMethod.elsewhere,
        "importance_sampling_level": "sequence is what `plaudit gspo` computes: leave it out",
    }
    Config: ClassVar[type[MethodConfig]] = GSPOConfig
    config: GSPOConfig

    def notes(self) -> list[str]:
        """See `Method`."""
        low, high = self.clip_range
        if max(low, high) < _WIDE:
            return []
        return [
            f"method.clip_low = {low:g} and clip_high = {high:g} are clips for the ratios of tokens: the ratio of an "
            "answer is a mean over its tokens and hardly leaves 1, so that next to nothing is clipped (the paper: 3e-4 "
            "and 4e-4)"
        ]

    @property
    def policy_aggregation(self) -> Aggregation:
        """See `SampledMethod`: tokens of an answer have its ratio, and their mean is the answer's loss."""
        return "seq-mean-token-mean"

    def action_ratio(self, ratio: Tensor, gaps: Tensor, view: View) -> Tensor:
        """See `SampledMethod`: s_i of the answer."""
        mean = view.mean_C(gaps)
        if not self.config.token_level:
            return view.expand_N(ratio_of(mean, mean.new_zeros(())))
        held = view.expand_N(mean.detach())
        return ratio_of(held + (gaps - gaps.detach()), held.new_zeros(()))
