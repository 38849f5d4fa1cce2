"""Cells of the exactness matrix: each builds a model, runs both sides and returns the distance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch

from plaudit.models.forest_model import ForestModel, RoleSpec, causal_lm
from tests.forest.matrix import (
    SCALAR_PARTS,
    Distance,
    Outcome,
    by_key,
    distance,
    forests,
    packed,
    plain,
    score_distance,
    without_prefix,
)
from tests.zoo import PADDED_ONLY, SHAPES, Reference, Shape, build, reference

ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA all-linear": {"target_modules": "all-linear"},
    "LoRA with lm_head": {"target_modules": r".*(q_proj|v_proj|c_attn|qkv_proj|down_proj|lm_head)"},
    "DoRA": {"target_modules": r".*(q_proj|k_proj|v_proj|o_proj|c_attn|qkv_proj)", "use_dora": True},
    "modules_to_save": {"target_modules": "all-linear", "modules_to_save": ["lm_head"]},
}

_KNOWN = (
    # GPT-2 mixes Conv1D with a Linear head; PEFT corrects fan_in_fan_out for the latter and says so.
    "fan_in_fan_out is set to True",
    # PEFT asks for an attribute that transformers has renamed.
    "`is_gradient_checkpointing` is deprecated",
    # Adapting a tied head is one of the cases on purpose.
    "Model (has|with) `tie_word_embeddings=True`",
    # PEFT's own translation of module names for fused experts.
    "The following rank_pattern keys",
    "The following alpha_pattern keys",
)


def checkpoint_activations(model: Any) -> None:
    """Non-reentrant gradient checkpointing, under either of transformers' names for it."""
    inner = causal_lm(model)
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()


def with_adapters(model: Any, kind: str, *names: str) -> Any:
    """A PeftModel whose adapters are not zero, so that an ignored one shows."""
    from peft import LoraConfig, get_peft_model

    options = {"fan_in_fan_out": type(model).__name__.startswith("GPT2"), **ADAPTERS[kind]}
    first, *others = names or ("default",)
    with warnings.catch_warnings():
        for message in _KNOWN:
            warnings.filterwarnings("ignore", message=message)
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **options), adapter_name=first)
        for name in others:
            peft.add_adapter(name, LoraConfig(r=4, lora_alpha=8, **options))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            if "modules_to_save" in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    return peft


def together(name: str, shape: Shape) -> Literal["all", "group", "completion"]:
    """Which rows share a plain forward: only longrope's frequencies depend on it."""
    if name != "phi3_longrope":
        return "all"
    return "completion" if shape.unit == "completion" else "group"


def wrap(name: str, model: Any, shape: Shape, **more: Any) -> ForestModel:
    return ForestModel(model, path="padded" if name in PADDED_ONLY else "forest", bos_id=shape.bos, **more)


def full(name: str, shape_name: str, change: Callable[[Any], Any] = lambda model: model) -> Distance:
    """All parameters of a model, optionally changed first (adapters, checkpointing)."""
    shape = SHAPES[shape_name]
    model, groups = change(build(name)), shape.groups()
    theirs = plain(model, groups, shape, together=together(name, shape))
    ours = packed(wrap(name, model, shape), groups, shape)
    return distance(ours, theirs, without_prefix)


def on_the_padded_path(name: str, shape_name: str) -> Distance:
    """All parameters, through the fallback for models whose attention cannot be replaced."""
    shape = SHAPES[shape_name]
    model, groups = build(name), shape.groups()
    theirs = plain(model, groups, shape, together=together(name, shape))
    return distance(packed(ForestModel(model, path="padded", bos_id=shape.bos), groups, shape), theirs, without_prefix)


def adapted(name: str, kind: str, shape_name: str) -> Distance:
    """Adapter parameters (and saved modules)."""
    return full(name, shape_name, lambda model: with_adapters(model, kind))


def checkpointed(name: str, shape_name: str, kind: str | None = None) -> Distance:
    """With gradient checkpointing on our side; the plain side runs without."""
    shape = SHAPES[shape_name]
    model = build(name) if kind is None else with_adapters(build(name), kind)
    groups = shape.groups()
    theirs = plain(model, groups, shape, together=together(name, shape))
    checkpoint_activations(model)
    ours = packed(wrap(name, model, shape), groups, shape)
    return distance(ours, theirs, without_prefix)


ROLES = {
    "policy": RoleSpec("policy"),
    "critic": RoleSpec("critic", "scalar"),
    "reference": RoleSpec(None),
}


def roles(name: str, shape_name: str, *, checkpointing: bool) -> dict[str, Distance]:
    """Policy and critic on one base, a reference without adapter; each against the plain forward of that role alone."""
    shape = SHAPES[shape_name]
    peft = with_adapters(build(name), "LoRA all-linear", "policy", "critic")
    groups = shape.groups()
    model = wrap(name, peft, shape, roles=ROLES)
    for key, p in peft.named_parameters():
        p.requires_grad_("lora_" in key)
    if checkpointing:
        checkpoint_activations(peft)
    flags = {key: p.requires_grad for key, p in model.named_parameters()}

    head = model.heads["critic"]
    assert isinstance(head, torch.nn.Linear)
    way = together(name, shape)
    with model.native() as inner:
        with model.role("policy"):
            alone = {"policy": plain(inner, groups, shape, together=way)}
        with model.role("critic"):
            parts = SCALAR_PARTS if shape.score_last else ("values",)
            outcome = plain(inner, groups, shape, parts=parts, scalar_head=head, together=way)
            assert head.weight.grad is not None
            outcome.grads["heads.critic.weight"] = head.weight.grad.clone()
            head.weight.grad = None
            alone["critic"] = outcome
        with model.role("reference"), torch.no_grad():
            alone["reference"] = Outcome(
                reference(inner, groups, bos_id=shape.bos, temperature=shape.temperature, together=way), {}
            )

    found: dict[str, Distance] = {}
    # Interleaved as an RL step does it: reference, policy, critic, policy again.
    with model.role("reference"), torch.no_grad():
        found["reference"] = _reference_distance(model, groups, shape, alone["reference"])
    for role in ("policy", "critic", "policy"):
        ours = packed(
            model,
            groups,
            shape,
            role=role,
            parts=SCALAR_PARTS if role == "critic" else ("logprobs", "entropy", "prompts"),
        )
        if role == "critic":
            gap = distance(
                Outcome(alone["policy"].scores, ours.grads),
                Outcome(alone["policy"].scores, alone["critic"].grads),
                without_prefix,
            )
            gap.logprob = score_distance(ours.scores.values, alone["critic"].scores.values)
            if shape.score_last:
                gap.logprob = max(gap.logprob, score_distance(ours.scores.last, alone["critic"].scores.last))
        else:
            gap = distance(ours, alone[role], without_prefix)
        found[role] = found.get(role, Distance()).worst(gap)
        assert all(role in key for key in ours.grads), "a role's backward reached another role's parameters"
    assert flags == {key: p.requires_grad for key, p in model.named_parameters()}, "a role switch changed requires_grad"
    return found


def _reference_distance(model: ForestModel, groups: list[Any], shape: Shape, alone: Outcome) -> Distance:
    total = Reference()
    for forest in forests(model, groups, shape):
        found = by_key(model(forest, "reference", frozenset({"logprob"}), shape.temperature), forest)
        total.logprobs.update(found.logprobs)
    return Distance(score_distance(total.logprobs, alone.scores.logprobs))
