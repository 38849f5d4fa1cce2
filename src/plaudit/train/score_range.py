"""How far the scores of a trained reward model reach on its own training data: kept with the model, so that a score
beyond them is noticed later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from plaudit.models.forest_model import ForestModel
from plaudit.train.parallel import World
from plaudit.train.scorer import GroupScorer
from plaudit.types import PromptGroup

ANSWERS = 4096
"""Most answers that are scored for it, of groups evenly spaced over the data."""


def score_range(
    model: ForestModel, groups: Sequence[PromptGroup], tokens: int, world: World | None = None
) -> dict[str, Any]:
    """Count, mean, standard deviation, largest and 99th percentile of the raw scores, in the form of `plaudit.json`.

    Args:
        model: as it is now.
        groups: the training data.
        tokens: packed tokens of one forward pass.
        world: the processes that share the work; None = this one alone.
    """
    per_group = max(1, sum(len(g.completions) for g in groups) // max(1, len(groups)))
    stride = max(1, -(-len(groups) * per_group // ANSWERS))
    scored = GroupScorer({"reward": model}, world or World(), tokens)("reward", groups[::stride])
    scores = sorted(c.last for group in scored for c in group if c.last is not None)
    mean = math.fsum(scores) / len(scores)
    return {
        "answers": len(scores),
        "mean": mean,
        "std": math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores)),
        "data": ["the training data"],
        "highest": scores[-1],
        "p99": scores[max(0, math.ceil(0.99 * len(scores)) - 1)],
    }
