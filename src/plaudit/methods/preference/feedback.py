"""Single answers with a label, desirable or not: what KTO and BCO share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from plaudit.methods.base import Batch, Method, Role, Scored, Scorer, Scores, View
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

register(MetricSpec("labels/desirable", "share", "neutral", "share of desirable answers in a step"))


@dataclass(frozen=True, slots=True)
class Feedback:
    """The answers of a view. Every tensor is [C]."""

    ratio: Tensor
    """log π(y|x) − log π_ref(y|x), summed over tokens"""
    desirable: Tensor
    """1 for a desirable answer, else 0"""
    undesirable: Tensor
    """1 for an undesirable answer, else 0"""
    logps: Tensor
    """log π(y|x), detached"""


def is_desirable(completion: Completion) -> bool:
    """The label of an answer; the readers see to it that every row has one."""
    assert completion.label is not None, "feedback without a label"
    return completion.label


def mean_where(values: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of the members: the form of a metric. A class that is absent counts nothing."""
    values, member = values.detach().float(), member.float()
    return (values * member).sum(), member.sum()


def once(value: Tensor) -> tuple[Tensor, Tensor]:
    """A number that has one value in a step as a metric: its mean over the steps is logged."""
    import torch

    return value.detach().float(), torch.ones((), device=value.device)


class FeedbackMethod(Method):
    """Base of the methods on single answers with a label."""

    data_kind = "feedback"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    at_start: ClassVar[Mapping[str, float]] = {"rewards/chosen": 0.0, "rewards/rejected": 0.0}

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """One mean over all answers, whatever their label."""
        return {"loss": float(sum(len(g.completions) for g in groups))}

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        self.take_reference(batch, score("reference", batch.groups))

    def take_reference(self, batch: Batch, scored: Sequence[Sequence[Scored]]) -> None:
        """Keep the reference's log-probs of the batch's answers, and their labels."""
        batch.per_token["reference"] = [[c.logprobs for c in group if c.logprobs is not None] for group in scored]
        batch.per_completion["desirable"] = [
            np.array([is_desirable(c) for c in g.completions], np.float32) for g in batch.groups
        ]

    def feedback_of(self, scores: Scores, view: View) -> Feedback:
        """The view's answers."""
        assert scores.logprobs_N is not None
        ratio = view.sum_C(scores.logprobs_N - view.columns["reference"])
        label = view.columns["desirable"].to(ratio.dtype)
        logps = view.sum_C(scores.logprobs_N.detach())
        return Feedback(ratio, label, 1 - label, logps)

    def metrics_of(self, feedback: Feedback, beta: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Implicit rewards and log-probs by class. A class without an answer has no mean, and no metric."""
        reward = beta * feedback.ratio
        return {
            "rewards/chosen": mean_where(reward, feedback.desirable),
            "rewards/rejected": mean_where(reward, feedback.undesirable),
            "logps/chosen": mean_where(feedback.logps, feedback.desirable),
            "logps/rejected": mean_where(feedback.logps, feedback.undesirable),
            "labels/desirable": mean_where(feedback.desirable, feedback.desirable + feedback.undesirable),
        }

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The margin between the classes: nothing pairs single answers, so it is one of means."""
        if not {"rewards/chosen", "rewards/rejected"} <= metrics.keys():
            return {}
        return {"rewards/margins": metrics["rewards/chosen"] - metrics["rewards/rejected"]}


__all__ = ["Feedback", "FeedbackMethod", "is_desirable", "mean_where", "once"]
