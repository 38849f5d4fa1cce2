"""The padded path: one right-padded row per completion, for models whose attention cannot be replaced.

State-space and hybrid models carry a state along the row, so prompts cannot be shared. Right padding leaves everything
before it untouched in any causal model, whatever the padding token is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plaudit.forest.layout import Forest


def padded_hidden(trunk: nn.Module, forest: Forest) -> Tensor:
    """Hidden states of a forest computed row by row.

    Returns:
        [T, D] in the forest's own order, so that heads and losses need not know which path was taken. A prompt's
        positions are read from its first completion's row.
    """
    ids, device = forest.token_ids_T, forest.token_ids_T.device
    rows: list[Tensor] = []
    for tree in forest.trees:
        prompt = torch.arange(*tree.prompt, device=device)
        rows.extend(torch.cat([prompt, torch.arange(*branch, device=device)]) for branch in tree.branches)
    # As wide as the largest position, so that a position floor (models/positions.py) works here too.
    width = max(max(len(r) for r in rows), int(forest.position_ids_T.max()) + 1 if len(ids) else 1)
    index = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    mask = torch.zeros(len(rows), width, dtype=torch.long, device=device)
    for number, row in enumerate(rows):
        index[number, : len(row)] = row
        mask[number, : len(row)] = 1
    output = trunk(input_ids=ids[index], attention_mask=mask, use_cache=False)
    hidden: Tensor = output[0]

    where = torch.empty(len(ids), dtype=torch.long, device=device)
    number = 0
    for tree in forest.trees:
        p0, p1 = tree.prompt
        where[p0:p1] = number * width + torch.arange(p1 - p0, device=device)
        for b0, b1 in tree.branches:
            where[b0:b1] = number * width + torch.arange(p1 - p0, p1 - p0 + b1 - b0, device=device)
            number += 1
    return hidden.flatten(0, 1)[where]
