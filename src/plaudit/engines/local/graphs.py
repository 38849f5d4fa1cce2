"""Steps as CUDA graphs: the kernels of a step are recorded once and then started together.

While few rows are generated a GPU waits for the launches, of which a step has hundreds. A graph repeats the very same
kernels on the very same memory, so what changes from step to step must lie on the device: the tokens, their positions,
and how many positions are stored. A step in this form writes at a position that the device knows and attends to the
whole store under a mask (`FixedStep`). As long as no row leaves and no store grows, the next step is the same graph.

Shapes as in `cache`; T rows of the step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plaudit.engines.local.layouts import Part, StepLayout, with_sinks
from plaudit.forest.attention import Rule, attend_part_anywhere, merge

Compute = Callable[[Any], Tensor]
"""Layout → hidden states of the last layer [T, D]."""
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Records what a function does on the device; the result repeats it, and returns the same tensor with new contents."""


@dataclass(slots=True)
class FixedStep:
    """A step whose operations are the same as long as its rows and stores are."""

    token_ids_T: Tensor
    position_ids_T: Tensor
    parts: list[Part]
    lengths: list[Tensor]
    """[1] positions that each part's rows have stored"""
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)
    """(number of a part, window) → additive mask [1, 1, 1, capacity]; made by the first layer that needs it"""
    layer: int = 0

    @classmethod
    def of(cls, step: StepLayout) -> FixedStep:
        """In memory of its own."""
        device = step.token_ids_T.device
        lengths = [torch.tensor([p.suffixes.length], device=device) for p in step.parts]
        return cls(step.token_ids_T.clone(), step.position_ids_T.clone(), list(step.parts), lengths)

    def load(self, step: StepLayout) -> None:
        """Take over what is new in the next step."""
        self.token_ids_T.copy_(step.token_ids_T)
        self.position_ids_T.copy_(step.position_ids_T)
        for length_1, part in zip(self.lengths, step.parts, strict=True):
            length_1.fill_(part.suffixes.length)
        self.masks.clear()  # a graph must contain how they are made
        self.layer = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """See `StepLayout.attend`."""
        layer, heads = self.layer, k.shape[1]
        self.layer += 1
        q_TD = q[0].transpose(0, 1).unflatten(1, (heads, -1))
        outs = [
            self._attend(number, layer, q_TD[p.rows], k[0, :, p.rows], v[0, :, p.rows], rule)
            for number, p in enumerate(self.parts)
        ]
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out.flatten(1, 2)[None]

    def _attend(self, number: int, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: Rule) -> Tensor:
        """As `layouts` does for a part of an ordinary step."""
        part, length_1 = self.parts[number], self.lengths[number]
        part.suffixes.append_at(layer, k.transpose(0, 1), v.transpose(0, 1), length_1)
        keys, values = part.suffixes.whole(layer)
        mask = self._mask(number, rule.window)
        out, lse = attend_part_anywhere(q, keys, values, rule.scale, rule.cap, mask)
        visible_1 = None if rule.window is None else rule.window - 1 - length_1
        out, lse = merge(out, lse, *part.prompts.attend_fixed(layer, q, rule, visible_1))
        return with_sinks(out, lse, rule)

    def _mask(self, number: int, window: int | None) -> Tensor:
        if (number, window) not in self.masks:
            length_1 = self.lengths[number]
            at = torch.arange(self.parts[number].suffixes.capacity, device=length_1.device)
            hidden = at > length_1
            if window is not None:
                hidden |= at <= length_1 - window
            zeros = torch.zeros(hidden.shape, device=hidden.device)
            self.masks[number, window] = zeros.masked_fill(hidden, -torch.inf)[None, None, None]
        return self.masks[number, window]


class StepGraphs:
    """Computes steps, by a graph where the same rows come again.

    Args:
        compute: the model's forward for a layout.
        capture: how steps are recorded; see `cuda_capture`.

    Attributes:
        failure: why steps are not recorded (any more); None while they are.
        replayed: steps that were done by a graph.
    """

    def __init__(self, compute: Compute, capture: Capture) -> None:
        self._compute, self._capture = compute, capture
        self.failure: str | None = None
        self.replayed = 0
        self.reset()

    def reset(self) -> None:
        """Let go of the graph and what it refers to."""
        self._key: Sequence[Any] = ()
        self._times = 0
        self._fixed: FixedStep | None = None
        self._replay: Callable[[], Tensor] | None = None

    def hidden(self, step: StepLayout) -> Tensor:
        """[T, D], in memory that the next step writes again."""
        if self.failure is not None:
            return self._compute(step)
        # The objects themselves are compared (and kept), not their addresses, which may be given away again.
        key = [(p.suffixes, p.prompts, p.suffixes.capacity, p.suffixes.rows) for p in step.parts]
        if key != self._key:
            self.reset()
            self._key = key
        self._times += 1
        if self._times == 1:  # it may stay the only one of its kind, and a new store gets its memory here
            return self._compute(step)
        if self._fixed is None:
            for part in step.parts:
                part.suffixes.blank()
            self._fixed = FixedStep.of(step)
            return self._compute(
                self._fixed
            )  # libraries set themselves up in the first run, which must not be recorded
        self._fixed.load(step)
        if self._replay is None:
            fixed = self._fixed
            try:
                self._replay = self._capture(lambda: self._compute(fixed))
            except RuntimeError as error:  # something in the model's forward asks the device, or allocates elsewhere
                self.failure = str(error).splitlines()[0]
                if self.replayed:  # or it is the first try, and the log of the start says so
                    warnings.warn(f"steps are no longer recorded as CUDA graphs: {self.failure}", stacklevel=2)
                self.reset()
                return self._compute(step)
        self.replayed += 1
        return self._replay()


def cuda_capture(device: torch.device) -> Capture:
    """Records CUDA graphs, each with memory of its own: a pool must not outlive the only graph that uses it."""

    stream = torch.cuda.Stream(device)  # its own: libraries keep work space per stream

    def capture(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # The current device belongs to a thread, and so does the stream, which a failure would leave behind.
        with torch.cuda.device(device):
            before = torch.cuda.current_stream(device)
            try:
                with torch.cuda.graph(graph, stream=stream):
                    out = work()
            finally:
                torch.cuda.set_stream(before)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return capture
