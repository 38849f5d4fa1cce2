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

from typing import ClassVar

import numpy as np

from plaudit.methods.base import Batch, MethodConfig, Scorer
from plaudit.methods.policy.advantages import leave_one_out
from plaudit.methods.policy.base import broadcast
from plaudit.methods.policy.sequence import SequenceConfig, SequenceMethod
from plaudit.types import PromptGroup


class RLOOConfig(SequenceConfig):
    """Options of RLOO."""


class RLOO(SequenceMethod):
    """Each answer against the mean of the others to its prompt."""

    name = "rloo"
    title = "REINFORCE Leave-One-Out"
    paper = "arXiv 2402.14740"
    default_completions = 4
    min_completions = 2
    Config: ClassVar[type[MethodConfig]] = RLOOConfig
    config: RLOOConfig

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`."""
        return self.tells_apart(group)

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages of whole answers, with the KL in their rewards."""
        penalties = self.penalties(batch, score)
        rows = [row - own for row, own in zip(self.scores(batch), penalties, strict=True)]
        self.set_advantages(batch, broadcast(batch.groups, [leave_one_out(row) for row in rows]))
