"""Which rectangles of the attention pattern a forest has, and what a layer asks of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from plaudit.forest.layout import Tree

Part = tuple[int, int, int, int, bool]
"""(query start, query end, key start, key end, causal): one rectangle of the attention pattern."""


class Segments(Protocol):
    """What a plan reads of a forest."""

    token_ids_T: Tensor
    trees: list[Tree]
    cache: dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a layer asks of attention besides queries, keys and values."""

    scale: float
    """scores are multiplied by it"""
    window: int | None = None
    """a token sees so many tokens, itself included; None = all before it"""
    cap: float | None = None
    """scores are soft-capped here (Gemma-2)"""
    sinks: Tensor | None = None
    """[H] extra logits without a value (gpt-oss)"""


class Layout(Protocol):
    """What travels under `LAYOUT_KEYWORD` besides a forest: it attends by itself (generation with stored keys)."""

    token_ids_T: Tensor
    position_ids_T: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
        ...


class Plan:
    """The rectangles of a forest with their masks, made once per forest and sliding window.

    `own` rectangles are causal, need no mask and cover every position once. `crossings` look back: from branches to
    their prompt and, under a window, from each window-sized block of a segment to the block before it. A row i behind a
    boundary sees the key c before it when i + c < window, so every mask is a corner of one [window − 1, window − 1]
    table: neither masks nor work grow with the square of a segment's length, and masks do not grow with the number of
    branches.
    """

    def __init__(self, forest: Segments, window: int | None) -> None:
        self.own: list[Part] = []
        self.crossings: list[tuple[Part, Tensor | None]] = []
        self.window = window
        segments = [s for tree in forest.trees for s in (tree.prompt, *tree.branches)]
        self._longest = max((end - start for start, end in segments), default=0)
        self._device = forest.token_ids_T.device
        self._table: Tensor | None = None
        for start, end in segments:
            self._add_segment(start, end)
        for tree in forest.trees:
            (p0, p1), branches = tree.prompt, tree.branches
            first, end = branches[0][0], branches[-1][1]
            if p1 == p0 or end == first:
                continue
            if window is None or p1 - p0 + max(b1 - b0 for b0, b1 in branches) <= window:
                self.crossings.append(((first, end, p0, p1, False), None))
                continue
            for b0, b1 in branches:
                self._add_crossing(b0, b1, p0, p1)

    def _add_segment(self, start: int, end: int) -> None:
        block = self.window or max(end - start, 1)
        for at in range(start, end, block):
            self.own.append((at, min(at + block, end), at, min(at + block, end), True))
            if at > start:
                self._add_crossing(at, min(at + block, end), start, at)

    def _add_crossing(self, q0: int, q1: int, k0: int, k1: int) -> None:
        """Queries from q0 on look back to keys before k1, their direct predecessors in the sequence."""
        assert self.window is not None
        rows, keys = min(q1 - q0, self.window - 1), min(k1 - k0, self.window - 1)
        if rows and keys:
            self.crossings.append(((q0, q0 + rows, k1 - keys, k1, False), self._mask(rows, keys, self.window)))

    def _mask(self, rows: int, keys: int, window: int) -> Tensor | None:
        """Additive mask [rows, keys] for a crossing, or None where all is visible."""
        if rows - 1 + keys < window:
            return None
        if self._table is None:
            index = torch.arange(min(window - 1, self._longest), device=self._device)
            hidden = index[:, None] + (len(index) - index)[None] >= window
            self._table = torch.zeros(hidden.shape, device=self._device).masked_fill_(hidden, -torch.inf)
        return self._table[:rows, len(self._table) - keys :]

    @classmethod
    def of(cls, forest: Segments, window: int | None) -> Plan:
        key = ("attention", window)
        if key not in forest.cache:
            forest.cache[key] = cls(forest, window)
        plan = forest.cache[key]
        assert isinstance(plan, cls)
        return plan
