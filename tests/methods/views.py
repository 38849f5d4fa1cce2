"""Views and groups for tests of methods without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from plaudit.methods.base import View
from plaudit.types import Completion, PromptGroup


def group(
    lengths: Sequence[int], *, prompt: int = 3, prompt_targets: int = 0, weights: Sequence[float] | None = None
) -> PromptGroup:
    """A group whose completions are trained in full; the last `prompt_targets` prompt tokens are targets too."""
    completions = [
        Completion(np.arange(n, dtype=np.int32), np.ones(n, np.bool_), weight=1.0 if weights is None else weights[k])
        for k, n in enumerate(lengths)
    ]
    mask = np.arange(prompt) >= prompt - prompt_targets
    return PromptGroup(np.arange(prompt, dtype=np.int32), completions, prompt_mask=mask if prompt_targets else None)


def view(groups: Sequence[PromptGroup], columns: Mapping[str, Tensor] | None = None) -> View:
    """The view of a forest that holds whole groups."""
    members = [(i, k, c) for i, g in enumerate(groups) for k, c in enumerate(g.completions)]
    return View(
        lengths_C=torch.tensor([int(c.action_mask.sum()) for _, _, c in members]),
        num_targets=sum(int(c.action_mask.sum()) for _, _, c in members),
        piece_of_C=torch.tensor([i for i, _, _ in members]),
        prompt_lengths_P=torch.tensor([0 if g.prompt_mask is None else int(g.prompt_mask[1:].sum()) for g in groups]),
        weights_C=torch.tensor([c.weight for _, _, c in members]),
        groups=list(groups),
        keys=[(i, k) for i, k, _ in members],
        columns=dict(columns or {}),
    )
