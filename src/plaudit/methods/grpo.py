"""Group Relative Policy Optimization (Shao et al. 2024, arXiv 2402.03300).

Objective:
    L = −mean_i (1/T_i) Σ_t [min(w A, clip(w, 1 − ε_low, 1 + ε_high) A) − β k3], with the answer's advantage
    A = (r − mean) / (std + 1e-4) over the answers to the same prompt, for all of its tokens, and
    k3 = e^d − d − 1, d = log π_ref − log π_θ (eqs. 3 and 4).

When:
    Answers can be checked or scored, and several to each prompt can be had: their mean is the baseline, so no critic is
    needed. Prompts whose answers all get the same reward teach nothing; they are not computed, and counted.

Deviations:
    The paper does not say which standard deviation; std=sample divides by K − 1, as TRL and verl do. Groups whose
    rewards are equal up to rounding have advantage 0 exactly. std=none with aggregation=seq-mean-token-sum-norm is
    Dr. GRPO (arXiv 2503.20783). The default β is 0 as in later work (DAPO, Dr. GRPO); the paper's is 0.04.

Elsewhere:
    TRL: GRPOTrainer: beta is kl_weight, epsilon is clip_low, epsilon_high is clip_high, num_generations is
    rollout.completions_per_prompt, num_iterations is rollout.ppo_epochs, scale_rewards=group is std=sample and
    scale_rewards=none is std=none; loss_type=grpo is aggregation=seq-mean-token-mean, dr_grpo is
    seq-mean-token-sum-norm, dapo and bnpo are token-mean; use_bias_correction_kl is kl_estimator=k3_corrected;
    mask_truncated_completions is truncated=mask, but in TRL's grpo and dr_grpo a masked answer stays in the mean over
    answers, with a loss of 0; here (and in TRL's dapo and bnpo) it is in no denominator, so that the others weigh more.
    verl: adv_estimator=grpo. OpenRLHF: advantage_estimator=group_norm. LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from plaudit.methods.base import Batch, MethodConfig, Role, Scorer
from plaudit.methods.policy.advantages import Deviation, group_normalised
from plaudit.methods.policy.base import NotNegative, PolicyConfig, PolicyMethod, broadcast
from plaudit.methods.policy.kl import Estimator
from plaudit.methods.policy.surrogates import Aggregation


class GRPOConfig(PolicyConfig):
    """Options of GRPO."""

    kl_weight: NotNegative = 0.0
    """β, the weight of the KL term of the loss."""
    kl_estimator: Literal["k2", "k3", "k3_corrected"] = "k3"
    """k3 is the paper's (its gradient is that of the forward KL); k2 and k3_corrected have that of the reverse KL."""
    std: Deviation = "sample"
    """What centred rewards are divided by: the standard deviation with K − 1 (sample) or with K (population), or
    nothing."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses become one: a mean over all tokens; of each answer's mean; of each answer's sum; or of each
    answer's sum over the longest possible length."""

    @model_validator(mode="after")
    def _grpo_has_effect(self) -> GRPOConfig:
        if self.is_changed("kl_estimator") and self.kl_weight == 0:
            raise ValueError("kl_estimator has no effect without kl_weight")
        if self.reward_scale == "batch" and self.std != "none" and not self.moves_truncated:
            raise ValueError("reward_scale: batch has no effect beside std, which divides by the group's own: use one")
        return self


class GRPO(PolicyMethod):
    """Advantages within the answers to each prompt."""

    name = "grpo"
    title = "Group Relative Policy Optimization"
    paper = "arXiv 2402.03300"
    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "entropy": "policy", "kl": "policy"}
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        "scale_rewards": "use method.std: sample where it is group, none where it is none",
        "loss_type": "use method.aggregation: seq-mean-token-mean (grpo), token-mean (dapo, bnpo) or "
        "seq-mean-token-sum-norm (dr_grpo, with method.std=none)",
        "use_bias_correction_kl": "use method.kl_estimator=k3_corrected",
    }
    default_completions = 8
    min_completions = 2
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 2e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = GRPOConfig
    config: GRPOConfig

    @property
    def estimator(self) -> Estimator:  # type: ignore[override]  # an option here
        """Of the KL term."""
        return self.config.kl_estimator

    def coefficients(self) -> Mapping[str, float]:
        """See `Method`."""
        return {**super().coefficients(), "kl": self.config.kl_weight}

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages, and reference log-probs where the loss or the log needs them."""
        self.read_batch(batch, score)
        rows = [group_normalised(row, self.config.std) for row in self.scores(batch)]
        self.set_advantages(batch, broadcast(batch.groups, rows))
