"""Group Relative Policy Optimization (Shao et al. 2024, arXiv 2402.03300).

Objective:
    L = −mean_i (1/T_i) Σ_t [min(w A, clip(w, 1 − ε_low, 1 + ε_high) A) − β k3], with the answer's advantage
    A = (r − mean) / (std + 1e-4) over the answers to the same prompt, for all of its tokens, and
    k3 = e^d − d − 1, d = log π_ref − log π_θ (eqs. 3 and 4). With supervision=process the rewards of all steps of those
    answers are normalised together, and A of a token is the sum over the steps that end at it or behind it (§4.1.3).

When:
    Answers can be checked or scored, and several to each prompt can be had: their mean is the baseline, so no critic is
    needed. Prompts whose answers all get the same reward teach nothing; they are not computed, and counted.

Deviations:
    The paper does not say which standard deviation; std=sample divides by K − 1, as TRL and verl do. Groups whose
    rewards are equal up to rounding have advantage 0 exactly. std=batch with aggregation=token-mean is Lite-PPO (arXiv
    2508.08221). The default β is 0 as in later work (DAPO, Dr. GRPO); the paper's is 0.04. Process supervision: tokens
    behind the last step, and answers without steps, have advantage 0; the answer's own reward is logged and not learned
    from.

Elsewhere:
    TRL: GRPOTrainer: beta is kl_weight, epsilon is clip_low, epsilon_high is clip_high, num_generations is
    rollout.completions_per_prompt, num_iterations is rollout.ppo_epochs, scale_rewards=group is std=sample,
    scale_rewards=batch is std=batch and scale_rewards=none is std=none; loss_type=grpo is this method and bnpo is
    aggregation=token-mean; dr_grpo, dapo, cispo and importance_sampling_level=sequence (`gspo`) are methods of their
    own; delta is dual_clip; off_policy_mask_threshold is off_policy_mask; use_bias_correction_kl is
    kl_estimator=k3_corrected; mask_truncated_completions is truncated=mask, but in TRL's grpo and dr_grpo a masked
    answer stays in the mean over answers, with a loss of 0; here (and in TRL's dapo and bnpo) it is in no denominator,
    so that the others weigh more. multi_objective_aggregation has no counterpart: rewards are summed, then normalised.
    verl: adv_estimator=grpo. OpenRLHF: advantage_estimator=group_norm. LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from plaudit.methods.base import MethodConfig
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod
from plaudit.methods.policy.group import NormalisedConfig, NormalisedMethod
from plaudit.methods.policy.surrogates import Aggregation


class GRPOConfig(NormalisedConfig, PolicyConfig):
    """Options of GRPO."""

    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses become one: a mean over all tokens; of each answer's mean; of each answer's sum; or of each
    answer's sum over the longest possible length."""


class GRPO(NormalisedMethod, PolicyMethod):
    """Advantages within the answers to each prompt."""

    name = "grpo"
    title = "Group Relative Policy Optimization"
    paper = "arXiv 2402.03300"
    variant_of = None
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        **NormalisedMethod.elsewhere,
        "importance_sampling_level": "token is what `plaudit grpo` computes; sequence is `plaudit gspo`",
        "delta": "it is method.dual_clip here",
    }
    Config: ClassVar[type[MethodConfig]] = GRPOConfig
    config: GRPOConfig
