"""What a run says about its roles before its first step: who plays which, on which weights, at what price in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel
from plaudit.train.cast import Cast

_ORDER: tuple[Role, ...] = ("policy", "reference", "critic", "reward")
ADAM_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Of the two moments of one weight."""


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes that the roles hold between two steps, each tensor counted once. Activations come on top."""

    base: int
    """weights of the models without adapters and heads"""
    adapters: int
    """adapters and heads, of every role"""
    masters: int
    """fp32 copies of trained weights that are computed with in another precision"""
    training: int
    """gradients and Adam's moments"""

    @classmethod
    def of(cls, cast: Cast, optimizer: str = "adamw") -> RoleMemory:
        """What a cast holds.

        Args:
            optimizer: name in `train.optimizer`.
        """
        base = adapters = 0
        seen: set[nn.Parameter] = set()
        for model in dict.fromkeys([cast.trained, *cast.models.values()]):
            for name, parameter in model.named_parameters():
                if parameter in seen:
                    continue
                seen.add(parameter)
                if _is_small(name, model):
                    adapters += parameter.nbytes
                else:
                    base += parameter.nbytes
        masters = cast.masters
        copies = sum(w.nbytes for name, w in masters.weights.items() if masters.compute[name] is not w)
        trained = sum(w.numel() for w in masters.parameters)
        return cls(base, adapters, copies, trained * (4 + ADAM_BYTES[optimizer]))

    def __str__(self) -> str:
        parts = [("weights", self.base), ("adapters and heads", self.adapters), ("fp32 masters", self.masters)]
        parts += [("gradients and Adam", self.training)]
        return ", ".join(f"{_size(count)} {name}" for name, count in parts if count)


def role_rows(cast: Cast, *, shared_reward: bool = False, optimizer: str = "adamw") -> dict[str, str]:
    """Rows for the plan of a run: role → who plays it, and the memory of all.

    Args:
        shared_reward: whether a reward model is scored through the policy's base; one with weights of its own is its
            reward's matter, and not counted here.
        optimizer: name in `train.optimizer`.
    """
    players: Mapping[Role, ForestModel] = dict(cast.models) | ({"reward": cast.trained} if shared_reward else {})
    rows = {str(role): _player(cast, role, players[role]) for role in _ORDER if role in players}
    if cast.reference == "computed ahead":
        rows["reference"] = "the policy as it is now, asked ahead of training"
    return rows | {"memory of the roles": str(RoleMemory.of(cast, optimizer))}


def _player(cast: Cast, role: Role, model: ForestModel) -> str:
    spec = model.roles[role]
    own = model is not cast.trained
    if own:
        text = "a model of its own"
    elif spec.adapter is None:
        text = "the base with the adapter off" if model.has_adapters else "the whole model"
    else:
        text = f"adapter {spec.adapter} on the {'shared ' if len(cast.models) > 1 else ''}base"
    if role in model.heads:
        text += " with a head of its own"
    trained = sum(w.numel() for w in cast.weights.get(role, {}).values())
    return f"{text}, {trained:,} parameters trained" if trained else f"{text}, frozen"


def _is_small(name: str, model: ForestModel) -> bool:
    if name.startswith("heads."):
        return True
    return model.has_adapters and any(part in name for part in ("lora_", "modules_to_save", "trainable_tokens_"))


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
