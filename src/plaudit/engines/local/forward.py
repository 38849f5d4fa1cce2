"""The forward pass of a step through the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from plaudit.engines.local.layouts import PromptLayout, StepLayout
from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel, causal_lm


class Forward(Protocol):
    """What the scheduler needs of a model."""

    vocabulary: int
    device: torch.device

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
    """

    def __init__(self, model: ForestModel, role: Role = "policy") -> None:
        self.model, self.role = model, role
        self.vocabulary = int(causal_lm(model.model).get_output_embeddings().weight.shape[0])
        self.device = model.device

    @contextmanager
    def running(self) -> Iterator[None]:
        """See `Forward.running`."""
        training = [module for module in self.model.modules() if module.training]
        if training:
            self.model.eval()
        try:
            with torch.no_grad(), self.model.role(self.role):
                yield
        finally:
            for module in training:  # module by module: a frozen part that was in eval mode stays there
                module.training = True

    def hidden(self, layout: PromptLayout | StepLayout) -> Tensor:
        """See `Forward.hidden`."""
        return self.model.hidden_states(layout, self.role)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Forward.logits`."""
        return self.model.logits(hidden)
