"""Where reference log-probs come from: a frozen copy of the starting state, in its cheapest form.

- a fresh adapter: the base with the adapter off;
- a continued adapter: a frozen twin of the adapter;
- full fine-tuning: every log-prob is computed before the first step, while the model still is the reference; methods
  that make new completions every epoch get a frozen copy of the model instead.

A method may also move its reference (see `moving_reference`).
"""

from __future__ import annotations

import copy
from typing import Literal

from torch import nn

from plaudit.methods.base import Method, Role
from plaudit.models.forest_model import ForestModel, RoleSpec

ReferenceKind = Literal["none", "adapter off", "frozen adapter", "computed ahead", "frozen copy", "moving"]


def reference_for(method: Method, policy: ForestModel) -> tuple[ReferenceKind, dict[Role, ForestModel]]:
    """How this run's reference is kept, and the model that plays it (a moving one is made by `moving_reference`)."""
    if "reference" not in method.needed_roles():
        return "none", {}
    if method.moves_reference():
        return "moving", {}
    spec = policy.roles.get("reference")
    if spec is not None:
        return ("adapter off" if spec.adapter is None else "frozen adapter"), {"reference": policy}
    if not (method.fresh_completions or method.is_online()):
        policy.roles["reference"] = RoleSpec()
        return "computed ahead", {"reference": policy}
    return "frozen copy", {"reference": frozen_copy(policy)}


def asked_ahead(kind: ReferenceKind, method: Method, cached: bool, device: str) -> bool:
    """Whether every reference log-prob is computed before the first step.

    In full fine-tuning there is no reference later. On a GPU it is done with adapters too, where the log-probs can be
    kept: a step that has to ask waits for the device, a step that finds them does not.
    """
    if kind == "computed ahead":
        return True
    later = kind in ("adapter off", "frozen adapter") and not (method.fresh_completions or method.is_online())
    return later and cached and device == "cuda"


def frozen_copy(policy: ForestModel, model: nn.Module | None = None) -> ForestModel:
    """A copy of the model as it is now (or `model`, a copy already made), without gradients."""
    copied = copy.deepcopy(policy.model) if model is None else model
    copied.requires_grad_(False)
    forest_model = ForestModel(copied, roles={"reference": RoleSpec()}, path=policy.path, bos_id=policy.bos_id)
    forest_model.native_attention = policy.native_attention
    forest_model.eval()
    return forest_model
