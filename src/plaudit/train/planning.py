"""What one optimiser step computes: which forests, on which process, and what a method sees of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from plaudit.forest.layout import Forest, Piece, build_forest, piece_tokens
from plaudit.forest.pack import SplitUnit, pack, share_out, split_group
from plaudit.forest.transfer import to_device
from plaudit.methods.base import Batch, Method, View
from plaudit.models.positions import PositionRegime
from plaudit.train.parallel import World
from plaudit.types import PromptGroup


class Packed(Protocol):
    """What packing has to know about a model: a `ForestModel` says it, and so does whoever has no weights."""

    @property
    def bos_id(self) -> int | None:
        """Stands in for an empty prompt."""
        ...

    @property
    def regime(self) -> PositionRegime:
        """Which positions forests of a regime must contain."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the forests go."""
        ...

    def position_regime(self, piece: Piece) -> int:
        """Pieces of different regimes do not share a forest."""
        ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One micro-batch. A slot without weight keeps the processes in step and contributes zero."""

    pieces: tuple[Piece, ...]
    weight: float = 1.0


def plan_slots(
    groups: Sequence[tuple[int, PromptGroup]],
    model: Packed,
    world: World,
    *,
    budget: int,
    unit: SplitUnit,
    score_last: bool = False,
) -> list[Slot]:
    """This process's micro-batches: every process makes the same plan and takes its share, all of the same number.

    Args:
        groups: (index in the batch, group) of the whole step, the same on every process.
        budget: packed tokens per micro-batch.
        unit: the method's unit.
        score_last: pack last tokens.
    """
    pieces = [
        piece
        for index, group in groups
        for piece in split_group(
            group,
            index,
            budget=budget,
            unit=unit,
            bos_id=model.bos_id,
            score_last=score_last,
            regime=model.position_regime,
        )
    ]
    forests = pack(pieces, budget=budget, bos_id=model.bos_id, score_last=score_last, regime=model.position_regime)
    costs = [sum(piece_tokens(p, model.bos_id, score_last) for p in forest) for forest in forests]
    shares = share_out(costs, world.size)
    slots = [Slot(tuple(forests[i])) for i in shares[world.rank]]
    if not pieces:
        return slots
    smallest = min(pieces, key=lambda p: piece_tokens(p, model.bos_id, score_last))
    while len(slots) < -(-len(forests) // world.size):
        slots.append(Slot((smallest,), weight=0.0))
    return slots


def materialise(slot: Slot, model: Packed, score_last: bool) -> Forest:
    """Build a slot's forest on the model's device."""
    regime = model.position_regime(slot.pieces[0])
    return build_forest(
        slot.pieces,
        bos_id=model.bos_id,
        score_last=score_last,
        position_floor=model.regime.floor(regime),
        device=model.device,
    )


def view_of(
    keys: Sequence[tuple[int, int]],
    groups_P: Sequence[PromptGroup],
    piece_of_C: torch.Tensor,
    lengths_C: torch.Tensor,
    num_targets: int,
    prompt_lengths_P: torch.Tensor,
    batch: Batch,
) -> View:
    """Lay the batch's columns out for a forest or for a whole step."""
    device = lengths_C.device
    completions = [batch.groups[g].completions[k] for g, k in keys]
    columns: dict[str, torch.Tensor] = {}
    for name, by_group in batch.per_token.items():
        flat = np.concatenate([by_group[g][k] for g, k in keys]) if keys else np.zeros(0, np.float32)
        columns[name] = to_device(flat.astype(np.float32, copy=False), device)
    for name, values in batch.per_completion.items():
        columns[name] = to_device(np.array([float(values[g][k]) for g, k in keys], np.float32), device)
    return View(
        lengths_C=lengths_C,
        num_targets=num_targets,
        piece_of_C=piece_of_C,
        prompt_lengths_P=prompt_lengths_P,
        weights_C=to_device(np.array([c.weight for c in completions], np.float32), device),
        groups=list(groups_P),
        keys=list(keys),
        columns=columns,
    )


def forest_view(forest: Forest, batch: Batch) -> View:
    """A micro-batch as the method sees it."""
    return view_of(
        forest.keys,
        [p.group for p in forest.pieces],
        forest.piece_of_C,
        forest.lengths_C,
        len(forest.targets_N),
        forest.prompt_lengths_P,
        batch,
    )


def needs_last(method: Method) -> bool:
    """Whether any of the method's statistics reads the last token."""
    return any("last" in stats for stats in method.stats().values())
