"""Rows that were admitted together, and so have the same number of stored tokens.

That they are equally long is what makes a step cheap: no row is padded to another's length, a token's keys go to one
slice, and a sliding window is the same slice for all. Rows that are done leave when enough of them are; what remains
moves together.

Shapes: B rows of the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from plaudit.engines.local.cache import PromptBucket, Suffixes
from plaudit.engines.local.jobs import Entry, Row
from plaudit.engines.local.layouts import Continuation, Part
from plaudit.engines.local.sampler import Rules
from plaudit.types import Tokens

_KEPT_SHARE = 7 / 8
"""Rows that are done are computed along until fewer than this share of the cohort is alive."""


def bucket_lengths(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Split falling lengths into runs [start, end) of similar length: padding is at most 0.3 of the longest, or 32."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i, length in enumerate(lengths):
        if lengths[start] - length > max(32, 0.3 * lengths[start]):
            runs.append((start, i))
            start = i
    return [*runs, (start, len(lengths))]


class Cohort:
    """Made from entries; their prompts must be read in before the first step (`prompts`).

    Args:
        entries: what to admit; sorted by falling length here.
        vocabulary: for the sampling rules.
        capacity: generated tokens per row for which there is memory at first.
    """

    def __init__(self, entries: Sequence[Entry], vocabulary: int, device: torch.device, capacity: int) -> None:
        ordered = sorted(entries, key=lambda e: -len(e.context))
        self._device, self._vocabulary = device, vocabulary
        self.contexts: list[Tokens] = [e.context for e in ordered]
        self.rows: list[Row] = [row for e in ordered for row in e.rows]
        counts = [len(e.rows) for e in ordered]
        self.prompt_B = np.repeat(np.arange(len(ordered)), counts)
        """number of each row's prompt"""
        runs = bucket_lengths([len(c) for c in self.contexts])
        self.buckets = [PromptBucket([len(c) for c in self.contexts[a:b]], device) for a, b in runs]
        self.suffixes = Suffixes(len(self.rows), max(e.limit for e in ordered), capacity)
        self.start_B = np.repeat([len(c) for c in self.contexts], counts)
        """position of each row's first new token"""
        self.alive = np.ones(len(self.rows), dtype=np.bool_)
        self.newest = np.zeros(len(self.rows), dtype=np.int64)
        """token that the next step reads"""
        self._describe()

    def _describe(self) -> None:
        """What follows from which rows there are."""
        self.keys = np.array([row.key for row in self.rows], dtype=np.uint64)
        samplings = [row.job.sampling for row in self.rows]
        self.prompt_tokens_B = np.array([len(row.job.prompt) for row in self.rows])
        self.least = max(s.min_new_tokens for s in samplings)
        """rows may have stop tokens forbidden before this many tokens"""
        self.reported = max((r.job.top_logprobs for r in self.rows if r.job.top_logprobs is not None), default=None)
        """most likely tokens that some row reports; None where none reports anything"""
        self.rules = Rules.of(samplings, self._vocabulary, self._device)
        self._prompts = Continuation(self.buckets, self.prompt_B, self._device)

    @property
    def places(self) -> list[tuple[PromptBucket, int]]:
        """Where each prompt's keys belong."""
        return [(bucket, i) for bucket in self.buckets for i in range(len(bucket.lengths))]

    @property
    def stored_tokens(self) -> int:
        """Token positions for which there is memory."""
        prompts = sum(bucket.width * len(bucket.lengths) for bucket in self.buckets)
        return prompts + self.suffixes.allocated_rows * self.suffixes.capacity

    @property
    def positions(self) -> np.ndarray[Any, Any]:
        """[B] position of the token that the next step reads."""
        return self.start_B + self.suffixes.length

    @property
    def drawn(self) -> np.ndarray[Any, Any]:
        """[B] tokens that each row has drawn so far, in this cohort and before."""
        drawn: np.ndarray[Any, Any] = self.positions - self.prompt_tokens_B
        return drawn

    def part(self, start: int) -> Part:
        """The cohort as rows [start, start + B) of a step."""
        return Part(start, start + len(self.rows), self.suffixes, self._prompts)

    @property
    def worth_compacting(self) -> bool:
        return int(self.alive.sum()) < _KEPT_SHARE * len(self.rows)

    def compact(self) -> None:
        """Let the rows that are done go: rows from the end take their places, which moves as little as possible."""
        count = int(self.alive.sum())
        if count == len(self.rows):
            return
        holes = np.flatnonzero(~self.alive[:count])
        movers = count + np.flatnonzero(self.alive[count:])
        order = np.arange(count)
        order[holes] = movers
        self.suffixes.move(self._index(movers), self._index(holes), count)
        self.rows = [self.rows[i] for i in order]
        self.start_B, self.newest, self.alive = self.start_B[order], self.newest[order], self.alive[order]
        self._drop_prompts(self.prompt_B[order])
        self._describe()

    def _drop_prompts(self, prompt_B: np.ndarray[Any, Any]) -> None:
        """Let the prompts go that no row continues, and number the others anew."""
        used = np.bincount(prompt_B, minlength=len(self.contexts)) > 0
        buckets, start = [], 0
        for bucket in self.buckets:
            stay = np.flatnonzero(used[start : start + len(bucket.lengths)])
            if len(stay):
                buckets.append(bucket if len(stay) == len(bucket.lengths) else bucket.keep(self._index(stay)))
            start += len(bucket.lengths)
        self.buckets = buckets
        self.contexts = [c for c, kept in zip(self.contexts, used, strict=True) if kept]
        self.prompt_B = (np.cumsum(used) - 1)[prompt_B]

    def _index(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)
