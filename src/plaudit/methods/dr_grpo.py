"""Dr. GRPO, GRPO done right (Liu et al. 2025, arXiv 2503.20783).

Objective:
    L = −(1 / (B L_max)) Σ_i Σ_t min(w A, clip(w, 1 − ε_low, 1 + ε_high) A), with A = r − mean over the answers to the
    same prompt: `grpo` without the division by the group's standard deviation and without each answer's 1/T. L_max is
    rollout.max_new_tokens.

When:
    As `grpo`, where lengths must not drift. With 1/T a wrong answer costs less per token the longer it is, so wrong
    answers grow; and the division by the deviation gives prompts that are nearly always or nearly never solved the
    largest steps. The size of the rewards counts here, so scale them.

Deviations:
    The paper's code divides by a constant of its choice; here it is the most tokens that the run samples. K/(K − 1)
    times these advantages are those of `rloo`.

Elsewhere:
    TRL: GRPOTrainer with loss_type=dr_grpo and scale_rewards=none. verl: adv_estimator=grpo with
    norm_adv_by_std_in_grpo=False and loss_agg_mode=seq-mean-token-sum-norm. OpenRLHF: advantage_estimator=dr_grpo.
    LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from plaudit.methods.base import MethodConfig
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod
from plaudit.methods.policy.group import GroupConfig, GroupMethod
from plaudit.methods.policy.surrogates import Aggregation


class DrGRPOConfig(GroupConfig, PolicyConfig):
    """Options of Dr. GRPO."""

    aggregation: Aggregation = "seq-mean-token-sum-norm"
    """How token losses become one: a mean over all tokens; of each answer's mean; of each answer's sum; or of each
    answer's sum over the longest possible length."""


class DrGRPO(GroupMethod, PolicyMethod):
    """Rewards less the mean of the answers to the prompt, and nothing is divided by what was sampled."""

    name = "dr_grpo"
    title = "GRPO without its biases of length and difficulty"
    paper = "arXiv 2503.20783"
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        **GroupMethod.elsewhere,
        "scale_rewards": "none is what `plaudit dr_grpo` computes: leave it out; for another use `plaudit grpo` with "
        "method.std",
    }
    Config: ClassVar[type[MethodConfig]] = DrGRPOConfig
    config: DrGRPOConfig
