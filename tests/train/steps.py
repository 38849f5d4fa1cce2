"""Optimiser steps of tiny models outside a run: what the invariance tests compare."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from plaudit.config.schema import LoraSection
from plaudit.methods import available
from plaudit.methods.base import Batch, Method, Role
from plaudit.methods.sft import SFT
from plaudit.models.adapters import add_lora
from plaudit.models.forest_model import ForestModel, RoleSpec
from plaudit.models.load import enable_checkpointing
from plaudit.models.masters import Masters
from plaudit.train.parallel import World
from plaudit.train.reference_role import frozen_copy
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import Completion, DataKind, Floats, PromptGroup
from tests.train.toys import TOYS

VOCABULARY = 61
OWN_RATIO = ("gspo", "cispo")
"""Of the online variants those whose loss is another one than that of the method they are listed with."""


def _cases() -> dict[str, Callable[[], Method]]:
    """Every registered method with its defaults, the further options that its own test file names (CASES: name →
    options), and the toys."""
    found: dict[str, Callable[[], Method]] = {}
    for name, method in available().items():
        found[name] = method
        module = f"tests.methods.test_{name}"
        cases = getattr(importlib.import_module(module), "CASES", {}) if importlib.util.find_spec(module) else {}
        for case, options in cases.items():
            found[f"{name}[{case}]"] = partial(_configured, method, options)
    return found | {t.name: t for t in TOYS}


def _configured(method: type[Method], options: Mapping[str, Any]) -> Method:
    return method(method.Config(**options))


METHODS = _cases()


def in_default_run(name: str) -> bool:
    """A variant is the method it is listed with, with another loss or other options. The default run takes offline
    variants as they are, and of online ones the first of the further cases of those that are more. The slow run takes
    all."""
    base, _, case = name.partition("[")
    method = available().get(base)
    if method is None or method.variant_of is None:
        return True
    if not method.is_online():
        return not case
    cases = getattr(importlib.import_module(f"tests.methods.test_{base}"), "CASES", None)
    if not cases:
        return True
    first = next(iter(cases))
    return base in OWN_RATIO and case == f"{first}]"


def make_groups(kind: DataKind, count: int = 7, seed: int = 3) -> list[PromptGroup]:
    """Ragged groups of a data kind: masks with holes, a one-token prompt, and where the kind has them rewards (of steps
    too), a greedy answer, labels and prompt targets."""
    rng = np.random.default_rng(seed)

    def ids(n: int) -> np.ndarray:
        return rng.integers(2, VOCABULARY, n).astype(np.int32)

    def completion(k: int) -> Completion:
        length = int(rng.integers(2, 14))
        mask = np.ones(length, dtype=bool)
        if length > 6:
            mask[2:4] = False
        logprobs = np.zeros(length, np.float32)
        logprobs[mask] = rng.normal(-3.5, 0.7, int(mask.sum()))
        return Completion(
            ids(length),
            mask,
            sampling_logprobs=logprobs,
            reward=float(rng.normal()),
            label=bool(rng.random() < 0.5),
            rank=1.0 + k // 2,
        )

    sizes = {"completion": 1, "preference": 2, "feedback": 1, "ranking": 4, "prompt": 3}
    prompts = [ids(1 if i == 0 else int(rng.integers(3, 20))) for i in range(count)]
    groups = [PromptGroup(p, [completion(k) for k in range(sizes[kind])]) for p in prompts]
    for group in groups[1::3] if kind in ("preference", "ranking") else []:
        group.preference, group.margin = float(rng.uniform(0.5, 1)), float(rng.uniform(0, 1))
    for group in groups[::2] if kind in ("completion", "preference") else []:
        group.prompt_mask = np.arange(len(group.prompt_ids)) % 3 > 0
    for i, group in enumerate(groups if kind == "prompt" else []):
        group.greedy = completion(0)
        for answer in group.completions[i % 2 :]:  # some without steps
            ends = sorted({int(e) for e in rng.integers(0, len(answer.token_ids), 3)})
            answer.step_rewards = tuple((end, float(rng.normal())) for end in ends)
    return groups


def tiny_llama(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(3)  # attention of a freshly initialised model hardly matters
    return model


@dataclass
class Setup:
    """Models of every role around a tiny Llama, and the weights that are trained."""

    models: dict[Role, ForestModel]
    masters: Masters
    trained: list[nn.Module]


def build(*, lora: bool = False, path: str = "forest", checkpointing: bool = False, bf16: bool = False) -> Setup:
    """A model in every role. With LoRA all share one base; without, each role has a model of its own."""
    base = tiny_llama()
    if bf16:
        base.to(torch.bfloat16)
    if checkpointing:
        enable_checkpointing(base)
    if lora:
        model = add_lora(base, LoraSection(r=4), torch.float32, [])
        model.add_adapter("critic", model.peft_config["default"])
        model.add_adapter("reward", model.peft_config["default"])
        roles: Mapping[Role, RoleSpec] = {
            "policy": RoleSpec("default"),
            "reference": RoleSpec(None),
            "critic": RoleSpec("critic", head="scalar"),
            "reward": RoleSpec("reward", head="scalar"),
        }
        generator = torch.Generator().manual_seed(1)
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.requires_grad_(True)
                with torch.no_grad():
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
        torch.manual_seed(5)
        policy = ForestModel(model, roles=roles)
        policy.set_path(path)
        return Setup(dict.fromkeys(roles, policy), Masters([("", policy)]), [policy])
    policy = ForestModel(base)
    policy.set_path(path)
    reference = frozen_copy(policy)
    with torch.no_grad():  # a policy that has moved: every gradient differs from the one at the reference
        generator = torch.Generator().manual_seed(2)
        for p in policy.parameters():
            p.add_((torch.randn(p.shape, generator=generator) * 0.1).to(p.dtype))
    torch.manual_seed(5)
    critic = ForestModel(tiny_llama(4).to(policy.dtype), roles={"critic": RoleSpec(head="scalar")})
    reward = ForestModel(tiny_llama(6).to(policy.dtype), roles={"reward": RoleSpec(head="scalar")})
    critic.set_path(path)
    reward.set_path(path)
    trained: dict[Role, ForestModel] = {"policy": policy, "critic": critic, "reward": reward}
    masters = Masters([(f"{role}.", model) for role, model in trained.items()])
    return Setup(trained | {"reference": reference}, masters, list(trained.values()))


def prepare(
    setup: Setup,
    method: Method,
    groups: Sequence[PromptGroup],
    world: World | None = None,
    *,
    old: bool = False,
) -> Batch:
    """A prepared batch; the groups are copied, because methods may extend them.

    Args:
        old: the policy that sampled is another one, so that ratios differ from 1 and are clipped.
    """
    sampled = [replace(g, completions=list(g.completions)) for g in groups]
    batch = Batch(sampled)
    if method.is_online():
        batch = Batch(method.choose(sampled, np.random.default_rng(5)), sampled=sampled)
    if old:
        batch.per_token["old"] = [[_sampled(c) for c in g.completions] for g in batch.groups]
    scorer = GroupScorer(setup.models, world or World(), tokens_per_microbatch=64)
    method.observe(batch.groups)
    # With this seed the mean of KTO's mismatched answers is positive: at 0 the clamp would hide its baseline.
    method.prepare_batch(batch, scorer, np.random.default_rng(6))
    return batch


def _sampled(completion: Completion) -> Floats:
    assert completion.sampling_logprobs is not None
    return completion.sampling_logprobs[completion.action_mask]


def gradients(
    setup: Setup, streams: Sequence[Stream], budget: int, world: World | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Gradients by name and metrics of one step, in training mode."""
    for module in setup.trained:
        module.train()
    setup.masters.clear_gradients()
    totals = Totals()
    world = world or World()
    StepRunner(setup.models, world, budget).gradients(streams, totals)
    world.sum_gradients(setup.masters.parameters)
    found = {n: w.grad.clone() for n, w in setup.masters.weights.items() if w.grad is not None}
    return found, totals.read(world)


def streams_of(setup: Setup, name: str, world: World | None = None) -> list[Stream]:
    """The streams of a step of a method; "toy_ppo_ptx" mixes PPO on one minibatch with SFT on demonstrations."""
    if name == "toy_ppo_ptx":
        demonstrations = make_groups("completion", 4, seed=8)
        ppo = streams_of(setup, "toy_ppo", world)[0]
        ppo.indices = [5, 1, 3]
        sft = SFT()
        return [ppo, Stream(sft, prepare(setup, sft, demonstrations, world), range(4), coefficient=2.5, prefix="ptx/")]
    method = METHODS[name]()
    further = "[" in name and method.is_online()  # with its defaults a method is tested on the first step of a batch
    batch = prepare(setup, method, make_groups(method.data_kind), world, old=further)
    return [Stream(method, batch, range(len(batch.groups)))]


def largest_error(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of a gradient entry, relative to the largest entry of all."""
    assert a.keys() == b.keys()
    scale = max(float(g.abs().max()) for g in b.values())
    return max(float((a[n] - b[n]).abs().max()) for n in b) / scale
