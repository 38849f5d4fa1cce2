"""Critic and reward model in the memory of the policy: further adapters on the same frozen base, each with its head.

An adapter beside the policy's changes nothing that the policy computes: PEFT keeps one set of matrices per name, and
`ForestModel.role` chooses which is active. So one copy of the base's weights serves four roles (policy, reference,
critic, reward), and a critic costs an adapter and a head.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.models.forest_model import ForestModel, RoleSpec, causal_lm
from plaudit.models.heads import CLASSIFIER_HEAD, ScalarHead

CRITIC, REWARD = "critic", "reward"
ROLE_ADAPTERS = (CRITIC, REWARD)
"""Names of the adapters that are not the policy's; each is played by the role of the same name."""

_OF_ROLE = re.compile(rf"(?:lora_|modules_to_save|trainable_tokens_).*\.({'|'.join(ROLE_ADAPTERS)})(?=\.|$)")


def role_of(name: str) -> str | None:
    """The role whose adapter a parameter belongs to; None for the base's and the policy's parameters."""
    found = _OF_ROLE.search(name)
    return None if found is None else found.group(1)


def output_head_name(model: nn.Module) -> str | None:
    """Name of the output head inside the transformers model; None where there is none."""
    inner = causal_lm(model)
    head = inner.get_output_embeddings()
    return None if head is None else next(name for name, module in inner.named_modules() if module is head)


def add_critic_adapter(model: ForestModel, head: ScalarHead, *, like: str = "default") -> None:
    """Add a trainable adapter and head for the critic.

    The adapter has the rank, scale, targets and variant of `like`, without dropout. Nothing of it lies on the output
    head, which a critic does not use: a weight there would never get a gradient. With `like` "default" it is fresh
    (its B matrices are 0), so the critic's trunk is the base's; otherwise it is a copy of that adapter.

    Args:
        model: the policy, with adapters.
        head: of the values.
        like: "default", or the adapter whose weights are copied.

    Raises:
        ModelError: PL306, all of `like` lies on the output head.
    """
    peft: Any = model.model
    config = _without_head(copy.deepcopy(peft.peft_config[like]), peft)
    try:
        _inject(model, CRITIC, config)
    except ValueError as error:  # older PEFT adds an adapter without weights instead
        raise _nothing_below_the_head(like, str(error)) from error
    own = {name: p for name, p in peft.named_parameters() if role_of(name) == CRITIC}
    if not own:
        peft.delete_adapter(CRITIC)
        raise _nothing_below_the_head(like, "nothing of it lies below the output head")
    if like != "default":
        _copy_adapter(peft, like, own)
    for parameter in own.values():
        parameter.requires_grad_(True)
    model.add_role("critic", RoleSpec(CRITIC, head="scalar"), head)


def _nothing_below_the_head(like: str, why: str) -> ModelError:
    return ModelError(
        "PL306",
        f"the critic cannot have an adapter like {like!r}: {why}",
        where="lora.target_modules",
        mend="adapt layers below the output head, or give the critic a model of its own (critic.separate)",
    )


def add_reward_adapter(model: ForestModel, config: Any, weights: Mapping[str, Tensor], head: ScalarHead) -> str | None:
    """Add a trained reward model's adapter and head, frozen.

    Args:
        model: the policy, with adapters.
        config: the adapter's `LoraConfig`.
        weights: as PEFT saves them, without the head's.
        head: the reward model's.

    Returns:
        None, or why these weights do not make this adapter on this base; the model is then as it was.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    peft: Any = model.model
    config = _without_head(copy.deepcopy(config), peft)
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn is replaced: the run's draws must not depend on it
            _inject(model, REWARD, config)
    except ValueError as error:
        return f"PEFT refuses its adapter: {error}"
    with _same_trainables(peft):
        set_peft_model_state_dict(peft, dict(weights), adapter_name=REWARD)
        found = get_peft_model_state_dict(peft, adapter_name=REWARD, save_embedding_layers=False)
    if found.keys() != weights.keys():
        _remove_adapter(peft, REWARD)
        different = sorted(found.keys() ^ weights.keys())
        return f"its adapter has other weights than this base takes: {different[0]}"
    model.add_role("reward", RoleSpec(REWARD, head="scalar"), head.requires_grad_(False))
    return None


def drop_role_adapters(model: ForestModel) -> None:
    """Take the adapters and heads of critic and reward model away: what is left is the policy, as if they had never
    been there. Nothing happens where there are none."""
    peft: Any = model.model
    for role in ("critic", "reward"):
        spec = model.roles.get(role)
        if spec is not None and spec.adapter == role and model.has_adapters:
            model.remove_role(role)
            _remove_adapter(peft, role)


def _inject(model: ForestModel, name: str, config: Any) -> None:
    from plaudit.models.adapters import without_peft_noise

    peft: Any = model.model
    with _same_trainables(peft), without_peft_noise():
        peft.add_adapter(name, config, autocast_adapter_dtype=model.dtype == torch.float32)
    for parameter_name, parameter in peft.named_parameters():
        if role_of(parameter_name) == name:
            parameter.requires_grad_(False)


def _copy_adapter(model: nn.Module, source: str, targets: Mapping[str, nn.Parameter]) -> None:
    """Copy weights by name; the target has no others than the source."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(parameters[re.sub(rf"\.{CRITIC}(?=\.|$)", f".{source}", name)])


def _without_head(config: Any, model: Any) -> Any:
    """An adapter's configuration without the output head and a reward head, as a language model's, and without
    dropout, which would make two passes over one batch differ."""
    head = output_head_name(model)
    config.task_type = model.peft_config["default"].task_type
    config.lora_dropout = 0.0
    config.inference_mode = False
    unwanted = [name for name in (head, CLASSIFIER_HEAD) if name]
    config.exclude_modules = unwanted if _adapts(model, config, unwanted) else None
    config.modules_to_save = [m for m in config.modules_to_save or [] if not _names(m, unwanted)] or None
    rows = getattr(config, "trainable_token_indices", None)
    if isinstance(rows, dict):
        config.trainable_token_indices = {m: ids for m, ids in rows.items() if not _names(m, unwanted)} or None
    return config


def _adapts(model: Any, config: Any, names: list[str]) -> bool:
    """Whether the configuration's targets take one of these modules in."""
    targets = config.target_modules
    if isinstance(targets, str):
        return any(re.fullmatch(targets, name) for name in names)
    return any(_names(target, names) for target in targets or ())


def _names(text: str, modules: list[str]) -> bool:
    """Whether a text of an adapter's configuration, which is compared with the ends of names, means one of these."""
    return any(text == m or m.endswith(f".{text}") or text.endswith(f".{m}") for m in modules)


@contextmanager
def _same_trainables(model: nn.Module) -> Iterator[None]:
    """PEFT's calls change requires_grad of adapters that they are not about; parameters keep theirs here."""
    flags = {p: p.requires_grad for p in model.parameters()}
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _remove_adapter(model: Any, name: str) -> None:
    """Delete an adapter and the wrappers that were there for it alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    with _same_trainables(model):
        model.delete_adapter(name)
    inner = causal_lm(model)
    for place, module in list(inner.named_modules()):
        if isinstance(module, BaseTunerLayer):
            if not any(len(getattr(module, attribute)) for attribute in module.adapter_layer_names):
                inner.set_submodule(place, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper) and not len(module.modules_to_save):
            inner.set_submodule(place, module.original_module)
