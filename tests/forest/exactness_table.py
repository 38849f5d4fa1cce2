"""Prints the exactness table for the documentation: `python -m tests.forest.exactness_table`."""

from __future__ import annotations

import sys

import torch

from tests.forest import cases
from tests.forest.matrix import Distance, table
from tests.zoo import NAMES, PADDED_ONLY, SHAPES


def cells() -> dict[tuple[str, str], Distance]:
    """Every cell that runs in one process."""
    found: dict[tuple[str, str], Distance] = {}

    def keep(name: str, aspect: str, d: Distance) -> None:
        found[name, aspect] = found.get((name, aspect), Distance()).worst(d)

    for name in NAMES:
        for shape in SHAPES:
            keep(name, "all parameters", cases.full(name, shape))
        for shape in ("ragged K", "both sides of the original context"):
            keep(name, "gradient checkpointing", cases.checkpointed(name, shape))
        if name in PADDED_ONLY:
            continue
        for kind in cases.ADAPTERS:
            for shape in ("prompt targets", "split, prompts repeated"):
                keep(name, kind, cases.adapted(name, kind, shape))
        for checkpointing in (False, True):
            for role, d in cases.roles(name, "split, prompts repeated", checkpointing=checkpointing).items():
                keep(name, f"role {role}", d)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write("\n".join(table(cells())) + "\n")
