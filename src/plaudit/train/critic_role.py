"""Who plays the critic: an adapter on the policy's base, a copy of the policy, or a model of its own.

- LoRA: a fresh adapter and a head on the shared base, at the price of an adapter;
- full fine-tuning, or `critic.separate`: a copy of the policy as it is at the start, trained in full;
- `critic.path`: another model, trained in full.

The head starts at 0, so that every value is 0 at first (Ziegler et al. 2019, arXiv 1909.08593), or as a reward model's
with its normalisation folded in (Ouyang et al. 2022, 2203.02155; Huang et al. 2024, 2403.17031). A critic has no use
for an output head, and a model of its own has none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plaudit.config.schema import CriticSection, ModelConfig
from plaudit.errors import ModelError, TrainingError
from plaudit.models.forest_model import ForestModel, RoleSpec, causal_lm
from plaudit.models.heads import CLASSIFIER_HEAD, ScalarHead, is_classifier, value_head
from plaudit.models.load import enable_checkpointing, load_model
from plaudit.models.probe import probe
from plaudit.models.role_adapters import add_critic_adapter, output_head_name
from plaudit.models.weights import cast

LoadCritic = Callable[[str], ForestModel]


@dataclass(frozen=True, slots=True)
class ValueStart:
    """The reward model that a critic starts as."""

    trunk: ForestModel
    """it is copied, not changed; the policy's own where the reward model shares its base"""
    adapter: str | None
    """of the trunk, which belongs to it; None = all of its weights do"""
    head: ScalarHead
    """its head with the normalisation folded in (`plaudit.models.heads.folded_head`)"""


def critic_for(
    policy: ForestModel,
    section: CriticSection,
    start: ValueStart | None = None,
    load: LoadCritic | None = None,
) -> ForestModel:
    """The model that plays the critic: the policy's own with a further role, or another.

    Args:
        policy: as it is at the start.
        start: a reward model (for `start: reward`, or one that `path` names); None = a head of zeros.
        load: loads what `section.path` names, where that is a language model.

    Raises:
        TrainingError: PL405 when `start: reward` is asked for without a reward model, or on the shared base with one
            that does not share it.
        ModelError: PL306 from PEFT, and whatever `load` raises.
    """
    if section.start == "reward" and start is None:
        raise TrainingError(
            "PL405",
            "the critic is to start as the reward model, and no reward is a reward model",
            where="critic.start",
            mend="add one to reward.rewards, or use critic.start=policy",
        )
    if section.path is None and policy.has_adapters and not section.separate:
        return _on_shared_base(policy, start)
    if start is not None:
        return _own(policy, _copy(start.trunk, start.adapter), start.trunk, start.head)
    if section.path is not None:
        assert load is not None, "nobody loads critic.path"
        trunk = load(section.path)
        return _own(policy, _without_output_head(trunk.model), trunk, value_head(trunk.width))
    return _own(policy, _copy(policy, policy.roles["policy"].adapter), policy, value_head(policy.width))


def critic_loader(config: ModelConfig, tokenizer: Any) -> LoadCritic:
    """Loads a language model for the critic as the policy was loaded.

    Args:
        config: the `model` section of the run.
        tokenizer: the policy's; the critic reads the same token ids.

    The loader raises ModelError: PL301 or PL303 from loading, PL302 from the parity probe, PL306 when its tokenizer
    gives other token ids.
    """

    def load(path: str) -> ForestModel:
        kept = {"path": path, "revision": None, "tokenizer": None, "chat_template": None}
        loaded = load_model(config.model_copy(update=kept), None, train=True)
        check_vocabulary(loaded.tokenizer, tokenizer, path)
        model = ForestModel(loaded.model, bos_id=tokenizer.bos_token_id)
        model.set_path(probe(model, None if config.attention == "auto" else config.attention).path)
        return model

    return load


def check_vocabulary(own: Any, policys: Any, where: str) -> None:
    """Raise ModelError PL306 when a model that is to read the policy's token ids knows them as other tokens."""
    known = own.get_vocab()
    different = next((token for token, i in policys.get_vocab().items() if known.get(token) != i), None)
    if different is not None:
        raise ModelError(
            "PL306",
            f"the critic reads the policy's tokens, and its tokenizer has another id for {different!r}",
            where=where,
            mend="give a model with the policy's tokenizer, or let the critic start from the policy",
        )


def _on_shared_base(policy: ForestModel, start: ValueStart | None) -> ForestModel:
    if start is None:
        # A continued adapter has a frozen twin: the critic starts as the policy does, not as the bare base.
        twin = policy.roles["reference"].adapter if "reference" in policy.roles else None
        add_critic_adapter(policy, value_head(policy.width), like=twin or "default")
        return policy
    if start.trunk is not policy or start.adapter is None:
        raise TrainingError(
            "PL405",
            "the critic is an adapter on the policy's base, and the reward model does not share that base",
            where="critic.start",
            mend="use critic.separate=true, or a reward model that was trained with LoRA on the policy's base",
        )
    add_critic_adapter(policy, copy.deepcopy(start.head), like=start.adapter)
    return policy


def _own(policy: ForestModel, model: nn.Module, like: ForestModel, head: ScalarHead) -> ForestModel:
    """A critic around a model of its own, in the policy's precision, on the path of the model it comes from."""
    cast(model, policy.dtype)
    model.to(policy.device)
    model.requires_grad_(True)
    if is_classifier(model):
        getattr(model, CLASSIFIER_HEAD).requires_grad_(False)  # the role's own head stands before it
    if _checkpoints(policy.model) and not _checkpoints(model):
        enable_checkpointing(model)
    found = ForestModel(model, roles={"critic": RoleSpec(head="scalar")}, path=like.path, bos_id=policy.bos_id)
    found.native_attention = like.native_attention
    found.add_role("critic", RoleSpec(head="scalar"), copy.deepcopy(head).requires_grad_(True))
    found.train(policy.training)
    return found


@torch.no_grad()
def _copy(source: ForestModel, adapter: str | None) -> nn.Module:
    """A copy of a trunk with an adapter in its weights: summed in fp32 and rounded once. A fresh one adds nothing, so
    the base's bits stay."""
    copied: Any = _without_output_head(copy.deepcopy(source.model))
    if not source.has_adapters:
        return copied  # type: ignore[no-any-return]
    assert adapter is not None
    copied.set_adapter(adapter)
    moved = [p for n, p in copied.named_parameters() if f".{adapter}" in n and ("lora_B" in n or "embedding_B" in n)]
    if any(bool(p.any()) for p in moved):
        copied.to("cpu", torch.float32)
        plain = copied.merge_and_unload()
    else:
        plain = copied.unload()
    return plain  # type: ignore[no-any-return]


def _without_output_head(model: nn.Module) -> nn.Module:
    """The same model; a head that is tied to the embedding must be gone before an adapter on it is merged, which would
    change the embedding."""
    name = output_head_name(model)
    if name is not None:
        inner = causal_lm(model)
        inner.set_submodule(name, nn.Identity())
        inner.config.tie_word_embeddings = False
    return model


def _checkpoints(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
