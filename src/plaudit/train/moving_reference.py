"""A reference that follows the policy (TR-DPO, arXiv 2404.09656): ref ← α θ + (1 − α) ref.

The share is taken of the weights that a forward uses. With LoRA these are W + ΔW: mixing the factors A and B apart
would mix something else, because ΔW is their product. So a reference that is moved in part is a copy of the whole
model, mixed in fp32; one that is only ever replaced (α = 1) is a second adapter, a copy of the first.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.models.forest_model import ForestModel, RoleSpec, causal_lm
from plaudit.train.reference_role import frozen_copy

_ADAPTER = re.compile(r"\.default(?=\.|$)")
_TWIN = "reference"


class MovingReference:
    """The reference's weights, kept in fp32, and where each comes from.

    Args:
        model: the model that plays the reference.
        targets: name → the reference's parameter.
        sources: name → a function that gives the policy's weight as it is now.
    """

    def __init__(
        self, model: ForestModel, targets: Mapping[str, nn.Parameter], sources: Mapping[str, Callable[[], Tensor]]
    ) -> None:
        self.model = model
        self._targets, self._sources = dict(targets), dict(sources)
        # The targets that are fp32 already are their own masters.
        self._weights = {name: p.data if p.dtype == torch.float32 else p.data.float() for name, p in targets.items()}

    @torch.no_grad()
    def move(self, share: float) -> None:
        """ref ← share · policy + (1 − share) · ref."""
        for name, source in self._sources.items():
            self._weights[name].lerp_(source().to(torch.float32), share)
        self._publish()

    def state(self) -> dict[str, Tensor]:
        """fp32 tensors by name, for the checkpoint."""
        return dict(self._weights)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave, exactly."""
        assert state.keys() == self._weights.keys()
        for name, value in state.items():
            self._weights[name].copy_(value)
        self._publish()

    def _publish(self) -> None:
        for name, target in self._targets.items():
            if target.data.data_ptr() != self._weights[name].data_ptr():
                target.data.copy_(self._weights[name])


def moving_reference(
    policy: ForestModel, masters: Mapping[str, nn.Parameter], *, replaced_only: bool
) -> MovingReference:
    """The reference of a method that moves it, equal to the policy as it is now.

    Args:
        policy: the trained model.
        masters: its fp32 weights by name.
        replaced_only: the reference is only ever replaced by the policy (α = 1).

    Raises:
        ModelError: PL305 for DoRA or added tokens with LoRA and a part-wise move.
    """
    if not policy.has_adapters:
        copied = frozen_copy(policy)
        found = dict(copied.model.named_parameters())
        names = {name: name.removeprefix("model.") for name in masters}
        return MovingReference(
            copied,
            {name: found[short] for name, short in names.items()},
            {name: weight.detach for name, weight in masters.items()},
        )
    if replaced_only:
        return _twin(policy, masters)
    return _merged_copy(policy)


def _twin(policy: ForestModel, masters: Mapping[str, nn.Parameter]) -> MovingReference:
    """A second adapter on the same base."""
    model: Any = policy.model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if _TWIN not in model.peft_config:
        model.add_adapter(_TWIN, copy.deepcopy(model.peft_config["default"]))
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)
    targets = {name: parameters[_ADAPTER.sub(f".{_TWIN}", name.removeprefix("model."))] for name in masters}
    policy.roles["reference"] = RoleSpec(_TWIN)
    moving = MovingReference(policy, targets, {name: weight.detach for name, weight in masters.items()})
    moving.move(1.0)
    return moving


def _merged_copy(policy: ForestModel) -> MovingReference:
    """A copy of the base with the adapter merged in; what moves is W + ΔW of every adapted layer."""
    model: Any = policy.model
    config = model.peft_config["default"]
    if config.use_dora or getattr(config, "trainable_token_indices", None):
        raise ModelError(
            "PL305",
            "a reference that is moved in part needs the adapter's ΔW, which DoRA and added tokens do not have",
            where="method.update",
            mend="use method.update=hard, or LoRA without dora and model.added_tokens, or full fine-tuning",
        )
    apart = copy.deepcopy(model)
    _untie(apart)
    merged = apart.merge_and_unload()
    copied = frozen_copy(policy, merged)
    found = dict(copied.model.named_parameters())
    targets: dict[str, nn.Parameter] = {}
    sources: dict[str, Callable[[], Tensor]] = {}
    for name, module in causal_lm(model).named_modules():
        if "default" in getattr(module, "lora_A", {}) or "default" in getattr(module, "lora_embedding_A", {}):
            targets[f"{name}.weight"] = found[f"{name}.weight"]
            sources[f"{name}.weight"] = partial(_merged_weight, module)
        elif "default" in getattr(module, "modules_to_save", {}):
            for inner, parameter in module.modules_to_save["default"].named_parameters():
                targets[f"{name}.{inner}"] = found[f"{name}.{inner}"]
                sources[f"{name}.{inner}"] = parameter.detach
    moving = MovingReference(copied, targets, sources)
    moving.move(1.0)
    return moving


def _untie(model: Any) -> None:
    """Give the output head a weight of its own.

    Under an adapter a tied model computes with W + ΔW at one end and with W at the other; merged into the shared
    tensor, ΔW would change both.
    """
    inner = causal_lm(model)
    ends = [getattr(m, "base_layer", m) for m in (inner.get_input_embeddings(), inner.get_output_embeddings())]
    if ends[0].weight is ends[1].weight:
        ends[1].weight = nn.Parameter(ends[1].weight.detach().clone(), requires_grad=False)
        inner.config.tie_word_embeddings = False


def _merged_weight(layer: Any) -> Tensor:
    """W + ΔW of an adapted layer, in fp32."""
    merged: Tensor = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    return merged
