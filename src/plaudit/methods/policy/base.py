"""What the online methods share: scores of answers, the policy term, KL to the reference, and their options.

`SampledMethod` is all of it but the form of the policy term; `PolicyMethod` has PPO's clipping.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from plaudit.methods.base import Batch, Method, MethodConfig, Role, Scorer, Scores, Statistic, Sums, View
from plaudit.methods.policy.advantages import Array, all_equal, whiten
from plaudit.methods.policy.kl import Estimator, kl_loss
from plaudit.methods.policy.surrogates import (
    Aggregation,
    aggregate,
    clipped_surrogate,
    denominator,
    dual_clipped,
    ratio_of,
)
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, DataKind, Floats, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

Columns = list[list[Floats]]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

register(
    MetricSpec(
        "policy/off_policy_masked",
        "share",
        "neutral",
        "share of the trained tokens that method.off_policy_mask leaves out: worse than the baseline, and left behind",
        "policy",
    )
)
register(
    MetricSpec(
        "advantages/abs_mean", "", "neutral", "mean size of the advantages; 0 = there is nothing to learn", "policy"
    )
)


class SampledConfig(MethodConfig):
    """Options of every online method."""

    kl_weight: NotNegative = 0.05
    """β, the price of leaving the reference."""
    aggregation: Aggregation = "token-mean"
    """How token losses become one: a mean over all tokens; of each answer's mean; of each answer's sum; or of each
    answer's sum over the longest possible length."""
    entropy_weight: NotNegative = 0.0
    """Bonus for the entropy of the next token, in the aggregation of the policy term."""
    truncated: Literal["score", "mask", "replace", "subtract"] = "score"
    """An answer that reached rollout.max_new_tokens: its reward counts as it is; it is not trained on (its reward still
    counts in baselines); its reward is replaced by truncated_reward; or truncated_penalty is taken off."""
    truncated_reward: float = -1.0
    """For truncated=replace."""
    truncated_penalty: Positive = 1.0
    """For truncated=subtract."""
    reward_clip: Positive | None = None
    """Rewards are held within ± this first."""
    reward_scale: Literal["none", "batch"] = "none"
    """batch = rewards are standardised over the rollout batch, after clipping and before penalties. Refused where the
    advantages are divided by a deviation anyway."""
    off_policy_mask: Positive | None = None
    """δ in nats: an answer with a negative advantage gives the policy term no gradient once the mean over its tokens of
    log π_old − log π_θ is above it (DeepSeek-V3.2: its tokens still count in every denominator)."""
    target_kl: Positive | None = None
    """After a step with policy/approxkl above 1.5 × this, the rest of the rollout batch is left out."""
    reference_every: Annotated[int, Field(gt=0)] | None = None
    """The reference becomes the policy as it is every so many optimiser steps (DeepSeek-R1); default never."""
    watch_kl: bool = True
    """Log the KL to the reference though no term asks for it, at the price of a forward pass over each batch; and of
    one of the policy besides, where the engine's log-probs are not exact (bf16, rollout.ahead, transformers' generate)
    and a batch that gets one step would need none."""

    @model_validator(mode="after")
    def _has_effect(self) -> SampledConfig:
        for name, needed in (("truncated_reward", "replace"), ("truncated_penalty", "subtract")):
            if self.is_changed(name) and self.truncated != needed:
                raise ValueError(f"{name} has no effect without truncated: {needed}")
        if not self.watch_kl and self.kl_weight > 0:
            raise ValueError("watch_kl: false has no effect where kl_weight asks for the KL")
        if self.reference_every is not None and self.kl_weight == 0 and not self.watch_kl:
            raise ValueError("reference_every has no effect without kl_weight or watch_kl")
        return self

    def is_changed(self, name: str) -> bool:
        """Whether an option has another value than its default. One that is given with its default passes for one that
        is not given: the config.yaml of a run names them all, and must be readable again."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @property
    def moves_scaled(self) -> bool:
        """Whether something that reward_scale does not scale is done to rewards after it."""
        return self.truncated in ("replace", "subtract")


class PolicyConfig(SampledConfig):
    """Options of a method whose ratio is clipped."""

    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """A token's ratio may fall to 1 − this before its gradient stops."""
    clip_high: Positive | None = None
    """A token's ratio may rise to 1 + this; default clip_low."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """c: for negative advantages the loss of a token is at most c times its size."""


class SampledMethod(Method):
    """A method on sampled answers with a policy term. A subclass gives answers advantages and tokens a loss."""

    data_kind: ClassVar[DataKind] = "prompt"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    needs_stats: ClassVar[Mapping[Role, frozenset[Statistic]]] = {"policy": frozenset({"logprob", "entropy"})}
    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "entropy": "policy"}
    elsewhere: ClassVar[Mapping[str, str]] = {
        "beta": "it is method.kl_weight here",
        "kl_coef": "it is method.kl_weight here",
        "init_kl_coef": "it is method.kl_weight here",
        "mask_truncated_completions": "use method.truncated=mask",
        "missing_eos_penalty": "use method.truncated=subtract with method.truncated_penalty",
        "off_policy_mask_threshold": "it is method.off_policy_mask here",
        "steps_per_generation": "a rollout batch has rollout.prompts_per_batch prompts and a step "
        "train.groups_per_step",
    }
    at_start: ClassVar[Mapping[str, float]] = {"policy/ratio": 1.0, "kl_per_token": 0.0}
    estimator: ClassVar[Estimator] = "k1"
    Config: ClassVar[type[MethodConfig]] = SampledConfig
    config: SampledConfig

    # -- what it declares

    def needed_roles(self) -> frozenset[Role]:
        """See `Method`."""
        unused = self.config.kl_weight == 0 and not self.config.watch_kl
        return self.roles - {"reference"} if unused else self.roles

    def coefficients(self) -> Mapping[str, float]:
        """See `Method`."""
        return {"policy": 1.0, "entropy": -self.config.entropy_weight}

    @property
    def needs_old(self) -> bool:
        """See `Method`: the KL to the reference is that of the old policy. What was sampled may have been filtered."""
        return "reference" in self.needed_roles()

    def reference_mix(self, step: int) -> float:
        """See `Method`."""
        every = self.config.reference_every
        return float(every is not None and step % every == 0)

    @property
    def replaces_reference(self) -> bool:
        """See `Method`."""
        return True

    def moves_reference(self) -> bool:
        """See `Method`."""
        return self.config.reference_every is not None

    def may_end_rollout(self) -> bool:
        """See `Method`."""
        return self.config.target_kl is not None

    def ends_rollout(self, metrics: Mapping[str, float]) -> bool:
        """See `Method`."""
        return self.config.target_kl is not None and metrics.get("policy/approxkl", 0.0) > 1.5 * self.config.target_kl

    def counted(self, group: PromptGroup) -> list[bool]:
        """[K] which answers are trained on."""
        left_out = self.config.truncated == "mask"
        return [not (left_out and c.finish_reason == "length") for c in group.completions]

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """See `Method`."""
        counted, longest = [self.counted(g) for g in groups], self.longest(groups)
        names = [term for term, role in self.terms.items() if role == "policy"]
        found = dict.fromkeys(names, denominator(groups, counted, self.config.aggregation, longest))
        return found | {"policy": denominator(groups, counted, self.policy_aggregation, longest)}

    def longest(self, groups: Sequence[PromptGroup]) -> int:
        """L_max: what the run samples at most, and outside of a run the longest answer."""
        return self.longest_sampled or max((len(c.token_ids) for g in groups for c in g.completions), default=1)

    # -- a batch

    def scores(self, batch: Batch) -> list[Array]:
        """[G][K] rewards after clipping, standardisation and what becomes of truncated answers."""
        config = self.config
        rows = [np.array([c.reward for c in g.completions], dtype=np.float64) for g in batch.groups]
        if config.reward_clip is not None:
            rows = [np.clip(row, -config.reward_clip, config.reward_clip) for row in rows]
        if config.reward_scale == "batch":
            flat = np.concatenate(rows)
            # Of equal rewards the deviation is rounding, which would be blown up.
            scale = 0.0 if all_equal(flat) else 1.0 / (flat.std() + 1e-8)
            rows = [(row - flat.mean()) * scale for row in rows]
        cut = [np.array([c.finish_reason == "length" for c in g.completions]) for g in batch.groups]
        if config.truncated == "replace":
            return [np.where(c, config.truncated_reward, row) for c, row in zip(cut, rows, strict=True)]
        if config.truncated == "subtract":
            return [row - config.truncated_penalty * c for c, row in zip(cut, rows, strict=True)]
        return rows

    def tells_apart(self, group: PromptGroup) -> bool:
        """Whether the answers to a prompt are not all equally good, penalties included, and one is trained on."""
        return any(self.counted(group)) and not all_equal(self.scores(Batch([group]))[0])

    def read_batch(self, batch: Batch, score: Scorer) -> list[list[Array]] | None:
        """Take note of the batch: which answers count, KL to the reference.

        Returns:
            [G][K] → [T] k1 = log π_old − log π_ref per token, in nats; None where nobody asks for a reference.
        """
        if self.config.truncated == "mask":
            batch.per_completion["counted"] = [np.array(self.counted(g), dtype=np.float32) for g in batch.groups]
        if "reference" not in self.needed_roles():
            return None
        old = batch.per_token.get("old") or [[sampled(c) for c in g.completions] for g in batch.groups]
        reference: Columns = []
        for row in score("reference", batch.groups):
            reference.append([c.logprobs for c in row if c.logprobs is not None])
        gaps = [
            [o.astype(np.float64) - r for o, r in zip(own, theirs, strict=True)]
            for own, theirs in zip(old, reference, strict=True)
        ]
        sums = [float(gap.sum()) for row in gaps for gap in row]
        tokens = sum(len(gap) for row in gaps for gap in row)
        batch.record("kl", sums)
        batch.metrics["kl_per_token"] = (sum(sums), float(tokens))
        if self.config.kl_weight > 0 and self.estimator != "k1":
            batch.per_token["reference"] = reference
        return gaps

    def whitened(self, batch: Batch, gains: list[list[Array]], *, shift_mean: bool = True) -> list[list[Array]]:
        """[G][K] → [T] to deviation 1, and mean 0 unless it stays, over the tokens that count; others get 0."""
        keeps = [k for g in batch.groups for k in self.counted(g)]
        rows = list(flat_rows(gains))
        kept = iter(whiten([row for row, keep in zip(rows, keeps, strict=True) if keep], shift_mean=shift_mean))
        return like([next(kept) if keep else np.zeros_like(row) for row, keep in zip(rows, keeps, strict=True)], gains)

    def set_advantages(self, batch: Batch, advantages: Sequence[Sequence[Array]]) -> None:
        """Store [G][K] → [T] advantages, and which groups have any."""
        batch.per_token["advantage"] = [[a.astype(np.float32) for a in row] for row in advantages]
        batch.per_completion["signal"] = [
            np.array([float(np.any(a != 0)) for a in row], dtype=np.float32) for row in advantages
        ]
        flat = np.concatenate([a for row in advantages for a in row])
        batch.metrics["advantages/std"] = (float(flat.std()), 1.0)
        batch.record("advantages/abs_mean", np.abs(flat))

    def without_signal(self, batch: Batch) -> frozenset[int]:
        """See `Method`."""
        if any(value != 0 for name, value in self.coefficients().items() if name != "policy"):
            return frozenset()
        signal, counted = (batch.per_completion.get(name) for name in ("signal", "counted"))
        if signal is None:
            return frozenset()
        rows = signal if counted is None else [s * c for s, c in zip(signal, counted, strict=True)]
        return frozenset(i for i, row in enumerate(rows) if not np.any(row))

    # -- the loss

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        """See `Method`."""
        assert scores.logprobs_N is not None
        assert scores.entropy_N is not None
        config = self.config
        old = view.columns["old"] if "old" in view.columns else scores.logprobs_N.detach()
        gap = scores.logprobs_N - old
        ratio = ratio_of(scores.logprobs_N, old)
        value, shares = self.policy_loss(scores.logprobs_N, self.action_ratio(ratio, gap, view), view)
        if config.off_policy_mask is not None:
            left = off_policy(gap, view, config.off_policy_mask)
            value, shares = value * (1 - left), shares | {"policy/off_policy_masked": left}
        if (weight := view.columns.get("correction")) is not None:
            value = weight * value
        kept = self.kept_N(view)
        terms = {"policy": aggregate(value * kept, view, self.policy_aggregation)}
        if config.entropy_weight > 0:
            terms["entropy"] = aggregate(scores.entropy_N * kept, view, config.aggregation)
        if "kl" in self.terms and "reference" in view.columns:
            own = kl_loss(scores.logprobs_N, view.columns["reference"], self.estimator, ratio)
            terms["kl"] = aggregate(own * kept, view, config.aggregation)
        metrics = {
            "policy/ratio": masked_mean(ratio, kept),
            "policy/approxkl": masked_mean(0.5 * gap**2, kept),
            "entropy": masked_mean(scores.entropy_N, kept),
        }
        return Sums(terms, metrics | {name: masked_mean(share, kept) for name, share in shares.items()})

    @property
    def policy_aggregation(self) -> Aggregation:
        """How the losses of tokens become the policy term."""
        return self.config.aggregation

    def action_ratio(self, ratio: Tensor, gaps: Tensor, view: View) -> Tensor:
        """[N] w = π_θ / π_old of the action that each token belongs to: of the token itself.

        Args:
            ratio: [N] of tokens.
            gaps: [N] its logarithm, not held within any bound.
        """
        return ratio

    @abstractmethod
    def policy_loss(self, logprobs: Tensor, ratio: Tensor, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """[N] loss per token, and metrics by name, each [N] 1 for the tokens that it is the share of.

        Args:
            logprobs: [N] of tokens.
            ratio: [N] of `action_ratio`.
        """

    def kept_N(self, view: View) -> Tensor:
        """[N] 1 for the tokens of answers that are trained on."""
        import torch

        counted = view.columns.get("counted")
        if counted is None:
            return torch.ones(view.num_targets, device=view.lengths_C.device)
        return view.expand_N(counted)


class PolicyMethod(SampledMethod):
    """A method on sampled answers whose policy term is clipped as PPO's."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **SampledMethod.elsewhere,
        "epsilon": "it is method.clip_low here",
        "cliprange": "it is method.clip_low here",
        "epsilon_high": "it is method.clip_high here; 0.28 there is 0.28 here",
    }
    Config: ClassVar[type[MethodConfig]] = PolicyConfig
    config: PolicyConfig

    @property
    def clip_range(self) -> tuple[float, float]:
        """(ε_low, ε_high)."""
        config = self.config
        return config.clip_low, config.clip_low if config.clip_high is None else config.clip_high

    def policy_loss(self, logprobs: Tensor, ratio: Tensor, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        """See `SampledMethod`."""
        gains, dual = view.columns["advantage"], self.config.dual_clip
        loss, cut = clipped_surrogate(ratio, gains, *self.clip_range, dual)
        shares = {"policy/clipfrac": cut}
        return loss, shares if dual is None else shares | {"policy/dual_clipfrac": dual_clipped(ratio, gains, dual)}


def off_policy(gap: Tensor, view: View, threshold: float) -> Tensor:
    """1 for tokens with a negative advantage in answers that the policy has left behind: mean log π_old − log π_θ above
    `threshold` (DeepSeek-V3.2, arXiv 2512.02556, its off-policy sequence masking). [N] → [N]

    Args:
        gap: log π_θ − log π_old in nats.
    """
    away = view.expand_N(view.mean_C(-gap.detach()) > threshold)
    return (away & (view.columns["advantage"] < 0)).float()


def masked_mean(values_N: Tensor, kept_N: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) over the tokens that count: the form of a metric."""
    return (values_N.detach() * kept_N).sum(), kept_N.sum()


def sampled(completion: Completion) -> Floats:
    """[T] log-probs under the distribution that was sampled, at the targets."""
    assert completion.sampling_logprobs is not None, "greedy answers have no log-probs"
    return completion.sampling_logprobs[completion.action_mask]


def targets(completion: Completion) -> int:
    """T, how many tokens of an answer are trained."""
    return int(completion.action_mask.sum())


def broadcast(groups: Sequence[PromptGroup], values: Sequence[Array]) -> list[list[Array]]:
    """[G][K] → [G][K] → [T]: every token of an answer has the answer's value."""
    return [
        [np.full(targets(c), v) for c, v in zip(g.completions, row, strict=True)]
        for g, row in zip(groups, values, strict=True)
    ]


def flat_rows(rows: Sequence[Sequence[Array]]) -> Iterator[Array]:
    """Every answer's row, in order."""
    for row in rows:
        yield from row


def like(rows: Sequence[Array], shape: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """The rows of `flat_rows` in groups again."""
    each = iter(rows)
    return [[next(each) for _ in row] for row in shape]
