"""How each method is trained in the small world, and the least that it must gain.

Every default learning rate is made for models a thousand times larger, so all are replaced. A method that is not named
here takes the settings of its kind of data: a new method is tested by being registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plaudit.methods import available, find

SEEDS = range(5)
METHODS = [name for name, method in available().items() if method.data_kind != "prompt"]


@dataclass(frozen=True)
class Setting:
    """Options, and bounds with room: docs/measured.md has what was measured.

    Attributes:
        options: keys of the configuration.
        mean: least mean gain over `SEEDS`, in win rate (reward models: accuracy) beyond ½.
        worst: least gain of any one seed; more than three standard errors from a method that learns nothing.
    """

    options: Mapping[str, Any]
    mean: float = 0.18
    worst: float = 0.14


OF_KIND: Mapping[str, Setting] = {
    "completion": Setting({"learning_rate": 1e-3, "groups_per_step": 32}, mean=0.13, worst=0.1),
    "preference": Setting({"learning_rate": 1e-3, "groups_per_step": 32}),
    "feedback": Setting({"learning_rate": 1e-3, "groups_per_step": 64}),
    "ranking": Setting({"learning_rate": 3e-3, "groups_per_step": 8, "epochs": 4.0}, mean=0.13, worst=0.1),
}
OF_METHOD: Mapping[str, Setting] = {
    # Pushes both answers down by design, and loses the form of an answer with it: held by a likelihood term.
    "apo_down": Setting({"nll_weight": 0.3}),
    # With the paper's τ the slope is wrong where every pair starts, and the policy here learns the opposite.
    "discopop": Setting({"tau": 1.0}),
    # The odds are of mean log-probs: with the paper's λ the likelihood term outweighs them in so few steps.
    "orpo": Setting({"lam": 3.0}, mean=0.13, worst=0.1),
    "slic": Setting({}, mean=0.13, worst=0.1),
}


def setting_of(method: str) -> Setting:
    """The method's own settings over those of its kind of data."""
    shared, own = OF_KIND[find(method).data_kind], OF_METHOD.get(method)
    return shared if own is None else Setting({**shared.options, **own.options}, own.mean, own.worst)
