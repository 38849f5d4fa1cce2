"""ReMax (Li et al. 2023, arXiv 2310.10505).

Objective:
    L = −mean_i max over clipping of A_i w_i, with the whole answer as one action: A_i = r_i − β Σ_t (log π_old −
    log π_ref) − r(greedy), where greedy is the policy's own most likely answer to the prompt (greedy search), and w_i =
    π_θ(y_i|x) / π_old(y_i|x). At the first step on a batch w = 1, and the gradient is REINFORCE's, −A ∇ log π_θ(y|x)
    (algorithm 1).

When:
    One sampled answer to each prompt is to be enough, and no critic is wanted. What an answer is compared with is what
    the policy would say without chance. It costs a second answer to each prompt, sampled and scored and never trained
    on; where several answers to a prompt are sampled anyway, `rloo` gets its baseline from them.

Deviations:
    The paper takes one step on each batch, where the clipping does nothing; with several, the ratio of the whole answer
    is clipped, as in `rloo`. The KL is that of the whole answer; the paper's code gives each token the KL from it on,
    which has the same gradient in expectation. A greedy answer that was cut is treated by method.truncated as the
    others are, so that an answer equal to it has advantage 0.

Elsewhere:
    TRL and LLaMA-Factory have none. verl: adv_estimator=remax (its KL in the reward counts from each token on, and the
    loss is PPO's per token).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from plaudit.methods.base import Batch, MethodConfig, Scorer
from plaudit.methods.policy.advantages import Array, all_equal
from plaudit.methods.policy.base import broadcast
from plaudit.methods.policy.sequence import SequenceConfig, SequenceMethod
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, PromptGroup

register(
    MetricSpec(
        "greedy/reward",
        "reward",
        "higher",
        "mean reward of the most likely answers to the prompts of the batch: what sampled ones are compared with",
        "rewards",
    )
)


class ReMaxConfig(SequenceConfig):
    """Options of ReMax."""


class ReMax(SequenceMethod):
    """Each answer against the policy's most likely one."""

    name = "remax"
    title = "REINFORCE with the greedy answer as baseline"
    paper = "arXiv 2310.10505"
    needs_greedy = True
    Config: ClassVar[type[MethodConfig]] = ReMaxConfig
    config: ReMaxConfig

    def gains(self, batch: Batch) -> list[Array]:
        """[G][K] rewards less that of the greedy answer; 0 where they are equal up to rounding."""
        found = []
        for row in self.scores(Batch([_with_greedy(group) for group in batch.groups])):
            rewards, baseline = row[:-1], row[-1]
            same = [all_equal(np.array([reward, baseline])) for reward in rewards]
            found.append(np.where(same, 0.0, rewards - baseline))
        return found

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`: an answer that counts is better or worse than the greedy one."""
        return bool(np.any(self.gains(Batch([group]))[0] * self.counted(group)))

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages of whole answers, with the KL in their rewards."""
        penalties, gains = self.penalties(batch, score), self.gains(batch)
        rows = [row - own for row, own in zip(gains, penalties, strict=True)]
        self.set_advantages(batch, broadcast(batch.groups, rows))
        batch.record("greedy/reward", np.array([_greedy(g).reward for g in batch.groups], dtype=np.float32))


def _greedy(group: PromptGroup) -> Completion:
    assert group.greedy is not None, "the loop samples it: needs_greedy"
    return group.greedy


def _with_greedy(group: PromptGroup) -> PromptGroup:
    return replace(group, completions=[*group.completions, _greedy(group)])
