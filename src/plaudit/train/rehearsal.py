"""Micro-batches that are only measured: forward and backward of every trained role on a run's largest groups.

Nothing of it stays: gradients, modes and random states are as before, and no loss is computed. What stands for it is
the sum of all scores that carry a gradient, whose backward pass takes the same memory: a loss has a few numbers per
target, a model thousands.
"""

from __future__ import annotations

import gc
import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from plaudit.forest.layout import Piece, piece_tokens
from plaudit.forest.pack import split_group
from plaudit.methods.base import Method, Role, Scores, Statistic
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.train.checkpoint import random_state, restore_random_state
from plaudit.train.memory import Meter
from plaudit.train.planning import Slot, materialise, needs_last
from plaudit.train.token_choice import Measurement
from plaudit.types import Completion, PromptGroup

WARM_UP = 16
"""Tokens of a first pass, which makes the gradients and whatever is only made once."""
_LONG_ENOUGH = 0.5
"""Seconds behind which a pass is not timed again."""
_PASSES = 3
_LEAST = 2
"""Tokens that are left of a prompt or an answer that is cut: one and its target."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A stream of optimiser steps: a method with the groups of the largest step that there can be.

    Args:
        groups: largest first.
        longest: (tokens, piece) of the longest unit of all groups.
        total: packed tokens of `groups`.
        unit: of how many there may be in a step, for messages.
    """

    method: Method
    groups: Sequence[PromptGroup]
    longest: tuple[int, Piece]
    total: int
    temperature: float = 1.0

    @classmethod
    def of(
        cls, method: Method, groups: Sequence[PromptGroup], count: int, bos_id: int | None, temperature: float = 1.0
    ) -> Workload:
        """The workload of a method on its data.

        Args:
            groups: all that it may be trained on, with at least one target.
            count: groups of a step.
            temperature: as in `Stream`.
        """
        last, longest = needs_last(method), (0, Piece(groups[0], 0, ()))
        largest: list[tuple[int, int]] = []  # a heap of (tokens, -index)
        lengths = [_length(group) for group in groups]
        for index in sorted(range(len(groups)), key=lambda i: -lengths[i]):
            if len(largest) == count and lengths[index] < min(longest[0], largest[0][0]):
                break  # neither this group nor one of the shorter ones can be among them
            for piece in _pieces(groups[index], index, 1, method, bos_id):
                tokens = piece_tokens(piece, bos_id, last)
                longest = max(longest, (tokens, piece), key=lambda found: (found[0], -found[1].index))
            whole = _pieces(groups[index], index, 2**62, method, bos_id)
            heapq.heappush(largest, (sum(piece_tokens(piece, bos_id, last) for piece in whole), -index))
            if len(largest) > count:
                heapq.heappop(largest)
        order = sorted(largest, reverse=True)
        return cls(method, [groups[-i] for _, i in order], longest, sum(tokens for tokens, _ in order), temperature)

    def roles(self) -> list[Role]:
        """The roles that are trained."""
        return list(dict.fromkeys(self.method.terms.values()))

    def pieces(self, tokens: int, bos_id: int | None) -> list[Piece]:
        """What a micro-batch of so many tokens holds: whole units, and one that is cut to fit exactly (a little more
        where it cannot be cut so far)."""
        last, used = needs_last(self.method), 0
        found: list[Piece] = []
        for piece in self._candidates(tokens, bos_id):
            if used >= tokens:
                break
            room, size = tokens - used, piece_tokens(piece, bos_id, last)
            kept = piece if size <= room else _cut(piece, size - room, bos_id)
            found.append(kept)
            used += piece_tokens(kept, bos_id, last)
        return found

    def _candidates(self, tokens: int, bos_id: int | None) -> Iterator[Piece]:
        """The longest unit, then the groups over and over."""
        yield self.longest[1]
        every = [_pieces(group, i, tokens, self.method, bos_id) for i, group in enumerate(self.groups)]
        while True:
            for pieces in every:
                yield from pieces


def _length(group: PromptGroup) -> int:
    """At least as many tokens as the group has when it is packed: with a head and all tokens of each answer."""
    return len(group.prompt_ids) + sum(1 + len(c.token_ids) for c in group.completions)


def _pieces(group: PromptGroup, index: int, budget: int, method: Method, bos_id: int | None) -> list[Piece]:
    return split_group(
        group,
        index,
        budget=budget,
        unit=method.unit,
        bos_id=bos_id,
        score_last=needs_last(method),
    )


def _cut(piece: Piece, surplus: int, bos_id: int | None) -> Piece:
    """The piece without `surplus` of its tokens: from the beginnings, so that the last targets stay."""
    prompt, answers = piece.group.prompt_ids, piece.members()
    lengths = [len(prompt), *(len(c.token_ids) for c in answers)]
    spare = [max(0, length - _LEAST) for length in lengths]
    gone = [min(s, surplus * s // max(1, sum(spare))) for s in spare]
    for i, s in enumerate(spare):  # what rounding down has left
        more = min(s - gone[i], surplus - sum(gone))
        gone[i] += max(0, more)
    mask = piece.group.prompt_mask
    group = PromptGroup(
        prompt[gone[0] :],
        [Completion(c.token_ids[g:], c.action_mask[g:]) for c, g in zip(answers, gone[1:], strict=True)],
        prompt_mask=None if mask is None else mask[gone[0] :],
    )
    return Piece(group, piece.index, tuple(range(len(answers))), piece.prompt_targets)


@dataclass(slots=True)
class Rehearsal:
    """Measures micro-batches. Use `open`.

    Args:
        models: the model of each role, `masters` what is trained of them.
        workloads: the streams of a step.
        meter: of the device.
        held: bytes that a run holds besides and that are not there yet (the optimiser's moments).
    """

    models: Mapping[Role, ForestModel]
    masters: Masters
    workloads: Sequence[Workload]
    meter: Meter
    held: int
    start: int = 0
    """bytes that the process held before"""
    _warm: bool = False

    @contextmanager
    def open(self) -> Iterator[Rehearsal]:
        """Let micro-batches be measured; afterwards everything is as it was."""
        state = random_state()
        modes = {m: m.training for model in self._players() for m in model.modules()}
        gradients = {name: weight.grad for name, weight in self.masters.weights.items()}
        self.start = self.meter.used()
        try:
            for workload in self.workloads:
                for role in self._trained(workload):
                    self.models[role].train(True)
            self.masters.clear_gradients()
            yield self
        finally:
            for name, weight in self.masters.weights.items():
                weight.grad = gradients[name]
            for module, mode in modes.items():
                module.training = mode
            restore_random_state(state)
            self.meter.close()

    def _players(self) -> list[ForestModel]:
        return list(dict.fromkeys(self.models.values()))

    def _trained(self, workload: Workload) -> list[Role]:
        return [role for role in workload.roles() if role in self.models]

    def __call__(self, tokens: int, *, timed: bool = False) -> Measurement:
        """Measure a micro-batch of every workload.

        Args:
            timed: whether a short pass is repeated, so that its time says something.
        """
        if tokens > WARM_UP and not self._warm:
            self._warm = True
            if (first := self(WARM_UP)).bytes is None:
                return replace(first, tokens=tokens)
        self.meter.reset()
        try:
            seconds = [self._pass(tokens)]
            while timed and len(seconds) < _PASSES and min(seconds) < _LONG_ENOUGH:
                seconds.append(self._pass(tokens))
        except torch.OutOfMemoryError:
            fits = False
        else:
            fits = True
        if not fits:  # out of the handler: the exception holds the frames, and they the tensors
            gc.collect()
            torch.cuda.empty_cache()
            return Measurement(tokens, None)
        return Measurement(tokens, max(0, self.meter.peak() - self.start) + self.held, min(seconds))

    def _pass(self, tokens: int) -> float:
        started = time.perf_counter()
        for workload in self.workloads:
            for role in self._trained(workload):
                self._train(workload, role, tokens)
            for role, model in self.models.items():
                # A model of its own that only answers: a frozen or a moving reference.
                if role == "reference" and model not in (self.models[r] for r in self._trained(workload)):
                    self._ask(workload, role, tokens)
        if self._players()[0].device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _train(self, workload: Workload, role: Role, tokens: int) -> None:
        stats = workload.method.stats().get(role, frozenset())
        with torch.enable_grad(), self.models[role].role(role) as model:
            _total(self._scores(workload, role, model, tokens, stats)).backward()

    @torch.no_grad()
    def _ask(self, workload: Workload, role: Role, tokens: int) -> None:
        with self.models[role].role(role) as model:
            self._scores(workload, role, model, tokens, frozenset({"logprob"}))

    def _scores(
        self, workload: Workload, role: Role, model: ForestModel, tokens: int, stats: frozenset[Statistic]
    ) -> Scores:
        pieces = workload.pieces(tokens, model.bos_id)
        forest = materialise(Slot(tuple(pieces)), model, needs_last(workload.method))
        scores: Scores = model(forest, role, stats, workload.temperature)
        return scores


def _total(scores: Scores) -> Tensor:
    """Sum of everything that carries a gradient."""
    found = [
        scores.logprobs_N, scores.prompt_logprobs_M, scores.entropy_N, scores.values_N, scores.last_C,
    ]  # fmt: skip
    parts = [values.sum() for values in found if values is not None and values.requires_grad]
    return torch.stack(parts).sum()


def made_up(
    prompts: Sequence[PromptGroup], method: Method, count: int, answers: int, length: int, vocabulary: int
) -> list[PromptGroup]:
    """The largest groups that sampling can give: the longest prompts with answers of the longest length.

    Args:
        prompts: groups without completions.
        method: chooses what of the answers is trained on.
        count: prompts of an optimiser step.
        answers: to each prompt.
        length: tokens of an answer.
        vocabulary: tokens that there are.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    longest = sorted(prompts, key=lambda g: -len(g.prompt_ids))[:count]
    mask = np.ones(length, dtype=bool)

    def answer(k: int) -> Completion:
        return Completion(rng.integers(0, vocabulary, length).astype(np.int32), mask, reward=1000.0 + k)

    groups = [replace(g, completions=[answer(k) for k in range(answers)]) for g in longest]
    return method.choose(groups, rng) or groups


def model_bytes(model: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(p.nbytes for p in model.parameters())
