"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740; Kool et al. 2019).

Objective:
    L = −mean_i max over clipping of A_i w_i, with the whole answer as one action: R_i = r_i − β Σ_t (log π_old −
    log π_ref), A_i = R_i − mean of the R of the other answers to the prompt, w_i = π_θ(y_i|x) / π_old(y_i|x). At the
    first step on a batch w = 1, and the gradient is REINFORCE's, −A ∇ log π_θ(y|x) (eqs. 7 and 8).

When:
    As `grpo`, without its division by the group's deviation: the size of the rewards counts, so scale them. Two answers
    to each prompt are enough.

Deviations:
    The paper takes one step on each batch, where the clipping does nothing; with several, the ratio of the whole answer
    is clipped, as in PPO. A correction of the sampled distribution per token is averaged over the answer.

Elsewhere:
    TRL: RLOOTrainer: beta is kl_weight, epsilon is clip_low, num_generations is rollout.completions_per_prompt (its
    default is 2), num_iterations is rollout.ppo_epochs. OpenRLHF: advantage_estimator=rloo. LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from plaudit.methods.base import Batch, MethodConfig, Scorer, View
from plaudit.methods.policy.advantages import leave_one_out
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod, Positive, broadcast
from plaudit.methods.policy.surrogates import Aggregation, ratio_of
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from torch import Tensor


class RLOOConfig(PolicyConfig):
    """Options of RLOO."""

    clip_high: Positive | None = None
    """The ratio of an answer may rise to 1 + this; default clip_low."""
    aggregation: Aggregation = "seq-mean-token-sum"
    """Only of the entropy bonus: the policy term is a mean over answers, each of which is one action."""

    @model_validator(mode="after")
    def _rloo_has_effect(self) -> RLOOConfig:
        if self.is_changed("aggregation") and self.entropy_weight == 0:
            raise ValueError("aggregation has no effect without entropy_weight: an answer is one action")
        return self


class RLOO(PolicyMethod):
    """Each answer against the mean of the others to its prompt."""

    name = "rloo"
    title = "REINFORCE Leave-One-Out"
    paper = "arXiv 2402.14740"
    default_completions = 4
    min_completions = 2
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 2e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = RLOOConfig
    config: RLOOConfig

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages of whole answers, with the KL in their rewards."""
        gaps = self.read_batch(batch, score)
        rows = self.scores(batch)
        if gaps is not None and self.config.kl_weight > 0:
            rows = [
                row - self.config.kl_weight * np.array([gap.sum() for gap in own])
                for row, own in zip(rows, gaps, strict=True)
            ]
        self.set_advantages(batch, broadcast(batch.groups, [leave_one_out(row) for row in rows]))

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """See `Method`: the policy term is divided by the number of answers."""
        answers = float(sum(sum(self.counted(g)) for g in groups))
        return {**super().weights(groups), "policy": answers}

    @property
    def policy_aggregation(self) -> Aggregation:
        """See `PolicyMethod`: the shares of an answer's tokens add up to the answer."""
        return "seq-mean-token-sum"

    def action_ratio(self, ratio: Tensor, gaps: Tensor, view: View) -> Tensor:
        """See `PolicyMethod`: π_θ(y|x) / π_old(y|x) of the answer."""
        whole = view.sum_C(gaps)
        return view.expand_N(ratio_of(whole, whole.new_zeros(())))

    def policy_loss(self, ratio: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """See `PolicyMethod`: the loss of an answer, spread evenly over its tokens so that they add up to it."""
        loss, cut = super().policy_loss(ratio, view)
        return loss / view.expand_N(view.lengths_C), cut
