"""A forest's attention as a few launches of a variable-length kernel, however many segments it has.

- *own*: causal, over all segments. A prompt and its first branch lie beside each other and are one segment; every
  further branch is one.
- *crossing*: the further branches of a tree together look at their prompt. Queries and keys are the row itself, in
  place: what lies between is covered by segments without keys or without queries. Under a sliding window only as much
  of the prompt's end takes part as every token of these branches sees.
- *corner*: what a window leaves between the two. A branch token i sees the key c before the branch when i + c < window;
  beyond the common part this is a staircase as long as the longest branch. Branches of a tree overlap there, which no
  list of successive segments can say, so these keys are gathered: at most as many for each branch as the tree's longest
  branch has tokens. Without a window, or within it, there is no corner and nothing is copied.

All of it is decided on the host from lengths; the index tensors go to the device once per forest and window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from plaudit.forest.attention.plan import Segments
from plaudit.forest.layout import Tree
from plaudit.forest.transfer import to_device


@dataclass(slots=True)
class Launch:
    """In segment i the queries cu_q[i] … cu_q[i+1] of one slice of the row see the keys cu_k[i] … of another one."""

    queries: slice
    keys: slice
    cu_q: Tensor
    """[S + 1] int32"""
    cu_k: Tensor
    """[S + 1] int32"""
    max_q: int
    max_k: int
    causal: bool
    window: tuple[int, int] = (-1, -1)
    """keys that a query sees to its left and right, itself not counted, where the ends of a segment's queries and keys
    are on the diagonal; −1 = all"""
    blind_Q: Tensor | None = None
    """[Q] bool, queries without a key: their results mean nothing"""
    unseen_K: Tensor | None = None
    """[K] bool, keys without a query"""
    lengths_q: tuple[int, ...] = ()
    _places: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        segments: Sequence[tuple[int, int]],
        device: torch.device,
        *,
        queries: slice,
        keys: slice,
        causal: bool,
        window: tuple[int, int] = (-1, -1),
    ) -> Launch:
        """From (queries, keys) of successive segments."""
        lengths = np.asarray(segments, dtype=np.int64).reshape(-1, 2)
        ends = np.concatenate([np.zeros((1, 2), np.int64), lengths.cumsum(0)]).astype(np.int32)
        blind = np.repeat(lengths[:, 1] == 0, lengths[:, 0])
        unseen = np.repeat(lengths[:, 0] == 0, lengths[:, 1])
        return cls(
            queries,
            keys,
            to_device(np.ascontiguousarray(ends[:, 0]), device),
            to_device(np.ascontiguousarray(ends[:, 1]), device),
            int(lengths[:, 0].max()),
            int(lengths[:, 1].max()),
            causal,
            window,
            to_device(blind, device) if blind.any() else None,
            to_device(unseen, device) if unseen.any() else None,
            tuple(lengths[:, 0].tolist()),
        )

    def places(self, width: int) -> Tensor:
        """[Q] where each query lies in a [segments, width] table; for kernels that keep one row per segment."""
        if width not in self._places:
            at = [number * width + np.arange(n) for number, n in enumerate(self.lengths_q)]
            self._places[width] = to_device(np.concatenate(at), self.cu_q.device)
        return self._places[width]


@dataclass(slots=True)
class Corner:
    """The gathered staircase of a window. Every branch has as many rows here as its tree's longest one needs."""

    launch: Launch
    rows_Q: Tensor
    """[Q] int64, query in the row; of a filling row any"""
    keys_K: Tensor
    """[K] int64, key in the row"""
    filling_Q: Tensor
    """[Q] bool, rows behind a branch's end"""
    real_R: Tensor
    """[R] int64, places of the other rows in Q"""
    into_R: Tensor
    """[R] int64, their places in the row"""


@dataclass(slots=True)
class Packing:
    """The launches of a forest under one sliding window."""

    window: int | None
    """None where no sequence of the forest is longer than the window"""
    own: Launch
    crossing: Launch | None
    corner: Corner | None

    @classmethod
    def of(cls, forest: Segments, window: int | None) -> Packing:
        """Made once per forest; a window that no sequence reaches is none."""
        longest = max(
            (t.prompt[1] - t.prompt[0] + max(b - a for a, b in t.branches) for t in forest.trees if t.branches),
            default=0,
        )
        if window is not None and longest <= window:
            window = None
        key = ("packing", window)
        if key not in forest.cache:
            forest.cache[key] = cls._make(forest, window)
        packing = forest.cache[key]
        assert isinstance(packing, cls)
        return packing

    @classmethod
    def _make(cls, forest: Segments, window: int | None) -> Packing:
        device, total = forest.token_ids_T.device, len(forest.token_ids_T)
        row = slice(0, total)
        segments = [(a, b) for tree in forest.trees for a, b in _segments(tree) if b > a]
        assert [a for a, _ in segments] == [0, *(b for _, b in segments[:-1])], "segments lie beside each other"
        lengths = [(b - a, b - a) for a, b in segments]
        left = -1 if window is None else window - 1
        own = Launch.of(lengths, device, queries=row, keys=row, causal=True, window=(left, -1 if window is None else 0))
        return cls(window, own, _crossing(forest.trees, window, device), _corner(forest.trees, window, device))


def _segments(tree: Tree) -> list[tuple[int, int]]:
    """The prompt with the first branch, then the other branches."""
    (start, end), branches = tree.prompt, tree.branches
    assert not branches or branches[0][0] == end, "the first branch lies behind its prompt"
    return [(start, branches[0][1] if branches else end), *branches[1:]]


def _further(tree: Tree) -> tuple[int, int, int, int]:
    """The branches behind the first one: start, end, the longest one's length; and the prompt's length."""
    if len(tree.branches) < 2:
        return 0, 0, 0, 0
    others = tree.branches[1:]
    return others[0][0], others[-1][1], max(b - a for a, b in others), tree.prompt[1] - tree.prompt[0]


def _crossing(trees: Sequence[Tree], window: int | None, device: torch.device) -> Launch | None:
    spans: list[tuple[int, int, int, int]] = []
    for tree in trees:
        start, end, longest, prompt = _further(tree)
        common = prompt if window is None else min(prompt, window - longest)
        if end > start and common > 0:
            spans.append((start, end, tree.prompt[1] - common, tree.prompt[1]))
    if not spans:
        return None
    queries, keys = slice(spans[0][0], spans[-1][1]), slice(spans[0][2], spans[-1][3])
    q_at, k_at = queries.start, keys.start
    segments: list[tuple[int, int]] = []
    for q0, q1, k0, k1 in spans:
        if q0 > q_at:
            segments.append((q0 - q_at, 0))
        if k0 > k_at:
            segments.append((0, k0 - k_at))
        segments.append((q1 - q0, k1 - k0))
        q_at, k_at = q1, k1
    return Launch.of(segments, device, queries=queries, keys=keys, causal=False)


def _corner(trees: Sequence[Tree], window: int | None, device: torch.device) -> Corner | None:
    if window is None:
        return None
    rows, keys, filling, segments = [], [], [], []
    for tree in trees:
        start, end, longest, prompt = _further(tree)
        steps = min(longest, window) - 1  # rows of the staircase
        near, far = max(window - longest, 0), min(prompt, window - 1)  # its keys c: near < c ≤ far
        if end == start or steps < 1 or far <= near:
            continue
        for a, b in tree.branches[1:]:
            if b == a:
                continue
            index = np.arange(a, a + steps)
            rows.append(np.minimum(index, b - 1))
            filling.append(index >= b)
            keys.append(np.arange(tree.prompt[1] - far, tree.prompt[1] - near))
            segments.append((steps, far - near))
    if not segments:
        return None
    # Row i sees the keys c ≤ window − 1 − i; the last row, window − 2 − near, sees the nearest one alone. With the ends
    # on the diagonal this is: nothing to the left of it, everything to the right.
    real = ~np.concatenate(filling)
    into = np.concatenate(rows)[real]
    launch = Launch.of(
        segments,
        device,
        queries=slice(0, len(real)),
        keys=slice(0, sum(k for _, k in segments)),
        causal=False,
        window=(0, -1),
    )
    return Corner(
        launch,
        to_device(np.concatenate(rows), device),
        to_device(np.concatenate(keys), device),
        to_device(~real, device),
        to_device(np.flatnonzero(real), device),
        to_device(into, device),
    )
