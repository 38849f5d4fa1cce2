"""Who plays which role in a run: the models that are trained, and where the reference comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast as typed

from torch import nn

from plaudit.config.schema import CriticSection
from plaudit.methods.base import Method, Role
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.models.role_adapters import role_of
from plaudit.models.weights import Task
from plaudit.train.critic_role import LoadCritic, ValueStart, critic_for
from plaudit.train.moving_reference import MovingReference, moving_reference
from plaudit.train.reference_role import ReferenceKind, reference_for

_OWN = "critic."
"""Put before the names of the weights of a critic with a model of its own."""
_HEADS = "heads."


@dataclass(slots=True)
class Cast:
    """The roles of a run."""

    trained: ForestModel
    """the policy, or the reward model where one is trained"""
    models: dict[Role, ForestModel]
    """who plays each role; the trained model may play several"""
    masters: Masters
    """of everything trained, the critic included"""
    reference: ReferenceKind
    moving: MovingReference | None = None
    weights: dict[Role, dict[str, nn.Parameter]] = field(default_factory=dict)
    """the masters of each trained role, by name"""


def task_of(method: Method) -> Task:
    """What the model computes: words, or one score per text."""
    return "reward" if method.roles == {"reward"} else "lm"


def cast_for(
    method: Method,
    model: ForestModel,
    *,
    critic: CriticSection | None = None,
    start: ValueStart | None = None,
    load_critic: LoadCritic | None = None,
    spread: Callable[[ForestModel], None] | None = None,
) -> Cast:
    """Give every role that the method needs to a model.

    Args:
        model: the policy (or reward model) as it is at the start; roles are added to it.
        critic: the section of that name; None = its defaults.
        start, load_critic: see `critic_for`.
        spread: shards a model over the processes (`plaudit.train.sharding`).

    Raises:
        TrainingError: PL405; ModelError: see `critic_for` and `moving_reference`.
    """
    needed = method.needed_roles()
    models: dict[Role, ForestModel] = {role: model for role in model.roles if role in needed}
    kind, reference = reference_for(method, model)
    if spread is not None:
        for own in dict.fromkeys((model, *reference.values())):  # the copy that a reference is has been made by now
            spread(own)
    trained = [("", model)]
    if "critic" in needed:
        models["critic"] = critic_for(model, critic or CriticSection(), start, load_critic)
        if models["critic"] is not model:
            trained.append((_OWN, models["critic"]))
    masters = Masters(trained)
    weights = _by_role(masters, "reward" if model.is_reward else "policy")
    if kind != "moving":
        return Cast(model, models | reference, masters, kind, weights=weights)
    moving = moving_reference(model, weights["policy"], replaced_only=method.replaces_reference)
    return Cast(model, models | {"reference": moving.model}, masters, kind, moving, weights)


def _by_role(masters: Masters, main: Role) -> dict[Role, dict[str, nn.Parameter]]:
    """The masters of each role, in their order."""
    found: dict[Role, dict[str, nn.Parameter]] = {main: {}}
    for name, weight in masters.weights.items():
        found.setdefault(_role_of_weight(name) or main, {})[name] = weight
    return found


def _role_of_weight(name: str) -> Role | None:
    if name.startswith(_OWN):
        return "critic"
    if name.startswith(_HEADS):
        return typed(Role, name.split(".")[1])
    return typed("Role | None", role_of(name))
