"""Losses that stress the method contract, each as small as a user would write it.

They are test subjects: an unsorted pairing over a batch (AOT), a baseline over the whole step from completions that
are never trained (KTO), two roles with two denominators over epochs and minibatches (PPO), and two streams in one step
(PPO-ptx, which is PPO beside SFT and needs no code of its own), a scalar head on the last token with all pairs of a
group (a reward model), and the same with a statistic over the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import softplus

from plaudit.methods.base import Batch, Method, Role, Scorer, Scores, Sums, View, mean_of, trained
from plaudit.types import PromptGroup


class ToyAOT(Method):
    """arXiv 2406.05882: sort the batch's policy margins and reference margins, compare quantile by quantile."""

    name, title, paper, data_kind = "toy_aot", "AOT", "arXiv 2406.05882", "preference"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    unit, scope = "pair", "step"

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        batch.per_token["reference"] = [[c.logprobs for c in g] for g in score("reference", batch.groups)]

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return {"loss": float(len(groups))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        def margins(logprobs_N: torch.Tensor) -> torch.Tensor:
            chosen, rejected = view.pairs(view.sum_C(logprobs_N))
            return (chosen - rejected).sort().values

        gap = margins(scores.logprobs_N) - margins(view.columns["reference"])
        return Sums({"loss": softplus(-0.1 * gap).sum()}, {"gap": mean_of(gap)})


class ToyKTO(Method):
    """arXiv 2402.01306: the baseline z0 is a mean over mismatched completions of the whole step, clamped, without
    gradient."""

    name, title, paper, data_kind = "toy_kto", "KTO", "arXiv 2402.01306", "feedback"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "reference"})
    scope, fresh_completions, min_groups = "step", True, 2

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        shift = int(rng.integers(1, len(batch.groups)))
        answers = [g.completions[0] for g in batch.groups]
        for i, group in enumerate(batch.groups):
            group.completions.append(replace(answers[(i + shift) % len(answers)], auxiliary=True))
        batch.per_token["reference"] = [[c.logprobs for c in g] for g in score("reference", batch.groups)]
        batch.per_completion["desirable"] = [np.array([bool(c.label) for c in g.completions]) for g in batch.groups]

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return {"loss": float(sum(len(trained(g)) for g in groups))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        ratio = view.sum_C(scores.logprobs_N - view.columns["reference"])
        baseline = ratio[view.auxiliary_C].mean().clamp(min=0).detach()
        own, good = ratio[~view.auxiliary_C], view.columns["desirable"][~view.auxiliary_C]
        sign = 2 * good - 1
        return Sums({"loss": torch.sigmoid(0.5 * sign * (baseline - own)).sum()}, {"kl": mean_of(baseline)})


class ToyPPO(Method):
    """arXiv 1707.06347 with GAE (1506.02438): clipped policy term over tokens, value term over its own role."""

    name, title, paper, data_kind = "toy_ppo", "PPO", "arXiv 1707.06347", "prompt"
    roles: ClassVar[frozenset[Role]] = frozenset({"policy", "critic"})
    needs_stats: ClassVar = {"policy": frozenset({"logprob"}), "critic": frozenset({"value"})}
    terms: ClassVar[Mapping[str, Role]] = {"policy": "policy", "value": "critic"}

    def coefficients(self) -> Mapping[str, float]:
        return {"policy": 1.0, "value": 0.1}

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        values = [[c.values for c in g] for g in score("critic", batch.groups)]
        batch.per_token |= {
            "old": [[c.sampling_logprobs[c.action_mask] for c in g.completions] for g in batch.groups],
            "old_value": values,
        }
        batch.per_token |= {"advantage": [], "return": []}
        for group, row in zip(batch.groups, values, strict=True):
            gains = [gae(c.reward, v) for c, v in zip(group.completions, row, strict=True)]
            batch.per_token["advantage"].append(gains)
            batch.per_token["return"].append([a + v for a, v in zip(gains, row, strict=True)])

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        tokens = float(sum(int(c.action_mask.sum()) for g in groups for c in g.completions))
        return {"policy": tokens, "value": tokens}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        if role == "critic":
            old, target = view.columns["old_value"], view.columns["return"]
            clipped = old + (scores.values_N - old).clamp(-0.2, 0.2)
            worse = torch.maximum((scores.values_N - target) ** 2, (clipped - target) ** 2)
            return Sums({"value": 0.5 * worse.sum()})
        ratio, gain = (scores.logprobs_N - view.columns["old"]).exp(), view.columns["advantage"]
        worse = torch.maximum(-gain * ratio, -gain * ratio.clamp(0.8, 1.2))
        return Sums({"policy": worse.sum()}, {"ratio": mean_of(ratio)})


def gae(score: float, values: np.ndarray, gamma: float = 1.0, lam: float = 0.95) -> np.ndarray:
    """[T] advantages of one completion whose score arrives with its last token."""
    rewards, nexts = np.zeros_like(values), np.append(values[1:], 0.0)
    rewards[-1] = score
    out, running = np.zeros_like(values), 0.0
    for t in range(len(values) - 1, -1, -1):
        running = rewards[t] + gamma * nexts[t] - values[t] + gamma * lam * running
        out[t] = running
    return out.astype(np.float32)


class ToyReward(Method):
    """arXiv 2203.02155, Eq. 1: all pairs of a prompt's ranked answers, one mean per prompt; ties say nothing."""

    name, title, paper, data_kind = "toy_reward", "Reward model", "arXiv 2203.02155", "ranking"
    roles: ClassVar[frozenset[Role]] = frozenset({"reward"})
    needs_stats: ClassVar = {"reward": frozenset({"last"})}
    terms: ClassVar[Mapping[str, Role]] = {"loss": "reward"}
    unit = "group"

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        batch.per_completion["rank"] = [np.array([c.rank for c in g.completions], np.float32) for g in batch.groups]

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return {"loss": float(len(groups))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        score, rank, owner = scores.last_C, view.columns["rank"], view.piece_of_C
        better = ((owner[:, None] == owner) & (rank[:, None] < rank)).float()
        pairs_P = torch.zeros(len(view.groups)).index_add(0, owner, better.sum(1))
        losses = softplus(score - score[:, None]) * better / pairs_P[owner].clamp(min=1)[:, None]
        return Sums({"loss": losses.sum()}, {"score": mean_of(score)})


class ToyCentredReward(ToyReward):
    """The scores' mean over the whole step is drawn to 0."""

    name, scope = "toy_centred_reward", "step"

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        sums = super().loss(role, scores, view)
        return Sums({"loss": sums.terms["loss"] + len(view.groups) * scores.last_C.mean() ** 2}, sums.metrics)


TOYS = (ToyAOT, ToyKTO, ToyPPO, ToyReward, ToyCentredReward)
