"""Pairs of a policy's own answers, ordered by their rewards: what online DPO and RSO share.

A method says which two answers it holds against each other (`pick`); what is no pair is left out and counted. The pairs
are trained on as pairs of a data set are: by `PairMethod`, with all of its seams.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Batch, MethodConfig, Scorer
from plaudit.methods.policy.advantages import Array
from plaudit.methods.preference.answers import AnswersConfig, ChoosingMethod, differ
from plaudit.methods.preference.losses import dpo_loss, hinge_loss, ipo_loss
from plaudit.methods.preference.pairs import PairConfig, Pairs, RatioMethod
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, Floats, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

register(
    MetricSpec(
        "pairs/none",
        "share",
        "lower",
        "share of the sampled prompts of whose answers no pair was made: ties, gaps below method.min_gap, equal texts",
        "rollout",
    ),
    MetricSpec("pairs/gap", "", "neutral", "reward of the chosen answer − that of the rejected one, mean", "rollout"),
)


class SampledPairConfig(AnswersConfig, PairConfig):
    """Options of the methods that make pairs of sampled answers."""

    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """sigmoid = that of DPO; ipo = (h − 1/(2β))², with summed log-ratios; hinge = max(0, 1 − βh)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed probability that the reward has the order wrong (cDPO); for loss=sigmoid."""
    min_gap: Annotated[float, Field(ge=0)] = 0.0
    """Smallest difference of two rewards that makes a pair. Ties make none whatever it is."""
    refresh_every: Annotated[int, Field(gt=0)] | None = None
    """The reference becomes the policy as it is after every so many rollout batches; default never: it stays the model
    that the run started from."""
    watch_kl: bool = True
    """Log the KL to the reference over all sampled answers; false scores only those of the pairs with the reference."""

    @model_validator(mode="after")
    def _smoothing_has_effect(self) -> SampledPairConfig:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing has no effect with loss: {self.loss}")
        return self


class SampledPairMethod(ChoosingMethod, RatioMethod):
    """A method on pairs of a policy's own answers."""

    variant_of: ClassVar[str | None] = None
    min_completions = 2
    at_start: ClassVar[Mapping[str, float]] = {"rewards/chosen": 0.0, "rewards/rejected": 0.0, "kl_per_token": 0.0}
    elsewhere: ClassVar[Mapping[str, str]] = {
        "loss_type": "it is method.loss here",
        "missing_eos_penalty": "use method.truncated=subtract with method.truncated_penalty",
    }
    Config: ClassVar[type[MethodConfig]] = SampledPairConfig
    config: SampledPairConfig

    # -- which answers make a pair

    @abstractmethod
    def pick(self, values_K: Array, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Places of the answers to one prompt that are held against each other, in any order.

        Args:
            values_K: [K] what each answer is worth.
            rng: of the batch.
        """

    def choose(self, groups: Sequence[PromptGroup], rng: np.random.Generator) -> list[PromptGroup]:
        """See `Method`: the prompts with pairs, each pair's better answer first."""
        found = [(group, self._pairs(group, rng)) for group in groups]
        return [replace(group, completions=pairs) for group, pairs in found if pairs]

    def _pairs(self, group: PromptGroup, rng: np.random.Generator) -> list[Completion]:
        answers = self.eligible(group)
        values, found = self.worths(answers), []
        for one, other in self.pick(values, rng) if len(answers) > 1 else []:
            best, worst = (one, other) if values[one] > values[other] else (other, one)
            if not differ(float(values[best]), float(values[worst]), self.config.min_gap):
                continue
            if np.array_equal(answers[best].token_ids, answers[worst].token_ids):
                continue  # a judge may say two things of one text; its gradient is 0
            found += [answers[best], answers[worst]]
        return found

    def teaches(self, group: PromptGroup) -> bool:
        """See `Method`: whether the best and the worst answer are far enough apart."""
        values = self.worths(self.eligible(group))
        return len(values) > 1 and differ(float(values.max()), float(values.min()), self.config.min_gap)

    def choice_metrics(
        self, sampled: Sequence[PromptGroup], chosen: Sequence[PromptGroup]
    ) -> Mapping[str, tuple[float, float]]:
        """See `Method`."""
        each = [self.worth(c) for group in chosen for c in group.completions]
        gaps = [better - worse for better, worse in zip(each[::2], each[1::2], strict=True)]
        return {
            "pairs/none": (float(len(sampled) - len(chosen)), float(len(sampled))),
            "pairs/gap": (float(sum(gaps)), float(len(gaps))),
        }

    # -- the reference

    def reference_mix(self, step: int) -> float:
        """See `Method`: between two rollout batches, and never in the middle of one."""
        every = self.config.refresh_every
        return float(every is not None and step % (every * self.steps_per_rollout) == 0)

    @property
    def replaces_reference(self) -> bool:
        """See `Method`."""
        return True

    def moves_reference(self) -> bool:
        """See `Method`."""
        return self.config.refresh_every is not None

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """See `Method`: reference log-probs of the pairs, and the KL over all that was sampled."""
        watched = batch.sampled if self.config.watch_kl and batch.sampled is not None else batch.groups
        answers = [c for group in watched for c in group.completions]
        found = [s.logprobs for row in score("reference", watched) for s in row]
        reference = {id(c): r for c, r in zip(answers, found, strict=True) if r is not None}
        batch.per_token["reference"] = [[reference[id(c)] for c in group.completions] for group in batch.groups]
        if not self.config.watch_kl:
            return
        gaps = [
            (own.astype(np.float64) - reference[id(c)]).sum()
            for c, own in zip(answers, _of_the_policy(watched, score), strict=True)
        ]
        batch.record("kl", gaps)
        batch.metrics["kl_per_token"] = (float(sum(gaps)), float(sum(int(c.action_mask.sum()) for c in answers)))

    # -- the loss

    def pair_loss(self, pairs: Pairs) -> Tensor:
        """See `PairMethod`."""
        config = self.config
        if config.loss == "ipo":
            return ipo_loss(pairs.chosen, pairs.rejected, config.beta)
        if config.loss == "hinge":
            return hinge_loss(pairs.chosen, pairs.rejected, config.beta)
        return dpo_loss(pairs.chosen, pairs.rejected, config.beta, config.label_smoothing)


def _of_the_policy(groups: Sequence[PromptGroup], score: Scorer) -> list[Floats]:
    """Log-probs of all answers at their targets, under the whole softmax: the engine's, where it gave them."""
    answers = [c for group in groups for c in group.completions]
    known = [c.full_logprobs[c.action_mask] for c in answers if c.full_logprobs is not None]
    if len(known) == len(answers):
        return known
    return [s.logprobs for row in score("policy", groups) for s in row if s.logprobs is not None]


__all__ = ["SampledPairConfig", "SampledPairMethod"]
