"""The optimiser's state by the names of the weights: so it fits another number of processes, sharded or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.models.shards import like


def moments(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """Weight → {step, exp_avg, exp_avg_sq}; a weight that was never updated is not there."""
    return {name: dict(optimizer.state[w]) for name, w in weights.items() if w in optimizer.state}


def empty_moment(key: str, weight: nn.Parameter) -> Tensor:
    """A tensor that an entry of a weight's state is read into, spread as the weight is."""
    return torch.zeros((), device=weight.device) if key == "step" else torch.zeros_like(weight.detach())


def put_moments(
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, nn.Parameter],
    state: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Give the optimiser what `moments` returned, whole or spread as the weights are."""
    optimizer.state.clear()
    for name, entries in state.items():
        weight = weights[name]
        optimizer.state[weight] = {
            key: like(value, weight) if value.ndim else value.to(weight.device) for key, value in entries.items()
        }


def by_name(
    saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, Tensor]]:
    """The moments in an optimiser's own `state_dict()`, which counts the weights in the order of its groups."""
    names = {id(w): name for name, w in weights.items()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    assert len(order) == len(numbers), "the checkpoint is of another optimiser"
    found = {name: saved["state"].get(number) for number, name in zip(numbers, order, strict=True)}
    return {name: dict(entries) for name, entries in found.items() if entries is not None}
