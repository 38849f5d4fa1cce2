"""From prompt groups to the packed row that a model computes.

A piece is a group with some of its completions; it becomes a tree. A prompt p_0 … p_{m-1} with completions c is
packed as

    prompt segment   p_0 … p_{m-2}                     positions 0 … m-2
    each branch      p_{m-1}, c_0 … c_{n-2}            positions m-1 … m+n-2      targets c_0 … c_{n-1}

so the last prompt token is repeated at the head of every branch and each branch position has exactly one target.
Tokens behind the last target are not packed unless a head reads the last token (`score_last`). An empty prompt takes
the BOS token if there is one; without it the first completion token has nothing before it and is no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from plaudit.types import Completion, PromptGroup, Tokens

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Piece:
    """A prompt with some of its group's completions: what is packed together, and never split further."""

    group: PromptGroup
    index: int
    """Position of the group in its batch."""
    completions: tuple[int, ...]
    """Which completions of the group."""
    prompt_targets: bool = True
    """Whether this piece carries the group's prompt targets (only one piece of a split group does)."""

    def members(self) -> list[Completion]:
        return [self.group.completions[k] for k in self.completions]


@dataclass(frozen=True, slots=True)
class Tree:
    """Where one piece lies in the row: half-open ranges of packed positions."""

    prompt: tuple[int, int]
    branches: tuple[tuple[int, int], ...]


def context_ids(group: PromptGroup, bos_id: int | None) -> Tokens:
    """The prompt as it is computed: BOS stands in for an empty prompt. Shape [P]."""
    brings_its_own = any(len(c.token_ids) and c.token_ids[0] == bos_id for c in group.completions)
    if len(group.prompt_ids) or bos_id is None or brings_its_own:
        return group.prompt_ids
    return np.array([bos_id], dtype=np.int32)


def target_indices(completion: Completion, has_context: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Indices of a completion's trained tokens; without any context the first token cannot be one. Shape [n]."""
    index = np.flatnonzero(completion.action_mask)
    return index if has_context else index[index > 0]


def branch_length(completion: Completion, has_context: bool, score_last: bool) -> int:
    """Packed tokens of one branch."""
    head = 1 if has_context else 0
    if score_last:
        return head + len(completion.token_ids)
    index = target_indices(completion, has_context)
    if not len(index):
        return 0
    return int(index[-1]) + head


def piece_tokens(piece: Piece, bos_id: int | None, score_last: bool) -> int:
    """Packed tokens of a piece: what it costs of the token budget."""
    context = len(context_ids(piece.group, bos_id))
    return max(context - 1, 0) + sum(branch_length(c, context > 0, score_last) for c in piece.members())


@dataclass(slots=True)
class Forest:
    """A packed micro-batch. Tensors are on one device; `trees` and `pieces` stay on the host."""

    pieces: list[Piece]
    trees: list[Tree]
    token_ids_T: torch.Tensor
    """[T] int64"""
    position_ids_T: torch.Tensor
    """[T] int64, counted within each sequence"""
    target_positions_N: torch.Tensor
    """[N] packed position that predicts each target; targets are ordered by completion"""
    targets_N: torch.Tensor
    """[N] token ids"""
    prompt_target_positions_M: torch.Tensor
    prompt_targets_M: torch.Tensor
    prompt_lengths_P: torch.Tensor
    """[P] number of prompt targets of each piece"""
    lengths_C: torch.Tensor
    """[C] number of targets of each completion"""
    piece_of_C: torch.Tensor
    """[C] index of the piece each completion belongs to"""
    last_positions_C: torch.Tensor | None
    """[C] packed position of each completion's last token, when `score_last` was asked for"""
    counts_C: list[int]
    """`lengths_C` as the host knows it, so that nobody has to wait for the device to learn it"""
    prompt_counts_P: list[int]
    """`prompt_lengths_P` as the host knows it"""
    bos_id: int | None
    cache: dict[Any, Any] = field(default_factory=dict)
    """Per-forest derived data (attention masks), made on first use."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)

    @property
    def keys(self) -> list[tuple[int, int]]:
        """(group index, completion index) of every completion in order. Length C."""
        return [(p.index, k) for p in self.pieces for k in p.completions]


def build_forest(
    pieces: Sequence[Piece],
    *,
    bos_id: int | None,
    score_last: bool = False,
    position_floor: int | None = None,
    device: Any = "cpu",
) -> Forest:
    """Lay the pieces out in one row.

    Args:
        pieces: what to pack, at least one.
        bos_id: stands in for an empty prompt; None if the tokenizer has no such token.
        score_last: pack every completion's last token too (heads that read it).
        position_floor: a position that must occur in the row (see models/positions.py); a lone token is added if not.
        device: where the tensors go.
    """
    from plaudit.forest.transfer import all_to_device

    tokens: list[Tokens] = []
    positions: list[np.ndarray[Any, Any]] = []
    trees: list[Tree] = []
    at, targets, prompt_at, prompt_targets = [], [], [], []
    lengths, owner, last, prompt_lengths = [], [], [], []
    cursor = 0

    def put(ids: Tokens, first_position: int) -> tuple[int, int]:
        nonlocal cursor
        tokens.append(ids)
        positions.append(np.arange(first_position, first_position + len(ids)))
        start, cursor = cursor, cursor + len(ids)
        return start, cursor

    for number, piece in enumerate(pieces):
        context = context_ids(piece.group, bos_id)
        m = len(context)
        prompt = put(context[: max(m - 1, 0)], 0)
        chosen = np.zeros(0, np.int64)
        if piece.prompt_targets and piece.group.prompt_mask is not None:
            chosen = np.flatnonzero(piece.group.prompt_mask)
            chosen = chosen[chosen > 0]
            # Position i-1 predicts token i; the last one, m-2, still lies in the prompt segment.
            prompt_at.append(prompt[0] + chosen - 1)
            prompt_targets.append(context[chosen])
        prompt_lengths.append(len(chosen))
        branches = []
        for completion in piece.members():
            ids, length = completion.token_ids, branch_length(completion, m > 0, score_last)
            packed = np.concatenate([context[m - 1 :], ids])[:length] if m else ids[:length]
            start, end = put(packed, max(m - 1, 0))
            branches.append((start, end))
            index = target_indices(completion, m > 0)
            at.append(start + index - (0 if m else 1))
            targets.append(ids[index])
            lengths.append(len(index))
            owner.append(number)
            last.append(end - 1)
        trees.append(Tree(prompt, tuple(branches)))

    if position_floor is not None and max(int(p[-1]) for p in positions if len(p)) < position_floor:
        filler = put(np.zeros(1, np.int32), position_floor)
        trees.append(Tree(filler, ((filler[1], filler[1]),)))

    def flat(parts: list[Any]) -> np.ndarray[Any, Any]:
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    parts: list[list[Any]] = [tokens, positions, at, targets, prompt_at, prompt_targets]
    parts += [[np.asarray(numbers)] for numbers in (prompt_lengths, lengths, owner, last)]
    there = all_to_device([flat(p) for p in parts], device)
    return Forest(
        pieces=list(pieces),
        trees=trees,
        token_ids_T=there[0],
        position_ids_T=there[1],
        target_positions_N=there[2],
        targets_N=there[3],
        prompt_target_positions_M=there[4],
        prompt_targets_M=there[5],
        prompt_lengths_P=there[6],
        lengths_C=there[7],
        piece_of_C=there[8],
        last_positions_C=there[9] if score_last else None,
        counts_C=lengths,
        prompt_counts_P=prompt_lengths,
        bos_id=bos_id,
    )
