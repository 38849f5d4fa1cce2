"""How the rows of an epoch pack, and what its forests say about all of them: the plan of training itself, step by
step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from plaudit.data.report import Lengths
from plaudit.forest.layout import Piece
from plaudit.inspection.mask import GroupMask, Packer
from plaudit.train.schedule import Schedule
from plaudit.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Packing:
    """The packing of one epoch in one process."""

    groups: int
    """groups of the epoch: a source's weight shows its groups more or less often than once"""
    groups_per_step: int
    steps: int
    unique: int
    """tokens that are computed"""
    without_sharing: int
    """tokens that would be computed if every completion had its prompt for itself, without any padding"""
    per_group: Lengths
    """unique tokens of a group"""
    budget: int
    """tokens of a micro-batch"""
    auto: bool
    """whether a run would measure the budget; the number here is then the one that is taken without a measurement"""
    micro_batches: int
    largest: int
    """tokens of the largest micro-batch"""
    oversize: int
    """micro-batches that are larger than the budget, because a unit is never cut"""
    unit: str

    @property
    def gain(self) -> float:
        """How many times fewer tokens are computed because prompts are shared."""
        return self.without_sharing / self.unique if self.unique else 1.0

    @property
    def per_micro_batch(self) -> float:
        """Tokens of a micro-batch, mean."""
        return self.unique / self.micro_batches if self.micro_batches else 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """The steps of a method that samples its answers."""

    prompts: int
    prompts_per_batch: int
    answers: int
    """to each prompt"""
    batches: int
    steps: int
    prompt_tokens: Lengths
    max_new_tokens: int


@dataclass(slots=True)
class Ends:
    """What the last token of each trained stretch (an answer, or a turn of one) is.

    For a method that reads a score, a stretch is an answer, and its last token is the one that is read.
    """

    stretches: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    """token that ends an answer → stretches that end with it"""
    open: list[tuple[str, int]] = field(default_factory=list)
    """(file, row) of stretches that end with another token"""
    scored: bool = False

    @property
    def count(self) -> int:
        """Stretches that end with a token that ends an answer."""
        return self.ended.total()

    def look(self, group: PromptGroup, mask: GroupMask, stops: frozenset[int]) -> None:
        """Take up a group."""
        for k, answer in mask.answers.items():
            ids = group.completions[k].token_ids
            last = [] if answer.score_at is None else [answer.score_at]
            if answer.trained.any():
                edges = np.diff(answer.trained.astype(np.int8), append=0)
                last = [int(i) for i in np.flatnonzero(edges == -1)]
            for place in last:
                self.stretches += 1
                if int(ids[place]) in stops:
                    self.ended[int(ids[place])] += 1
                elif group.source is not None:
                    self.open.append((group.source.file, group.source.row))


@dataclass(slots=True)
class Tally:
    """Sums over all groups."""

    ends: Ends
    trained: int = 0
    """targets"""
    tokens: int = 0
    """tokens of prompts and completions"""

    def look(self, group: PromptGroup, mask: GroupMask, stops: frozenset[int]) -> None:
        """Take up a group."""
        self.trained += mask.trained
        self.tokens += len(mask.context) + sum(len(c.token_ids) for c in group.completions)
        self.ends.look(group, mask, stops)


def pack_epoch(packer: Packer, groups: Sequence[PromptGroup], schedule: Schedule, *, auto: bool) -> Packing:
    """The packing of the first epoch.

    Args:
        groups: all training groups.
        schedule: of the run.
    """
    sizes: list[int] = []
    of_groups: list[int] = []
    whole = 0
    for step in range(schedule.steps_per_epoch):
        own = [groups[i] for i in schedule.groups_of(step)]
        sizes += [packer.tokens(slot.pieces) for slot in packer.slots(own)]
        for group in own:
            unique, apart = tokens_of(packer, group)
            of_groups.append(unique)
            whole += apart
    return Packing(
        groups=len(of_groups),
        groups_per_step=schedule.groups_per_step,
        steps=schedule.steps_per_epoch,
        unique=sum(sizes),
        without_sharing=whole,
        per_group=Lengths.of(of_groups),
        budget=packer.budget,
        auto=auto,
        micro_batches=len(sizes),
        largest=max(sizes, default=0),
        oversize=sum(size > packer.budget for size in sizes),
        unit=packer.method.unit,
    )


def tokens_of(packer: Packer, group: PromptGroup) -> tuple[int, int]:
    """(packed tokens of a group in one piece, packed tokens of its completions each with a prompt of its own)."""
    members = tuple(range(len(group.completions)))
    return packer.tokens([Piece(group, 0, members)]), sum(packer.tokens([Piece(group, 0, (k,))]) for k in members)


__all__ = ["Ends", "Packing", "Sampling", "Tally", "pack_epoch", "tokens_of"]
