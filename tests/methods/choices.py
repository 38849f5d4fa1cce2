"""Sampled answers for tests of methods that choose among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plaudit.methods.base import Scored
from plaudit.types import Completion, FinishReason, PromptGroup


def sampled(rewards: Sequence[float], *, cut: Sequence[int] = (), first: int = 0) -> PromptGroup:
    """A prompt with answers of these rewards; every answer has another text, of 2, 3, … tokens.

    Args:
        cut: places of answers that were truncated.
        first: the smallest token id.
    """

    def answer(k: int, reward: float) -> Completion:
        n = 2 + k
        reason: FinishReason = "length" if k in cut else "stop"
        ids = np.arange(first + 10 * k, first + 10 * k + n, dtype=np.int32)
        full = np.full(n, -1.0, np.float32)
        return Completion(
            ids, np.ones(n, dtype=bool), full_logprobs=full, sampling_logprobs=full, reward=reward, finish_reason=reason
        )

    return PromptGroup(np.arange(2, dtype=np.int32), [answer(k, r) for k, r in enumerate(rewards)])


def rewards_of(groups: Sequence[PromptGroup]) -> list[list[float | None]]:
    """[G][K]"""
    return [[c.reward for c in group.completions] for group in groups]


def constant_scores(value: float):
    """A scorer for which every token has this log-prob."""

    def score(role, groups):
        return [[Scored(np.full(len(c.token_ids), value, np.float32)) for c in g.completions] for g in groups]

    return score


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
