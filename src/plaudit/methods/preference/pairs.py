"""Pairs of a chosen and a rejected answer: everything that DPO and its variants share.

A variant fills one seam, `pair_loss`: a function of the pair's two log-ratios (or of its two log-probs, without a
reference) and lengths. The others are options that every variant has:

- token weight: LD-DPO (arXiv 2409.06411) scales the log-probs of tokens beyond the shorter answer's length;
- pair weight: WPO (arXiv 2406.11827) weighs a pair by how likely the policy is to write it;
- an additional likelihood term on the chosen answer (arXiv 2404.19733, "RPO").

A variant with a statistic over the step says `scope = "step"`: the same `pair_loss` then sees all pairs of the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import (
    Batch,
    Method,
    MethodConfig,
    Role,
    RowField,
    Scorer,
    Scores,
    Statistic,
    Sums,
    View,
    mean_of,
)
from plaudit.types import DataKind, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

NllAggregation = Literal["token-mean", "sequence-mean", "sequence-sum"]


class SeamConfig(MethodConfig):
    """The options of the shared seams."""

    nll_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of an additional likelihood term on the chosen answer (Pang et al. use 1)."""
    nll_aggregation: NllAggregation = "sequence-mean"
    """sequence-mean = per-token mean of each answer, then over pairs (arXiv 2404.19733); token-mean = over all tokens
    of the step; sequence-sum = summed over the answer, mean over pairs (arXiv 2405.16436, there with weight η·β)."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    """LD-DPO: factor on the log-probs of tokens beyond the shorter answer's length; 1 = off, 0 = cut to its length."""
    weighting: Literal["none", "wpo"] = "none"
    """wpo = weigh each pair by the policy's own probability of its tokens, at most 1."""

    @model_validator(mode="after")
    def _nll_has_effect(self) -> SeamConfig:
        # The default itself is no mistake: a resolved configuration names every key.
        if self.nll_weight == 0 and self.nll_aggregation != type(self).model_fields["nll_aggregation"].default:
            raise ValueError("nll_aggregation has no effect while nll_weight is 0")
        return self


class PairConfig(SeamConfig):
    """Options of the variants that have a β."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the KL constraint; smaller lets the policy move further from the reference."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a view. Every tensor is [B]."""

    chosen: Tensor
    """log π(y_w|x) − log π_ref(y_w|x), summed over (weighted) tokens; log π(y_w|x) where there is no reference"""
    rejected: Tensor
    chosen_lengths: Tensor
    """targets of the chosen answer, at least 1, as a float"""
    rejected_lengths: Tensor
    preference: Tensor
    """probability that chosen is the better one; 1 where the row does not say. Only methods with "preference" in
    `reads` look at it."""
    preference_stated: Tensor
    """whether the row says it, as bool: a unanimous vote is 1 too"""
    margin: Tensor
    """annotated strength of the preference; 0 where the row does not say. Only methods with "margin" in `reads`."""
    reference_chosen: Tensor | None
    """log π_ref(y_w|x), or None without a reference"""
    reference_rejected: Tensor | None
    chosen_mass: Tensor | None = None
    """sum of the token weights of the chosen answer, at least a tiny number; None = its length"""
    rejected_mass: Tensor | None = None

    @property
    def mean_chosen(self) -> Tensor:
        """`chosen` per token; with token weights their weighted mean, so that equally likely tokens have the same mean
        in an answer of any length."""
        return self.chosen / (self.chosen_lengths if self.chosen_mass is None else self.chosen_mass)

    @property
    def mean_rejected(self) -> Tensor:
        """`rejected` per token, likewise."""
        return self.rejected / (self.rejected_lengths if self.rejected_mass is None else self.rejected_mass)


def _per_completion(batch: Batch, values: Sequence[float]) -> list[np.ndarray[Any, Any]]:
    """A group's number for each of its completions."""
    return [np.full(len(g.completions), v, np.float32) for g, v in zip(batch.groups, values, strict=True)]


def beyond_shorter(view: View) -> Tensor:
    """Whether a target lies beyond the shorter answer of its pair. Shape [N] bool."""
    import torch

    first, second = view.pairs(view.lengths_C)
    shorter_C = torch.minimum(first, second).repeat_interleave(2)
    starts_C = view.lengths_C.cumsum(0) - view.lengths_C
    place_N = torch.arange(view.num_targets, device=shorter_C.device) - view.expand_N(starts_C)
    return place_N >= view.expand_N(shorter_C)


def wpo_weight(logprobs_N: Tensor, log_sum_p2_N: Tensor, view: View) -> Tensor:
    """WPO's weight of each pair, detached (arXiv 2406.11827, with sampled alignment; the product is clamped at 1
    as in the authors' code).

    Args:
        logprobs_N: [N] log π(y_t).
        log_sum_p2_N: [N] log Σ_v π(v)².

    Returns:
        [B] min(1, w_w · w_l) with w = exp(mean_t(log π(y_t) − log Σ_v π(v)²)).
    """
    first, second = view.pairs(view.mean_C(logprobs_N.detach() - log_sum_p2_N.detach()))
    return (first + second).exp().clamp(max=1)


class PairMethod(Method):
    """Base of DPO, its variants, and the methods on pairs without a reference."""

    data_kind: ClassVar[DataKind] = "preference"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    unit = "pair"
    terms: ClassVar[Mapping[str, Role]] = {"loss": "policy", "nll": "policy"}
    reads: ClassVar[frozenset[RowField]] = frozenset()
    config: SeamConfig

    # -- the seam of a variant

    @abstractmethod
    def pair_loss(self, pairs: Pairs) -> Tensor:
        """Loss of each pair. [B]"""

    @abstractmethod
    def implicit_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Rewards that the loss implies for chosen and rejected, for the metrics. [B], [B]"""

    def nll_tokens(self, groups: Sequence[PromptGroup]) -> float:
        """Tokens that the likelihood term counts, for token-mean."""
        return float(sum(int(c.action_mask.sum()) for g in groups for c in g.completions[::2]))

    # -- the contract

    def stats(self) -> Mapping[Role, frozenset[Statistic]]:
        wanted: set[Statistic] = {"logprob"}
        if self.config.weighting == "wpo":
            wanted.add("log_sum_p2")
        return {"policy": frozenset(wanted)}

    def coefficients(self) -> Mapping[str, float]:
        return {"loss": 1.0, "nll": self.config.nll_weight}

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        if "reference" in self.roles:
            scored = score("reference", batch.groups)
            batch.per_token["reference"] = [[c.logprobs for c in group if c.logprobs is not None] for group in scored]
        for name, default in (("preference", 1.0), ("margin", 0.0)):
            if name in self.reads:
                values = [default if (v := getattr(g, name)) is None else v for g in batch.groups]
                batch.per_completion[name] = _per_completion(batch, values)
        if "preference" in self.reads:
            stated = [float(g.preference is not None) for g in batch.groups]
            batch.per_completion["preference_stated"] = _per_completion(batch, stated)

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        pairs = float(sum(len(g.completions) // 2 for g in groups))
        return {"loss": pairs, "nll": self.nll_tokens(groups) if self.config.nll_aggregation == "token-mean" else pairs}

    def pairs_of(self, scores: Scores, view: View) -> Pairs:
        """The view's pairs, with token weights applied."""
        import torch

        assert scores.logprobs_N is not None
        reference_N = view.columns.get("reference")
        ratio_N = scores.logprobs_N if reference_N is None else scores.logprobs_N - reference_N
        weight_N = None
        if self.config.ld_alpha != 1:
            weight_N = torch.where(beyond_shorter(view), self.config.ld_alpha, 1.0)
            ratio_N = ratio_N * weight_N
        chosen, rejected = view.pairs(view.sum_C(ratio_N))
        lengths = view.pairs(view.lengths_C.clamp(min=1).to(chosen.dtype))
        reference: tuple[Tensor | None, Tensor | None] = (None, None)
        if reference_N is not None:
            reference = view.pairs(view.sum_C(reference_N if weight_N is None else reference_N * weight_N))
        mass: tuple[Tensor | None, Tensor | None] = (None, None)
        if weight_N is not None:
            # An answer without targets has neither a sum nor a mass.
            mass = view.pairs(view.sum_C(weight_N.to(chosen.dtype)).clamp(min=1e-6))
        ones = torch.ones_like(chosen)
        stated = view.columns.get("preference_stated")
        return Pairs(
            chosen,
            rejected,
            *lengths,
            preference=view.pairs(view.columns["preference"])[0] if "preference" in view.columns else ones,
            preference_stated=(0 * ones if stated is None else view.pairs(stated)[0]).bool(),
            margin=view.pairs(view.columns["margin"])[0] if "margin" in view.columns else 0 * ones,
            reference_chosen=reference[0],
            reference_rejected=reference[1],
            chosen_mass=mass[0],
            rejected_mass=mass[1],
        )

    def nll_sum(self, scores: Scores, view: View, weight: Tensor) -> Tensor:
        """Sum of the likelihood term over the view's pairs; `weight` [B] are the examples' weights."""
        assert scores.logprobs_N is not None
        values_C = view.mean_C(scores.logprobs_N) if self._mean_per_answer else view.sum_C(scores.logprobs_N)
        return -(weight * view.pairs(values_C)[0]).sum()

    @property
    def _mean_per_answer(self) -> bool:
        return self.config.nll_aggregation == "sequence-mean"

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        assert scores.logprobs_N is not None
        pairs = self.pairs_of(scores, view)
        losses = self.pair_loss(pairs)
        weight, _ = view.pairs(view.weights_C)
        metrics = self._metrics(pairs, scores, view)
        if self.config.weighting == "wpo":
            assert scores.log_sum_p2_N is not None
            wpo = wpo_weight(scores.logprobs_N, scores.log_sum_p2_N, view)
            losses = wpo * losses
            metrics["weights/wpo"] = mean_of(wpo)
        terms = {"loss": (weight * losses).sum()}
        if self.config.nll_weight:
            terms["nll"] = self.nll_sum(scores, view, weight)
            metrics["nll"] = mean_of(-view.pairs(view.mean_C(scores.logprobs_N.detach()))[0])
        return Sums(terms, metrics)

    def _metrics(self, pairs: Pairs, scores: Scores, view: View) -> dict[str, tuple[Tensor, Tensor]]:
        assert scores.logprobs_N is not None
        chosen, rejected = (r.detach() for r in self.implicit_rewards(pairs))
        margin = chosen - rejected
        logps = view.pairs(view.sum_C(scores.logprobs_N.detach()))
        return {
            "rewards/chosen": mean_of(chosen),
            "rewards/rejected": mean_of(rejected),
            "rewards/margins": mean_of(margin),
            # A tie counts one half, so the policy that equals its reference scores 0.5 and not 0 or 1.
            "rewards/accuracies": mean_of((margin > 0).float() + 0.5 * (margin == 0).float()),
            "logps/chosen": mean_of(logps[0]),
            "logps/rejected": mean_of(logps[1]),
        }


class RatioMethod(PairMethod):
    """Base of the variants whose implicit reward is β times the log-ratio to the reference."""

    variant_of: ClassVar[str | None] = "dpo"
    at_start: ClassVar[Mapping[str, float]] = {"rewards/chosen": 0.0, "rewards/rejected": 0.0}
    default_learning_rate: ClassVar = {"lora": 5e-5, "full": 1e-6}
    Config: ClassVar[type[MethodConfig]] = PairConfig
    config: PairConfig

    def implicit_rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        return self.config.beta * pairs.chosen, self.config.beta * pairs.rejected


__all__ = [
    "NllAggregation",
    "PairConfig",
    "PairMethod",
    "Pairs",
    "RatioMethod",
    "SeamConfig",
    "beyond_shorter",
    "wpo_weight",
]
