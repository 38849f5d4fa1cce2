"""Sampled answers that a method chooses among: what an answer is worth, and which may be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Method, MethodConfig
from plaudit.methods.policy.advantages import Array, all_equal
from plaudit.types import Completion, DataKind, PromptGroup


class AnswersConfig(MethodConfig):
    """Options of every method that chooses among sampled answers."""

    truncated: Literal["score", "mask", "replace", "subtract"] = "score"
    """An answer that reached rollout.max_new_tokens: its reward counts as it is; it is never chosen; its reward is
    replaced by truncated_reward; or truncated_penalty is taken off."""
    truncated_reward: float = -1.0
    """For truncated=replace."""
    truncated_penalty: Annotated[float, Field(gt=0)] = 1.0
    """For truncated=subtract."""

    @model_validator(mode="after")
    def _truncated_has_effect(self) -> AnswersConfig:
        for name, needed in (("truncated_reward", "replace"), ("truncated_penalty", "subtract")):
            if self.is_changed(name) and self.truncated != needed:
                raise ValueError(f"{name} has no effect without truncated: {needed}")
        return self

    def is_changed(self, name: str) -> bool:
        """Whether an option has another value than its default: a resolved configuration names every key."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class ChoosingMethod(Method):
    """A method that trains on some of the sampled answers."""

    data_kind: ClassVar[DataKind] = "prompt"
    reads_old = False
    config: AnswersConfig

    def worth(self, answer: Completion) -> float:
        """What an answer is compared by: its reward, or what becomes of it where the answer was cut."""
        assert answer.reward is not None, "an answer without a reward"
        cut = answer.finish_reason == "length"
        if cut and self.config.truncated == "replace":
            return self.config.truncated_reward
        return answer.reward - (self.config.truncated_penalty if cut and self.config.truncated == "subtract" else 0.0)

    def eligible(self, group: PromptGroup) -> list[Completion]:
        """The answers to a prompt that may be chosen, in their order."""
        masked = self.config.truncated == "mask"
        return [c for c in group.completions if not (masked and c.finish_reason == "length")]

    def worths(self, answers: Sequence[Completion]) -> Array:
        """[K] what each answer is worth."""
        return np.array([self.worth(answer) for answer in answers], dtype=np.float64)


def differ(better: float, worse: float, min_gap: float) -> bool:
    """Whether the first is worth more by `min_gap`, and by more than rounding."""
    return better > worse and better - worse >= min_gap and not all_equal(np.array([better, worse]))


__all__ = ["AnswersConfig", "ChoosingMethod", "differ"]
