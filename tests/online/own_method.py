"""The shortest online method that somebody would write for themselves: REINFORCE with the prompt's mean as baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from plaudit.methods.base import Batch, Method, Role, Scorer, Scores, Sums, View, mean_of
from plaudit.types import PromptGroup


class Own(Method):
    """Σ −A log π, over all tokens."""

    name, title, paper, data_kind = "own", "REINFORCE with a mean", "Williams 1992", "prompt"
    default_completions = 4
    needs_stats: ClassVar = {"policy": frozenset({"logprob", "entropy"})}

    def teaches(self, group: PromptGroup) -> bool:
        return len({c.reward for c in group.completions}) > 1

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        rows = []
        for group in batch.groups:
            rewards = np.array([c.reward for c in group.completions])
            gains = rewards - rewards.mean()
            pairs = zip(group.completions, gains, strict=True)
            rows.append([np.full(int(c.action_mask.sum()), gain, dtype=np.float32) for c, gain in pairs])
        batch.per_token["advantage"] = rows
        batch.record("advantages/abs_mean", np.abs(np.concatenate([v for row in rows for v in row])))

    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        return {"loss": float(sum(int(c.action_mask.sum()) for g in groups for c in g.completions))}

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        old = view.columns.get("old", scores.logprobs_N.detach())
        ratio = (scores.logprobs_N - old).exp()
        weight = view.columns.get("correction", 1.0)
        terms = {"loss": -(weight * view.columns["advantage"] * ratio).sum()}
        return Sums(terms, {"policy/ratio": mean_of(ratio), "entropy": mean_of(scores.entropy_N)})
