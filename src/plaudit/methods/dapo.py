"""DAPO, decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025, arXiv 2503.14476).

Objective:
    L = −(1 / Σ_i T_i) Σ_i Σ_t min(w A, clip(w, 1 − ε_low, 1 + ε_high) A), with A as in `grpo` and ε_high above ε_low,
    so that unlikely tokens can become likely. With overlong_buffer the reward is r + penalty · R_length before it is
    normalised: R_length is 0 up to L_max − buffer tokens, falls linearly to −1 at L_max, and is −1 beyond (eq. 13).

When:
    Long answers that a verifier checks. Every token weighs the same, so a long answer counts for more than a short
    one; prompts that are always or never solved are replaced by others (dynamic sampling), so that a batch holds what
    teaches. The overlong punishment is meant for rewards of ±1.

Deviations:
    The paper's formula divides by the tokens of one prompt's answers; its code and this method by those of the whole
    optimiser step. The first stage of the paper, overlong filtering, is truncated=mask. L_max is
    rollout.max_new_tokens.

Elsewhere:
    TRL: GRPOTrainer with loss_type=dapo and epsilon_high=0.28; it samples no replacements; overlong_buffer is
    soft_punish_cache of get_soft_overlong_punishment, a reward function there.
    verl: clip_ratio_low and clip_ratio_high, loss_agg_mode=token-mean, reward_model.overlong_buffer.len is
    overlong_buffer and its penalty_factor is overlong_penalty, algorithm.filter_groups.enable is dynamic sampling.
    OpenRLHF: eps_clip_low_high, dynamic_filtering, overlong_buffer_len, overlong_penalty_factor.
    LLaMA-Factory has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Batch, MethodConfig, Scorer
from plaudit.methods.policy.advantages import Array, soft_overlong
from plaudit.methods.policy.base import PolicyConfig, PolicyMethod, Positive, targets
from plaudit.methods.policy.group import NormalisedConfig, NormalisedMethod
from plaudit.runs.metrics import MetricSpec, register

register(
    MetricSpec(
        "rewards/overlong",
        "reward",
        "higher",
        "what method.overlong_buffer adds to the reward of an answer: 0, or less near the length limit",
        "rewards",
    )
)


class DAPOConfig(NormalisedConfig, PolicyConfig):
    """Options of DAPO."""

    clip_high: Positive | None = 0.28
    """A token's ratio may rise to 1 + this; null = clip_low."""
    overlong_buffer: Annotated[int, Field(gt=0)] | None = None
    """L_cache: over so many tokens below rollout.max_new_tokens an answer's reward falls by overlong_penalty (the
    paper: 4,096 of 20,480); null = no punishment."""
    overlong_penalty: Positive = 1.0
    """What an answer at the limit loses."""

    @model_validator(mode="after")
    def _dapo_has_effect(self) -> DAPOConfig:
        if self.is_changed("overlong_penalty") and self.overlong_buffer is None:
            raise ValueError("overlong_penalty has no effect without overlong_buffer")
        if self.supervision == "process" and self.overlong_buffer is not None:
            raise ValueError("overlong_buffer has no effect with supervision: process, which reads rewards of steps")
        return self

    @property
    def moves_scaled(self) -> bool:
        """See `SampledConfig`."""
        return super().moves_scaled or self.overlong_buffer is not None


class DAPO(NormalisedMethod, PolicyMethod):
    """GRPO with a wider upper clip, a mean over tokens, and a price of length near the limit."""

    name = "dapo"
    title = "Decoupled Clip and Dynamic Sampling Policy Optimization"
    paper = "arXiv 2503.14476"
    default_dynamic_sampling = True
    elsewhere: ClassVar[Mapping[str, str]] = {
        **PolicyMethod.elsewhere,
        **NormalisedMethod.elsewhere,
        "delta": "it is method.dual_clip here",
        "soft_punish_cache": "it is method.overlong_buffer here",
        "overlong_buffer_len": "it is method.overlong_buffer here",
        "overlong_penalty_factor": "it is method.overlong_penalty here",
        "max_completion_len": "it is rollout.max_new_tokens here",
    }
    Config: ClassVar[type[MethodConfig]] = DAPOConfig
    config: DAPOConfig

    def overlong(self, batch: Batch) -> list[Array]:
        """[G][K] what each answer's length costs, from −overlong_penalty to 0."""
        buffer, penalty = self.config.overlong_buffer, self.config.overlong_penalty
        if buffer is None:
            return [np.zeros(len(g.completions)) for g in batch.groups]
        longest = self.longest(batch.groups)
        return [penalty * soft_overlong([targets(c) for c in g.completions], longest, buffer) for g in batch.groups]

    def scores(self, batch: Batch) -> list[Array]:
        """See `SampledMethod`: with the punishment, before anything is compared."""
        return [row + own for row, own in zip(super().scores(batch), self.overlong(batch), strict=True)]

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """See `GroupMethod`."""
        super().prepare_batch(batch, score, rng)
        if self.config.overlong_buffer is not None:
            batch.record("rewards/overlong", np.concatenate(self.overlong(batch)).astype(np.float32))
