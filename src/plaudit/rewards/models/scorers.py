"""The forward passes behind a reward model: packed where that equals the model's own forward, else one by one.

A prompt's answers are one group of a forest, and the head reads each answer's last token: nothing is padded, so no
padding token is needed. Whether the packed path is right for a model is measured when it is loaded (models/probe.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from plaudit.errors import ModelError
from plaudit.forest.layout import context_ids
from plaudit.methods.base import Scored
from plaudit.models.forest_model import ForestModel, causal_lm
from plaudit.models.heads import is_classifier
from plaudit.models.probe import probe
from plaudit.train.parallel import World
from plaudit.train.scorer import GroupScorer
from plaudit.types import Floats, PromptGroup


class PackedScorer:
    """Scores groups as training does.

    Args:
        model: a reward model.
        tokens: packed tokens of one forward pass.
    """

    def __init__(self, model: ForestModel, tokens: int) -> None:
        self.model = model
        self._score = GroupScorer({"reward": model}, World(), tokens)
        self._with_latents = GroupScorer({"reward": model}, World(), tokens, latents=True)

    def __call__(self, groups: Sequence[PromptGroup]) -> list[list[float]]:
        """[group][completion]"""
        return _last(self._score("reward", groups))

    def with_latents(self, groups: Sequence[PromptGroup]) -> tuple[list[list[float]], list[list[Floats]]]:
        """The same with what the head reads: [group][completion] → [D]."""
        scored = self._with_latents("reward", groups)
        return _last(scored), [[c.latent for c in group if c.latent is not None] for group in scored]

    def native(self) -> AbstractContextManager[Any]:
        """The model with its own attention."""
        return self.model.native()


def _last(scored: Sequence[Sequence[Scored]]) -> list[list[float]]:
    found = []
    for group in scored:
        last = [c.last for c in group]
        found.append([score for score in last if score is not None])
        assert len(found[-1]) == len(last), "the reward role reads last tokens"
    return found


class OwnForward:
    """Scores one conversation after the other with the model's own forward (encoders, unusual heads).

    Args:
        model: a transformers sequence classifier with one label.
        bos_id: stands in for an empty prompt.
    """

    def __init__(self, model: nn.Module, bos_id: int | None) -> None:
        self.model, self.bos_id = model, bos_id

    @torch.no_grad()
    def __call__(self, groups: Sequence[PromptGroup]) -> list[list[float]]:
        """[group][completion]"""
        device = next(self.model.parameters()).device
        found = []
        for group in groups:
            context = context_ids(group, self.bos_id)
            rows = [np.concatenate([context, c.token_ids]).astype(np.int64) for c in group.completions]
            found.append([self._one(torch.from_numpy(row)[None].to(device)) for row in rows])
        return found

    def _one(self, ids: torch.Tensor) -> float:
        return float(self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)

    @contextmanager
    def native(self) -> Iterator[Any]:
        """The model as it is."""
        yield self.model


def choose_scorer(model: nn.Module, *, bos_id: int | None, tokens: int, notes: list[str]) -> PackedScorer | OwnForward:
    """The fastest way to score that agrees with the model's own forward.

    Args:
        model: a sequence classifier with one label, or a PeftModel around one, in evaluation mode.
        bos_id: stands in for an empty prompt.
        tokens: packed tokens of one forward pass.
        notes: gets a line where the packed path is not taken.
    """
    inner = causal_lm(model)
    if is_classifier(inner):
        try:
            packed = ForestModel(model, bos_id=bos_id)
            found = probe(packed)
        except ModelError as refused:
            notes.append(refused.what)
        else:
            packed.set_path(found.path)
            notes.extend(found.notes)
            return PackedScorer(packed, tokens)
    notes.append(f"{type(inner).__name__} is scored by its own forward, one conversation at a time")
    return OwnForward(model, bos_id)
