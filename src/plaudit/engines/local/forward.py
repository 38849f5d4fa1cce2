"""The forward pass of a step through the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from plaudit.engines.local.graphs import Capture, StepGraphs
from plaudit.engines.local.layouts import PromptLayout, StepLayout
from plaudit.engines.local.packed import PackedLinears
from plaudit.forest.attention import Layout
from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel

_WORTH_PACKING = 4
"""Rows from which on the packed copies gain more than it takes to make them for one call."""


class Forward(Protocol):
    """What the scheduler needs of a model."""

    vocabulary: int
    device: torch.device

    def holding(self, rows: int) -> AbstractContextManager[None]:
        """Entered around all the steps of some work on up to so many rows; weights and modules stay as they are."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """Entered around the forwards of a step."""
        ...

    def hidden(self, layout: PromptLayout | StepLayout) -> Tensor:
        """[T, D] hidden states of the last layer."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, D] → [n, V] fp32, fresh memory."""
        ...


class ModuleForward:
    """Through the model's own modules: every architecture that the packed path supports, adapters as they are.

    The weights are the trainer's own tensors; evaluation mode and the role are set for each step and put back, so that
    a consumer may train between two groups of a stream.

    Args:
        packed: copies of the model's weights to multiply with.
        capture: how steps are recorded as graphs; None = they are not.
    """

    def __init__(
        self,
        model: ForestModel,
        role: Role = "policy",
        packed: PackedLinears | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.model, self.role, self.packed = model, role, packed
        self.graphs = None if capture is None else StepGraphs(self._compute, capture)
        self.vocabulary = model.vocabulary
        self.device = model.device
        self._holders = 0
        self._modules: tuple[nn.Module, ...] = ()

    @contextmanager
    def holding(self, rows: int) -> Iterator[None]:
        """See `Forward.holding`."""
        self._modules = tuple(self.model.modules())  # walking a large model takes longer than a step of a small one
        packed = self.packed if rows >= _WORTH_PACKING else None
        if packed is not None:
            packed.hold()
        self._holders += 1
        try:
            yield
        finally:
            if packed is not None:
                packed.release()
            self._holders -= 1
            if not self._holders:
                self._modules = ()
                if self.graphs is not None:
                    self.graphs.reset()

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Forward.running`."""
        training = [module for module in self._modules or self.model.modules() if module.training]
        if training:
            self.model.eval()
        try:
            with torch.no_grad(), self.model.role(self.role), self.packed.in_place() if self.packed else nullcontext():
                yield
        finally:
            for module in training:  # module by module: a frozen part that was in eval mode stays there
                module.training = True

    def hidden(self, layout: PromptLayout | StepLayout) -> Tensor:
        """See `Forward.hidden`."""
        if self.graphs is None:
            return self._compute(layout)
        if isinstance(layout, StepLayout):
            return self.graphs.hidden(layout)
        self.graphs.reset()  # what it holds of rows that are done is memory that the new ones count on
        return self._compute(layout)

    def _compute(self, layout: Layout) -> Tensor:
        return self.model.hidden_states(layout, self.role)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Forward.logits`."""
        return self.model.logits(hidden)
