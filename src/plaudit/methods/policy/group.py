"""What the methods share that compare the answers to a prompt with each other: GRPO and those that came of it.

A method of the family says what centred rewards are divided by, how a ratio is clipped and how tokens are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from plaudit.errors import TrainingError
from plaudit.methods.base import Batch, MethodConfig, Role, Scorer
from plaudit.methods.policy.advantages import Array, Scale, all_equal, normalised, rewards_to_come
from plaudit.methods.policy.base import NotNegative, SampledConfig, SampledMethod, broadcast
from plaudit.methods.policy.kl import Estimator
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import PromptGroup

register(
    MetricSpec(
        "advantages/without_steps",
        "share",
        "lower",
        "share of the answers whose reward judges no step of theirs (method.supervision=process): they teach nothing",
        "policy",
    )
)
_OF_ANSWERS = {"reward_clip": None, "reward_scale": "none"}


class GroupConfig(SampledConfig):
    """Options of every method of the family."""

    kl_weight: NotNegative = 0.0
    """β, the weight of the KL term of the loss."""
    kl_estimator: Literal["k2", "k3", "k3_corrected"] = "k3"
    """k3 is the paper's (its gradient is that of the forward KL); k2 and k3_corrected have that of the reverse KL."""
    supervision: Literal["outcome", "process"] = "outcome"
    """outcome = an answer's reward counts for all of its tokens; process = the reward judges steps, and a token has
    those of the steps that end at it or behind it (a reward function returns them as `steps`)."""

    @model_validator(mode="after")
    def _group_has_effect(self) -> GroupConfig:
        if self.is_changed("kl_estimator") and self.kl_weight == 0:
            raise ValueError("kl_estimator has no effect without kl_weight")
        if self.supervision == "process":
            for name, default in _OF_ANSWERS.items():
                if getattr(self, name) != default:
                    raise ValueError(f"{name} has no effect with supervision: process, which reads rewards of steps")
            if self.truncated in ("replace", "subtract"):
                raise ValueError(f"truncated: {self.truncated} has no effect with supervision: process: use mask")
        return self


class NormalisedConfig(GroupConfig):
    """Options of a method that divides by a standard deviation."""

    std: Scale = "sample"
    """What centred rewards are divided by: the standard deviation of the group with K − 1 (sample) or with K
    (population), that of the whole rollout batch (batch), or nothing."""

    @model_validator(mode="after")
    def _scaled_once(self) -> NormalisedConfig:
        if self.reward_scale == "batch" and self.std != "none" and not self.moves_scaled:
            raise ValueError("reward_scale: batch has no effect beside std, which divides by a deviation: use one")
        return self


class GroupMethod(SampledMethod):
    """Advantages within the answers to each prompt: rewards less their mean."""

    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "entropy": "policy", "kl": "policy"}
    elsewhere: ClassVar[Mapping[str, str]] = {
        **SampledMethod.elsewhere,
        "use_bias_correction_kl": "use method.kl_estimator=k3_corrected",
    }
    variant_of: ClassVar[str | None] = "grpo"
    default_completions = 8
    min_completions = 2
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 2e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = GroupConfig
    config: GroupConfig

    @property
    def estimator(self) -> Estimator:  # type: ignore[override]  # an option here
        """Of the KL term."""
        return self.config.kl_estimator

    @property
    def scale(self) -> Scale:
        """What centred rewards are divided by."""
        return "none"

    def coefficients(self) -> Mapping[str, float]:
        """See `Method`."""
        return {**super().coefficients(), "kl": self.config.kl_weight}

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`: where all rewards are equal, all advantages are 0."""
        if self.config.supervision == "outcome":
            return self.tells_apart(group)
        steps = _step_rewards(group)
        # Without any step it is the reward function that is wrong, and `prepare_batch` says so.
        return any(self.counted(group)) and (not len(steps) or not all_equal(steps))

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Advantages, and reference log-probs where the loss or the log needs them.

        Raises:
            TrainingError: PL405, supervision=process and a reward that judges no steps.
        """
        self.read_batch(batch, score)
        if self.config.supervision == "process":
            rows = self._of_steps(batch)
        else:
            rows = broadcast(batch.groups, normalised(self.scores(batch), self.scale))
        self.set_advantages(batch, rows)

    def _of_steps(self, batch: Batch) -> list[list[Array]]:
        """[G][K] → [T] process supervision (GRPO, arXiv 2402.03300, §4.1.3): the rewards of all steps of all answers to
        a prompt are normalised together; nothing is normalised after they are summed."""
        raw = [_step_rewards(group) for group in batch.groups]
        if not any(map(len, raw)):
            raise TrainingError(
                "PL405",
                "method.supervision=process learns from rewards of steps, and the reward gives none to any answer",
                where="reward.rewards",
                mend='a reward function returns {"value": r, "steps": [[characters up to its end, r], …]}; or use '
                "method.supervision=outcome",
            )
        batch.record(
            "advantages/without_steps", [float(not c.step_rewards) for g in batch.groups for c in g.completions]
        )
        found = []
        for group, values in zip(batch.groups, normalised(raw, self.scale), strict=True):
            rest, row = iter(values.tolist()), []
            for completion in group.completions:
                ends = [end for end, _ in completion.step_rewards or ()]
                every = rewards_to_come([next(rest) for _ in ends], ends, len(completion.token_ids))
                row.append(every[completion.action_mask])
            found.append(row)
        return found


class NormalisedMethod(GroupMethod):
    """Advantages within the answers to each prompt, over a standard deviation."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **GroupMethod.elsewhere,
        "scale_rewards": "it is method.std here: sample where it is group, batch where it is batch, none where it is "
        "none",
    }
    Config: ClassVar[type[MethodConfig]] = NormalisedConfig
    config: NormalisedConfig

    @property
    def scale(self) -> Scale:
        """See `GroupMethod`."""
        return self.config.std


def _step_rewards(group: PromptGroup) -> Array:
    """[S] the rewards of all steps of a group, answer by answer."""
    return np.array([reward for c in group.completions for _, reward in c.step_rewards or ()], dtype=np.float64)
