"""What the attention function is handed while generating: prompts that are read in, and rows that grow by a token.

Both take the place of a forest in the model's own forward (`LAYOUT_KEYWORD`), so a model generates through the very
modules, hooks and adapters with which it is trained.

Shapes as in `cache`; H query heads, T tokens in the row that the model is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.engines.local.cache import PromptBucket, Suffixes
from plaudit.forest.attention import Rule, attend_part, attend_part_anywhere, attend_segments, merge
from plaudit.forest.layout import Tree
from plaudit.types import Tokens

AttendPart = Callable[[Tensor, Tensor, Tensor, float, float | None, Tensor | None], tuple[Tensor, Tensor]]
"""See `attend_part`."""


@dataclass(slots=True)
class PromptLayout:
    """Prompts side by side in one row; their keys and values are kept in their buckets."""

    token_ids_T: Tensor
    position_ids_T: Tensor
    trees: list[Tree]
    places: list[tuple[PromptBucket, int]]
    """Bucket and number of every prompt."""
    cache: dict[Any, Any] = field(default_factory=dict)
    layer: int = 0

    @classmethod
    def of(
        cls, prompts: Sequence[Tokens], places: list[tuple[PromptBucket, int]], device: torch.device
    ) -> PromptLayout:
        ends = np.cumsum([len(p) for p in prompts]).tolist()
        starts = [end - len(p) for end, p in zip(ends, prompts, strict=True)]
        ids = np.concatenate(prompts).astype(np.int64)
        positions = np.concatenate([np.arange(len(p)) for p in prompts])
        trees = [Tree((a, b), ((b, b),)) for a, b in zip(starts, ends, strict=True)]
        return cls(torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), trees, places)

    @property
    def last_G(self) -> Tensor:
        """[G] row positions of the prompts' last tokens."""
        return torch.tensor([tree.prompt[1] - 1 for tree in self.trees], device=self.token_ids_T.device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]."""
        for tree, (bucket, number) in zip(self.trees, self.places, strict=True):
            start, end = tree.prompt
            bucket.write(self.layer, number, k[0, :, start:end], v[0, :, start:end])
        self.layer += 1
        return attend_segments(q, k, v, self, rule)


class Continuation:
    """Which rows continue which prompts, for the attention to prompts that are stored once.

    Args:
        buckets: the prompts.
        prompt_B: [B] number of each row's prompt, counted through the buckets; every prompt has a row.
    """

    def __init__(self, buckets: Sequence[PromptBucket], prompt_B: np.ndarray[Any, Any], device: torch.device) -> None:
        self.buckets = list(buckets)
        order = np.argsort(prompt_B, kind="stable")
        counts = np.bincount(prompt_B)
        self._places: list[Tensor] = []
        back = np.zeros(len(prompt_B), dtype=np.int64)
        prompt, row, offset = 0, 0, 0
        for bucket in self.buckets:
            most = int(counts[prompt : prompt + len(bucket.lengths)].max())
            places = np.zeros((len(bucket.lengths), most), dtype=np.int64)
            for g in range(len(bucket.lengths)):
                mine = order[row : row + counts[prompt]]
                places[g], places[g, : len(mine)] = mine[0], mine  # a prompt with fewer rows repeats its first
                back[mine] = offset + g * most + np.arange(len(mine))
                row, prompt = row + len(mine), prompt + 1
            self._places.append(torch.from_numpy(places.ravel()).to(device))
            offset += places.size
        self._back = torch.from_numpy(back).to(device)

    def attend(self, layer: int, q: Tensor, rule: Rule, visible: int | None) -> tuple[Tensor, Tensor] | None:
        """Attention of every row to its prompt.

        Args:
            q: [B, Hk, g, Dh].
            visible: see `PromptBucket.read`.

        Returns:
            Outputs [B, Hk, g, Dh] and log-sum-exps [B, Hk, g], or None when no prompt is visible.
        """
        stored = [bucket.read(layer, visible) for bucket in self.buckets]
        if any(s is None for s in stored):  # then all are: every prompt's last token is equally far away
            return None
        return self._attend_to([s for s in stored if s is not None], q, rule, attend_part)

    def attend_fixed(self, layer: int, q: Tensor, rule: Rule, visible_1: Tensor | None) -> tuple[Tensor, Tensor]:
        """`attend` with operations that do not depend on the number of visible positions, which the device knows: [1],
        it may be negative; None = all are visible."""
        stored = []
        for bucket in self.buckets:
            whole = bucket.read(layer, None)
            assert whole is not None
            keys, values, mask = whole
            if visible_1 is not None:
                hidden = torch.arange(bucket.width, device=q.device) < bucket.width - visible_1
                out_of_sight = torch.zeros(bucket.width, device=q.device).masked_fill(hidden, -torch.inf)
                mask = out_of_sight[None, None, None] if mask is None else mask + out_of_sight
            stored.append((keys, values, mask))
        return self._attend_to(stored, q, rule, attend_part_anywhere)

    def _attend_to(
        self, stored: Sequence[tuple[Tensor, Tensor, Tensor | None]], q: Tensor, rule: Rule, attend: AttendPart
    ) -> tuple[Tensor, Tensor]:
        _, heads, group, size = q.shape
        outs, lses = [], []
        for (keys, values, mask), places in zip(stored, self._places, strict=True):
            prompts = len(keys)
            by_prompt = q.index_select(0, places).view(prompts, -1, heads, group, size).transpose(1, 2)
            out, lse = attend(by_prompt.reshape(prompts, heads, -1, size), keys, values, rule.scale, rule.cap, mask)
            outs.append(out.view(prompts, heads, -1, group, out.shape[-1]).transpose(1, 2).flatten(0, 1))
            lses.append(lse.reshape(prompts, heads, -1, group).transpose(1, 2).flatten(0, 1))
        return torch.cat(outs).index_select(0, self._back), torch.cat(lses).index_select(0, self._back)


@dataclass(slots=True)
class Part:
    """The rows [start, end) of one cohort."""

    start: int
    end: int
    suffixes: Suffixes
    prompts: Continuation

    @property
    def rows(self) -> slice:
        """Where they lie in the step."""
        return slice(self.start, self.end)


@dataclass(slots=True)
class StepLayout:
    """One new token for every row."""

    token_ids_T: Tensor
    position_ids_T: Tensor
    parts: list[Part]
    layer: int = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """q [1, H, T, Dh], k and v [1, Hk, T, Dh] → [1, T, H, Dh]; keys and values of the new tokens are stored."""
        layer, heads = self.layer, k.shape[1]
        self.layer += 1
        q_TD = q[0].transpose(0, 1).unflatten(1, (heads, -1))  # [T, Hk, g, Dh]
        outs = [
            _attend_part_of_step(p, layer, q_TD[p.rows], k[0, :, p.rows], v[0, :, p.rows], rule) for p in self.parts
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.flatten(1, 2)[None]


def _attend_part_of_step(part: Part, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
    """Attention of a cohort's rows to their own tokens and their prompts: q [n, Hk, g, Dh], k and v [Hk, n, Dh]."""
    part.suffixes.append(layer, k.transpose(0, 1), v.transpose(0, 1))
    keys, values = part.suffixes.read(layer, rule.window)
    out, lse = attend_part(q, keys, values, rule.scale, rule.cap, None)
    # The newest token sees `window` tokens, itself and the stored ones included.
    visible = None if rule.window is None else rule.window - 1 - part.suffixes.length
    prompts = part.prompts.attend(layer, q, rule, visible)
    if prompts is not None:
        out, lse = merge(out, lse, *prompts)
    return with_sinks(out, lse, rule)


def with_sinks(out: Tensor, lse: Tensor, rule: Rule) -> Tensor:
    """The share of the sinks taken out of an output [n, Hk, g, Dh] with log-sum-exps [n, Hk, g], if there are any."""
    if rule.sinks is None:
        return out
    lse_with = torch.logaddexp(lse, rule.sinks.float().view(1, *lse.shape[1:]))
    return (out * torch.exp(lse - lse_with).unsqueeze(-1)).to(out.dtype)
