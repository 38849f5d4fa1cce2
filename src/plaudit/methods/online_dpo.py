"""Online DPO (Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback", arXiv 2402.04792).

Objective:
    Answers are sampled from the policy itself and get rewards; to each prompt the best and the worst one make a pair,
    on which the loss of DPO is taken: −log σ(β h) with h = ρ_w − ρ_l and ρ = log π(y|x) − log π_ref(y|x), summed over
    tokens. loss=ipo takes (h − 1/(2β))², loss=hinge max(0, 1 − β h). With pairs = m the i-th best and the
    i-th worst answer make a pair too, for i ≤ m. π_ref is the starting model π_0, or with refresh_every the policy as
    it was some rollout batches ago.

When:
    A reward (a verifier, a reward model, a judge, the policy itself) and prompts, and DPO's stable loss is preferred to
    a policy gradient. Small rollout batches with one step each are OAIF; large ones (rollout.prompts_per_batch many
    times train.groups_per_step) are iterative DPO. Iterative RPO (arXiv 2404.19733) is nll_weight = 1 with
    refresh_every = 1; self-rewarding (arXiv 2401.10020) is a reward of kind judge with policy: true and
    refresh_every = 1. With a reference that moves nothing holds the policy near π_0: watch that KL elsewhere.

Deviations:
    OAIF samples two answers and asks a language model which is better; here any number get a reward each. Ties, gaps
    below min_gap and pairs of the same text are left out, and their share is logged. Log-probs are at the sampling
    temperature. XPO's term (arXiv 2405.21046) is not there: it needs answers sampled from the reference.

Elsewhere:
    TRL: OnlineDPOTrainer; beta is the same, loss_type is loss, and its two answers are
    rollout.completions_per_prompt=2. missing_eos_penalty is truncated=subtract with truncated_penalty. Among tied
    answers it takes the first as the chosen one; here they make no pair.
    LLaMA-Factory: not offered. OpenRLHF: iterative DPO by its scripts, best and worst of n.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from plaudit.methods.base import MethodConfig
from plaudit.methods.policy.advantages import Array
from plaudit.methods.preference.sampled import SampledPairConfig, SampledPairMethod


class OnlineDPOConfig(SampledPairConfig):
    """Options of online DPO."""

    pairs: Annotated[int, Field(gt=0)] = 1
    """Most pairs of the answers to one prompt: the best with the worst, the second best with the second worst, and so
    on. No answer is in two of them."""


class OnlineDPO(SampledPairMethod):
    """The best answer to each prompt against the worst, both the policy's own."""

    name = "online_dpo"
    title = "Online and iterative DPO"
    paper = "arXiv 2402.04792"
    default_completions = 4
    Config: ClassVar[type[MethodConfig]] = OnlineDPOConfig
    config: OnlineDPOConfig

    def pick(self, values_K: Array, rng: np.random.Generator) -> list[tuple[int, int]]:
        """See `SampledPairMethod`."""
        order = np.argsort(-values_K, kind="stable")
        return [(int(order[i]), int(order[-1 - i])) for i in range(min(self.config.pairs, len(order) // 2))]
