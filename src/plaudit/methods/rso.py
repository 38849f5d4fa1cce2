"""Statistical Rejection Sampling Optimization (Liu et al. 2023, arXiv 2309.06657).

Objective:
    Of the answers to a prompt, in their order, each is accepted with probability exp((r − r_max) / β_accept), r_max
    being the largest reward of those not yet accepted; what is rejected is gone through again until `accepted` answers
    are (Algorithm 1). They are samples of π* ∝ π exp(r/β_accept) where there are many candidates. Accepted answers
    make pairs in the order of their acceptance, labelled by the reward (first-round-rank), on which the loss is
    −log σ(β h) (sigmoid-norm, Eq. 8) or max(0, 1 − β h) (hinge-norm, Eq. 10); β is the paper's γ.

When:
    A reward is there, and pairs are wanted that are drawn from the policy that DPO is to end at. The two answers of a
    pair are then both good and not far apart; online_dpo takes the extremes. β_accept says how far the reward is
    trusted: near 0 only the best are accepted, at infinity all are. Sample many more answers than are accepted.

Deviations:
    The paper samples once, from the SFT policy, and trains on what it has. Here each rollout batch is sampled from the
    policy as it is: with one batch (rollout.prompts_per_batch = all prompts) that is the paper's. It accepts 8 of 64
    answers, here it is 2 of 16 by default. Equal texts are one candidate in its code and several here, as sampling has
    it. Its reward is a comparison with one answer, here any reward. Tied pairs are left out and counted.

Elsewhere:
    TRL: no trainer; loss_type=["hinge"] of DPOTrainer is the loss alone (`plaudit hinge`).
    LLaMA-Factory: not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from plaudit.methods.base import MethodConfig
from plaudit.methods.policy.advantages import Array
from plaudit.methods.preference.sampled import SampledPairConfig, SampledPairMethod
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import PromptGroup

register(
    MetricSpec(
        "rso/acceptance",
        "share",
        "neutral",
        "mean probability of a sampled answer to be accepted at first sight; near 1 nothing is selected",
        "rollout",
    )
)


class RSOConfig(SampledPairConfig):
    """Options of RSO."""

    beta: Annotated[float, Field(gt=0)] = 0.05
    """γ of the paper, the slope of the loss: larger trusts the labels more."""
    accept_beta: Annotated[float, Field(gt=0)] = 0.5
    """β of the paper, in units of the reward: the temperature of acceptance."""
    accepted: Annotated[int, Field(ge=2, multiple_of=2)] | None = None
    """Answers accepted to each prompt: an even number, since two make a pair. Default an eighth of those that were
    sampled, rounded down to an even number, at least 2."""


def acceptance(values_K: Array, beta: float) -> Array:
    """[K] probability of each answer to be accepted, exp((r − r_max)/β)."""
    found: Array = np.exp((values_K - values_K.max()) / beta)
    return found


def accept(values_K: Array, beta: float, count: int, rng: np.random.Generator) -> list[int]:
    """Statistical rejection sampling (Algorithm 1 of arXiv 2309.06657).

    Args:
        values_K: [K] rewards of candidates that were sampled independently.
        beta: temperature of acceptance.
        count: answers wanted; all are accepted where there are no more.

    Returns:
        Their places in the order of acceptance.
    """
    left, found = list(range(len(values_K))), list[int]()
    while left and len(found) < count:
        drawn = rng.random(len(left)) < acceptance(values_K[left], beta)  # the best of them always is
        found += [place for place, taken in zip(left, drawn, strict=True) if taken][: count - len(found)]
        left = [place for place, taken in zip(left, drawn, strict=True) if not taken]
    return found


class RSO(SampledPairMethod):
    """Pairs of answers that look sampled from the optimal policy."""

    name = "rso"
    title = "Statistical Rejection Sampling Optimization"
    paper = "arXiv 2309.06657"
    variant_of: ClassVar[str | None] = "online_dpo"
    default_completions = 16
    min_completions = 3
    Config: ClassVar[type[MethodConfig]] = RSOConfig
    config: RSOConfig

    def pick(self, values_K: Array, rng: np.random.Generator) -> list[tuple[int, int]]:
        """See `SampledPairMethod`."""
        count = self.config.accepted or max(2, len(values_K) // 8 // 2 * 2)
        found = accept(values_K, self.config.accept_beta, count, rng)
        return list(zip(found[::2], found[1::2], strict=False))

    def choice_metrics(
        self, sampled: Sequence[PromptGroup], chosen: Sequence[PromptGroup]
    ) -> Mapping[str, tuple[float, float]]:
        """See `Method`."""
        rows = [self.worths(self.eligible(group)) for group in sampled]
        each = [p for row in rows if len(row) for p in acceptance(row, self.config.accept_beta)]
        return {**super().choice_metrics(sampled, chosen), "rso/acceptance": (float(sum(each)), float(len(each)))}
