"""What the methods share whose action is the whole answer: RLOO and ReMax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from plaudit.methods.base import Batch, MethodConfig, Scorer, View
from plaudit.methods.policy.advantages import Array
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod, Positive
from plaudit.methods.policy.surrogates import Aggregation, ratio_of

if TYPE_CHECKING:
    from torch import Tensor


class SequenceConfig(PolicyConfig):
    """Options of a method whose action is the whole answer."""

    clip_high: Positive | None = None
    """The ratio of an answer may rise to 1 + this; default clip_low."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """Only of the entropy bonus: the policy term is a mean over answers, each of which is one action."""

    @model_validator(mode="after")
    def _sequence_has_effect(self) -> SequenceConfig:
        if self.is_changed("aggregation") and self.entropy_weight == 0:
            raise ValueError("aggregation has no effect without entropy_weight: an answer is one action")
        return self


class SequenceMethod(PolicyMethod):
    """The answer is one action, with the KL to the reference in its reward."""

    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 2e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = SequenceConfig
    config: SequenceConfig

    def penalties(self, batch: Batch, score: Scorer) -> list[Array]:
        """[G][K] β Σ_t (log π_old − log π_ref) of each answer; takes note of the batch as `read_batch` does."""
        gaps = self.read_batch(batch, score)
        if gaps is None or self.config.kl_weight == 0:
            return [np.zeros(len(g.completions)) for g in batch.groups]
        return [self.config.kl_weight * np.array([gap.sum() for gap in own]) for own in gaps]

    @property
    def policy_aggregation(self) -> Aggregation:
        """See `SampledMethod`: the shares of an answer's tokens add up to the answer."""
        return "seq-mean-token-sum"

    def action_ratio(self, ratio: Tensor, gaps: Tensor, view: View) -> Tensor:
        """See `SampledMethod`: π_θ(y|x) / π_old(y|x) of the answer."""
        whole = view.sum_C(gaps)
        return view.expand_N(ratio_of(whole, whole.new_zeros(())))

    def policy_loss(self, logprobs: Tensor, ratio: Tensor, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """See `SampledMethod`: the loss of an answer, spread evenly over its tokens so that they add up to it."""
        loss, shares = super().policy_loss(logprobs, ratio, view)
        return loss / view.expand_N(view.lengths_C), shares
