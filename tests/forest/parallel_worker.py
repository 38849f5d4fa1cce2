"""One of two processes: wraps a ForestModel in DDP or FSDP2, trains its share and compares the summed gradients.

Process 0 writes {case: error} to the result file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from plaudit.forest.layout import Forest
from plaudit.models.forest_model import ForestModel, decoder_of
from tests.forest.cases import ROLES, checkpoint_activations, with_adapters, wrap
from tests.forest.matrix import LM_PARTS, Grads, by_key, forests, gradient_distance, gradients, objective
from tests.zoo import SHAPES, Maker, Shape, build

STATS = frozenset({"logprob", "entropy"})
SHARES: tuple[Sequence[int], Sequence[int]] = ((1, 3, 0), (2,))
"""Groups of each process: three micro-batches against one and two of zero weight."""


def _groups() -> list[Any]:
    make = Maker(30)
    return [
        make.group(9, [6, 8]),
        make.group(14, [12], prompt_targets=True),
        make.group(3, [11, 4, 7]),
        make.group(1, [9]),
    ]


def _share(model: ForestModel, ranks: Sequence[int]) -> list[Forest]:
    groups = _groups()
    wanted = sorted(i for rank in ranks for i in SHARES[rank])
    found = []
    for i in wanted:
        shape = Shape(list, budget=200, unit="completion")
        (forest,) = forests(model, [groups[i]], shape)
        found.append(forest)
    return found


def _loss(scores: Any, forest: Forest, weight: float) -> torch.Tensor:
    keyed = by_key(scores, forest)
    # The key of a group is its place in `_groups`; here every forest holds one group at index 0.
    return weight * (objective(keyed, LM_PARTS) * (1 + 0.1 * forest.num_tokens))


def alone(model: ForestModel) -> Grads:
    """Gradients of the whole step in one process."""
    for forest in _share(model, (0, 1)):
        with model.role("policy"):
            _loss(model(forest, "policy", STATS, 0.8), forest, 1.0).backward()
    return gradients(model)


def micro_batches(model: ForestModel, rank: int) -> list[tuple[Forest, float]]:
    own = _share(model, (rank,))
    slots = max(len(s) for s in SHARES)
    return [(own[min(i, len(own) - 1)], 1.0 if i < len(own) else 0.0) for i in range(slots)]


def ddp(model: ForestModel, rank: int, **options: Any) -> Grads:
    """Gradients of the step under DDP; DDP averages, so the sum is `size` times that."""
    wrapped = DistributedDataParallel(model, **options)
    batches = micro_batches(model, rank)
    for number, (forest, weight) in enumerate(batches):
        last = number == len(batches) - 1
        with nullcontext() if last else wrapped.no_sync(), model.role("policy"):
            _loss(wrapped(forest, "policy", STATS, 0.8), forest, weight).backward()
    return {name: g * dist.get_world_size() for name, g in gradients(model).items()}


def unsynchronised(model: ForestModel, rank: int) -> Grads:
    """The wrapper gone around, as some trainers do: must come out wrong, or this file proves nothing."""
    wrapped = DistributedDataParallel(model)
    for forest, weight in micro_batches(model, rank):
        with wrapped.module.role("policy"):
            _loss(wrapped.module(forest, "policy", STATS, 0.8), forest, weight).backward()
    return {name: g * dist.get_world_size() for name, g in gradients(model).items()}


def fsdp(model: ForestModel, rank: int, *, reshard: bool | None = None) -> Grads:
    """Gradients of the step under FSDP2: decoder layers and the root are sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    trunk: Any = decoder_of(model.model)
    for layer in trunk.layers if hasattr(trunk, "layers") else trunk.h:
        fully_shard(layer, mesh=mesh)
    wrapped: Any = fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    batches = micro_batches(model, rank)
    for number, (forest, weight) in enumerate(batches):
        wrapped.set_requires_gradient_sync(number == len(batches) - 1)
        with model.role("policy"):
            _loss(wrapped(forest, "policy", STATS, 0.8), forest, weight).backward()
    return {
        name: p.grad.full_tensor() * dist.get_world_size() for name, p in model.named_parameters() if p.grad is not None
    }


def _make(name: str, kind: str | None = None, *, checkpointing: bool = False, roles: bool = False) -> ForestModel:
    model = build(name)
    if kind is not None:
        model = with_adapters(model, kind, *(("policy", "critic") if roles else ()))
    if roles:
        for key, p in model.named_parameters():
            p.requires_grad_("lora_" in key)
    if checkpointing:
        checkpoint_activations(model)
    return wrap(name, model, SHAPES["pairs"], **({"roles": ROLES} if roles else {}))


Case = tuple[Callable[[], ForestModel], Callable[[ForestModel, int], Grads]]

CONTROL = "the wrapper gone around"
CASES: dict[str, Case] = {
    CONTROL: (lambda: _make("llama"), unsynchronised),
    "DDP, all parameters": (lambda: _make("llama"), ddp),
    "DDP, soft-capped tied head": (lambda: _make("gemma2"), ddp),
    "DDP, sinks": (lambda: _make("gpt_oss"), ddp),
    "DDP, LoRA with lm_head": (lambda: _make("llama", "LoRA with lm_head"), ddp),
    "DDP, LoRA with lm_head, checkpointing": (lambda: _make("qwen3", "LoRA with lm_head", checkpointing=True), ddp),
    "DDP, two roles, one trained here": (
        lambda: _make("llama", "LoRA all-linear", roles=True),
        lambda m, r: ddp(m, r, find_unused_parameters=True),
    ),
    "FSDP2, all parameters": (lambda: _make("llama"), fsdp),
    "FSDP2, resharded after forward": (lambda: _make("llama"), lambda m, r: fsdp(m, r, reshard=True)),
    "FSDP2, soft-capped tied head": (lambda: _make("gemma2"), fsdp),
    "FSDP2, head with bias": (lambda: _make("phi"), fsdp),
    "FSDP2, checkpointing": (lambda: _make("qwen3", checkpointing=True), fsdp),
    "FSDP2, LoRA all-linear": (lambda: _make("llama", "LoRA all-linear"), fsdp),
    "FSDP2, LoRA with lm_head, checkpointing": (lambda: _make("llama", "LoRA with lm_head", checkpointing=True), fsdp),
}


def main(rank: int, rendezvous: str, result: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for message in ("`is_gradient_checkpointing` is deprecated",):
        warnings.filterwarnings("ignore", message=message)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name, (make, run) in CASES.items():
        theirs = alone(make())
        try:
            error, where = gradient_distance(run(make(), rank), theirs)
            found[name] = [error, where]
        except Exception as problem:
            found[name] = [float("inf"), f"{type(problem).__name__}: {problem}"]
    if rank == 0:
        result.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
