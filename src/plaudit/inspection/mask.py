"""Which tokens the loss reads, told by the forest that training would compute.

A forest says for each target at which packed position it is predicted and which token it is. The position's number
within its own sequence leads back to the token: what position p predicts is token p + 1 of prompt + completion. Every
token that is found in this way is compared with the forest's own target.

Shapes: P tokens of context (the prompt, or BOS in its place), L tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from plaudit.forest.layout import Forest, Piece, context_ids, piece_tokens
from plaudit.methods.base import Method
from plaudit.models.positions import PositionRegime
from plaudit.train.parallel import World
from plaudit.train.planning import Slot, materialise, needs_last, plan_slots
from plaudit.types import Mask, PromptGroup, Tokens

_OF_THE_LAST = {"last", "latent"}
"""Statistics that are read on a completion's last token; all others belong to targets."""


@dataclass(frozen=True, slots=True)
class WithoutWeights:
    """What packing asks of a model, where there is none: see `plaudit.train.planning.Packed`."""

    bos_id: int | None
    regime: PositionRegime

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def position_regime(self, piece: Piece) -> int:
        return self.regime(piece, self.bos_id)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is read of one completion."""

    trained: Mask
    """[L] True where the token is a target"""
    score_at: int | None = None
    """index of the token on which a scalar head is read"""


@dataclass(slots=True)
class GroupMask:
    """What is read of one group."""

    context: Tokens
    """[P] the prompt as it is computed: BOS stands in for an empty one"""
    prompt: Mask
    """[P] True where a prompt token is a target"""
    answers: dict[int, Answer] = field(default_factory=dict)
    """by the number of the completion"""

    @property
    def trained(self) -> int:
        """Targets of the group."""
        return int(self.prompt.sum()) + sum(int(answer.trained.sum()) for answer in self.answers.values())


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs groups as the training loop does.

    Args:
        budget: packed tokens per micro-batch.
    """

    method: Method
    model: WithoutWeights
    budget: int

    @property
    def reads_targets(self) -> bool:
        """Whether the loss is made of tokens: of a reward model it is made of scores."""
        return any(stats - _OF_THE_LAST for stats in self.method.stats().values())

    def slots(self, groups: Sequence[PromptGroup]) -> list[Slot]:
        """The micro-batches of an optimiser step on these groups, in one process."""
        return plan_slots(
            list(enumerate(groups)),
            self.model,
            World(),
            budget=self.budget,
            unit=self.method.unit,
            score_last=needs_last(self.method),
        )

    def tokens(self, pieces: Iterable[Piece]) -> int:
        """Packed tokens of a micro-batch."""
        last = needs_last(self.method)
        return sum(piece_tokens(piece, self.model.bos_id, last) for piece in pieces)

    def masks(self, groups: Sequence[PromptGroup]) -> list[GroupMask]:
        """What the loss reads of each group."""
        found = [_unread(group, self.model.bos_id) for group in groups]
        for slot in self.slots(groups):
            forest = materialise(slot, self.model, needs_last(self.method))
            read_forest(forest, found, targets=self.reads_targets)
        return found


def _unread(group: PromptGroup, bos_id: int | None) -> GroupMask:
    context = context_ids(group, bos_id)
    return GroupMask(context, np.zeros(len(context), np.bool_))


def read_forest(forest: Forest, into: Sequence[GroupMask], *, targets: bool = True) -> None:
    """Add the marks of a forest to the masks of its groups.

    Args:
        targets: False where the loss does not read any target; only the places of scores are taken up then.
    """
    places_T = forest.position_ids_T.numpy()
    tokens_T = forest.token_ids_T.numpy()
    at_N, targets_N = forest.target_positions_N.numpy(), forest.targets_N.numpy()
    prompt_at_M, prompt_targets_M = forest.prompt_target_positions_M.numpy(), forest.prompt_targets_M.numpy()
    last_C = None if forest.last_positions_C is None else forest.last_positions_C.numpy()
    c = n = m = 0
    for piece, of_prompt in zip(forest.pieces, forest.prompt_counts_P, strict=True):
        mask = into[piece.index]
        size = len(mask.context)
        places = places_T[prompt_at_M[m : m + of_prompt]] + 1
        assert np.array_equal(mask.context[places], prompt_targets_M[m : m + of_prompt])
        if targets:
            mask.prompt[places] = True
        m += of_prompt
        for k in piece.completions:
            ids = piece.group.completions[k].token_ids
            places = places_T[at_N[n : n + forest.counts_C[c]]] + 1 - size
            assert np.array_equal(ids[places], targets_N[n : n + forest.counts_C[c]])
            n += forest.counts_C[c]
            trained = np.zeros(len(ids), np.bool_)
            score_at: int | None = None
            if targets:
                trained[places] = True
            if last_C is not None and len(ids):
                score_at = int(places_T[last_C[c]]) - size
                assert ids[score_at] == tokens_T[last_C[c]]
            mask.answers[k] = Answer(trained, score_at)
            c += 1


__all__ = ["Answer", "GroupMask", "Packer", "WithoutWeights", "read_forest"]
