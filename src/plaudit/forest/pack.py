"""Which pieces go into which forest, and which forest to which process.

Packing is best-fit decreasing over whole groups, so a prompt is repeated only when its group is larger than the budget;
then it is split at the method's unit. The plan depends on lengths alone, so every process makes the same one.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Literal

from plaudit.forest.layout import Piece, branch_length, context_ids, piece_tokens
from plaudit.types import PromptGroup

SplitUnit = Literal["completion", "pair", "group"]
Regime = Callable[[Piece], int]
"""Names the position-embedding regime of a piece; pieces of different regimes never share a forest (longrope)."""


def split_group(
    group: PromptGroup,
    index: int,
    *,
    budget: int,
    unit: SplitUnit,
    bos_id: int | None,
    score_last: bool = False,
    regime: Regime | None = None,
) -> list[Piece]:
    """Cut one group into pieces of at most `budget` packed tokens where its unit allows it.

    Args:
        group, index: the group and its position in the batch.
        budget: packed tokens per forest.
        unit: "completion" may cut between completions, "pair" between successive pairs, "group" never.
        bos_id, score_last: as in `build_forest`.
        regime: completions of different regimes are cut apart when the unit allows it.

    Returns:
        Pieces that together hold every completion once. A unit larger than the budget stays whole.
    """
    count = len(group.completions)
    size = {"completion": 1, "pair": 2, "group": max(count, 1)}[unit]
    context = len(context_ids(group, bos_id))
    pieces: list[Piece] = []
    current: list[int] = []
    used = max(context - 1, 0)
    current_regime = 0

    def close() -> None:
        if current:
            pieces.append(Piece(group, index, tuple(current), prompt_targets=not pieces))

    for start in range(0, count, size):
        members = range(count)[start : start + size]
        cost = sum(branch_length(group.completions[k], context > 0, score_last) for k in members)
        own_regime = regime(Piece(group, index, tuple(members))) if regime else 0
        if current and (used + cost > budget or own_regime != current_regime):
            close()
            current, used = [], max(context - 1, 0)
        current.extend(members)
        used += cost
        current_regime = own_regime
    close()
    return pieces


def best_fit(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Best-fit decreasing bin packing.

    Returns:
        Bins of item indices. An item larger than the budget gets a bin of its own.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin), ascending
    for item in order:
        size = sizes[item]
        spot = bisect.bisect_left(room, (size, -1))
        if spot < len(room):
            free, number = room.pop(spot)
            bins[number].append(item)
        else:
            free, number = budget, len(bins)
            bins.append([item])
        if free - size > 0:
            bisect.insort(room, (free - size, number))
    return bins


def pack(
    pieces: Sequence[Piece],
    *,
    budget: int,
    bos_id: int | None,
    score_last: bool = False,
    regime: Regime | None = None,
) -> list[list[Piece]]:
    """Distribute pieces over forests of at most `budget` packed tokens. Pieces keep batch order inside a forest."""
    by_regime: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_regime.setdefault(regime(piece) if regime else 0, []).append(piece)
    forests: list[list[Piece]] = []
    for key in sorted(by_regime):
        members = by_regime[key]
        sizes = [piece_tokens(p, bos_id, score_last) for p in members]
        forests.extend([members[i] for i in sorted(bin_)] for bin_ in best_fit(sizes, budget))
    return forests


def share_out(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Give micro-batches to processes, largest first, each to the process with the least work so far.

    Every process gets the same number of slots: ⌈B / ranks⌉; a slot may stay empty (the caller fills it with a
    zero-weight micro-batch).

    Returns:
        For each process the indices of its micro-batches.
    """
    slots = -(-len(costs) // ranks)
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min((r for r in range(ranks) if len(shares[r]) < slots), key=lambda r: (load[r], r))
        shares[rank].append(item)
        load[rank] += costs[item]
    return shares
