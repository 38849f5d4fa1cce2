"""Weights, gradients and optimiser state spread over the processes: FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv
2304.11277, and Rajbhandari et al. 2020, 1910.02054, stage 3).

Every decoder layer is a unit, and the `ForestModel` is the root, with embeddings, final norm and output head. A unit is
gathered for its forward and its backward and let go of afterwards. The contract on numbers is the trainer's own: each
process keeps its part of a trained weight in fp32 (that is the master), gathers it rounded to the compute precision,
and the gradients of each micro-batch are summed over the processes in fp32, as sums and not as means. Frozen weights
(the base below an adapter, a reference) are spread in the compute precision.

Gathering is something that all processes do together, so each of them has to make the same number of forward passes.
The slot plan sees to that (`train.planning`); what one process alone used to do (samples, saving) is done together or
not at all.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from plaudit.config.schema import RunConfig
from plaudit.errors import ModelError, TrainingError
from plaudit.methods.base import Method
from plaudit.models.forest_model import ForestModel, decoder_of
from plaudit.models.shards import is_shard, whole
from plaudit.train.parallel import World

_EXPERT = re.compile(r"\bexperts\.\d+\.")


def check_sharding(config: RunConfig, method: Method) -> None:
    """What `train.sharding: fsdp` cannot do, before anything is loaded.

    Raises:
        TrainingError: PL405.
    """
    if config.train.sharding != "fsdp":
        return
    if method.is_online():
        what = f"{method.name} samples its own answers, and the engine reads whole weights"
    elif method.moves_reference():
        what = f"{method.name} moves its reference, which has to lie whole on every process"
    elif "critic" in method.needed_roles():
        what = f"{method.name} trains a critic beside the policy"
    elif config.train.optimizer != "adamw":
        what = f"{config.train.optimizer} of bitsandbytes does not know sharded weights"
    else:
        return
    mend = "use train.sharding=replicated" + (
        " or train.optimizer=adamw" if config.train.optimizer != "adamw" and not method.is_online() else ""
    )
    raise TrainingError("PL405", f"{what}, so the weights cannot be sharded", where="train.sharding", mend=mend)


class Sharding:
    """Spreads models over the processes, and brings the trained one together again for saving.

    Args:
        world: at least two processes.
        device: that the models compute on.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        self._world = world
        self._mesh = init_device_mesh(device.type, (world.size,))
        self._frame: ForestModel | None = None

    def spread(self, model: ForestModel) -> None:
        """Shard a model. The first one is the trained one; its optimiser and masters are made afterwards.

        Raises:
            ModelError: PL303 for a model whose experts are trained as modules of their own.
        """
        _refuse_single_experts(model)
        if self._frame is None:
            self._frame = _frame_of(model)
        compute = model.dtype
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        exact = MixedPrecisionPolicy(cast_forward_inputs=False)
        for module in _exact_modules(model, compute):
            self._wrap(module, exact)
        for layer in _layers(decoder_of(model.model)):
            self._wrap(layer, policy)
        self._wrap(model, policy)
        model.compute_dtype = compute

    def _wrap(self, module: nn.Module, policy: MixedPrecisionPolicy) -> None:
        for parameter in module.parameters():
            if parameter.requires_grad and not is_shard(parameter):
                parameter.data = parameter.data.float()  # the master; what is gathered of it is rounded
        fully_shard(module, mesh=self._mesh, mp_policy=policy)
        assert isinstance(module, FSDPModule)
        # The denominators are the trainer's: gradients are summed. Only plain sums, which every backend has.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)

    @contextmanager
    def gathered(self, model: ForestModel, *, trained: bool = False) -> Iterator[ForestModel]:
        """The trained model in one piece, on the CPU and in its compute precision. All processes ask together.

        Args:
            trained: only what was trained is needed (an adapter); everything else stays empty.

        Yields:
            The model on the main process. On the others its parameters are empty.
        """
        frame = self.gather(model, trained=trained)
        try:
            yield frame
        finally:
            for parameter in frame.parameters():
                parameter.data = torch.empty(0, dtype=parameter.dtype)

    @torch.no_grad()
    def gather(self, model: ForestModel, *, trained: bool = False) -> ForestModel:
        """As `gathered`, for good."""
        assert self._frame is not None
        places = dict(self._frame.named_parameters())
        for name, parameter in model.named_parameters():
            if trained and not parameter.requires_grad:
                continue
            found = whole(parameter.detach())
            if self._world.is_main:
                places[name].data = found.to("cpu", places[name].dtype, copy=True)
        return self._frame


def sharding_for(wanted: str, world: World, device: torch.device, say: Callable[[str], None]) -> Sharding | None:
    """What shards the models of a run; None where every process keeps them whole."""
    if wanted != "fsdp":
        return None
    if world.size == 1:
        say("one process alone: nothing is sharded")
        return None
    return Sharding(world, device)


def _frame_of(model: ForestModel) -> ForestModel:
    """A copy of the model without its weights."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty(0, dtype=p.dtype), requires_grad=p.requires_grad) for p in model.parameters()
    }
    memo |= {id(b): b.detach().to("cpu", copy=True) for b in model.buffers()}
    frame = copy.deepcopy(model, memo)
    frame.eval()
    return frame


def _exact_modules(model: ForestModel, compute: torch.dtype) -> list[nn.Module]:
    """Modules that compute in fp32 beside a model that does not (scalar heads): units of their own."""
    if compute == torch.float32:
        return []
    return [
        module for module in model.modules() if any(p.dtype == torch.float32 for p in module.parameters(recurse=False))
    ]


def _layers(trunk: nn.Module) -> list[nn.Module]:
    """The decoder layers: the longest list of modules that is not inside another one.

    Raises:
        ModelError: PL303 for a trunk without any.
    """
    found: list[nn.ModuleList] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.append(child)
            else:
                search(child)

    search(trunk)
    if not found:
        raise ModelError(
            "PL303",
            f"{type(trunk).__name__} has no list of layers that could be sharded",
            mend="use train.sharding=replicated",
            where="train.sharding",
        )
    return list(found[max(range(len(found)), key=lambda i: len(found[i]))])


def _refuse_single_experts(model: ForestModel) -> None:
    """A process that routes nothing to an expert has no gradient for it, and the sum would wait for it for ever."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and _EXPERT.search(name):
            raise ModelError(
                "PL303",
                "experts that are modules of their own cannot be trained sharded: a process may route nothing to one",
                where=name,
                mend="use train.sharding=replicated, or an adapter that leaves the experts out",
            )
