"""Keys and values of what is being generated: prompts once per group, and what each row has generated since.

Shapes: G prompts of a bucket, P longest prompt of the bucket, Hk key heads, Dh head size, B rows, S stored positions.
One entry per call of the attention function in a forward pass, in the order of the calls (that is, per layer); entries
are made on the first write, in the shape and precision that the layer gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PromptBucket:
    """Prompts of similar length, right-aligned in one tensor per layer and never copied to the rows that share them.

    Right-aligned, because the last token of every prompt has the same distance to the row's newest token: a sliding
    window is then the same slice for all of them.

    Args:
        lengths: [G] tokens of each prompt, at least one.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.width = max(lengths)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._mask: Tensor | None = None
        if min(lengths) < self.width:
            empty = torch.tensor([self.width - n for n in lengths], device=device)[:, None]
            hidden = torch.arange(self.width, device=device)[None] < empty
            self._mask = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)[:, None, None]

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values written so far."""
        return sum(t.nbytes for t in (*self._keys, *self._values))

    def write(self, layer: int, prompt: int, key: Tensor, value: Tensor) -> None:
        """Store a prompt's keys [Hk, P_prompt, Dh] and values."""
        if layer == len(self._keys):
            shape = (len(self.lengths), key.shape[0], self.width)
            self._keys.append(key.new_zeros(*shape, key.shape[-1]))
            self._values.append(value.new_zeros(*shape, value.shape[-1]))
        start = self.width - self.lengths[prompt]
        self._keys[layer][prompt, :, start:] = key
        self._values[layer][prompt, :, start:] = value

    def read(self, layer: int, visible: int | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Keys and values [G, Hk, P', Dh] and an additive mask [G, 1, 1, P'] or None.

        Args:
            visible: only the last so many positions (sliding window); None = all.

        Returns:
            None when nothing of the prompts is visible any more.
        """
        start = 0 if visible is None else max(self.width - visible, 0)
        if start >= self.width:
            return None
        mask = None if self._mask is None or start >= self.width - min(self.lengths) else self._mask[..., start:]
        return self._keys[layer][:, :, start:], self._values[layer][:, :, start:], mask

    def keep(self, prompts: Tensor) -> PromptBucket:
        """A bucket of some of the prompts (copied); `prompts` is [G'] indices."""
        kept = [self.lengths[i] for i in prompts.tolist()]
        found = PromptBucket(kept, prompts.device)
        start = self.width - found.width
        for layer in range(len(self._keys)):
            # Layer by layer, and the old one goes at once: the peak is one layer above the sum.
            found._keys.append(self._keys[layer][prompts, :, start:])
            found._values.append(self._values[layer][prompts, :, start:])
            self._keys[layer] = self._values[layer] = torch.empty(0)
        return found


class Suffixes:
    """What the rows of a cohort have generated: all have the same length, so there is neither padding nor a mask.

    Args:
        rows: B.
        limit: most positions that will ever be stored.
        capacity: positions for which there is memory at first.
    """

    def __init__(self, rows: int, limit: int, capacity: int) -> None:
        self.rows, self.limit = rows, limit
        self.allocated_rows = rows
        self.length = 0
        self.capacity = min(limit, capacity)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    @property
    def full(self) -> bool:
        return self.length == self.capacity

    def append(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write keys and values [B, Hk, Dh] of the newest position; `advance` once all layers are written."""
        if layer == len(self._keys):
            shape = (self.rows, key.shape[1], self.capacity)
            self._keys.append(key.new_empty(*shape, key.shape[-1]))
            self._values.append(value.new_empty(*shape, value.shape[-1]))
        self._keys[layer][: self.rows, :, self.length] = key
        self._values[layer][: self.rows, :, self.length] = value

    def advance(self) -> None:
        self.length += 1

    def read(self, layer: int, window: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hk, S, Dh] with the newest position included; at most the last `window`."""
        end = self.length + 1
        start = 0 if window is None else max(end - window, 0)
        return self._keys[layer][: self.rows, :, start:end], self._values[layer][: self.rows, :, start:end]

    def blank(self) -> None:
        """Zeros where nothing was written, for those who read all of it (`whole`) under a mask."""
        for tensor in (*self._keys, *self._values):
            tensor[: self.rows, :, self.length :] = 0

    def append_at(self, layer: int, key: Tensor, value: Tensor, length_1: Tensor) -> None:
        """`append` at a position that the device knows; the layer's memory must be there."""
        self._keys[layer][: self.rows].index_copy_(2, length_1, key[:, :, None])
        self._values[layer][: self.rows].index_copy_(2, length_1, value[:, :, None])

    def whole(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hk, capacity, Dh]."""
        return self._keys[layer][: self.rows], self._values[layer][: self.rows]

    def move(self, source: Tensor, target: Tensor, rows: int) -> None:
        """Copy rows `source` over rows `target`, and keep the first `rows` rows. Memory is given back by `grow`."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[target, :, : self.length] = tensor[source, :, : self.length]
        self.rows = rows

    def grow(self, capacity: int) -> None:
        """Take another capacity, for the rows that there are; one layer after the other."""
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                new = old.new_empty(self.rows, old.shape[1], capacity, old.shape[3])
                new[:, :, : self.length] = old[: self.rows, :, : self.length]
                store[layer] = new
        self.capacity, self.allocated_rows = capacity, self.rows
