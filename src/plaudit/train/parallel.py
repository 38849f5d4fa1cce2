"""The processes of a run. One process needs no process group; with several, which all have the whole weights, the
gradients are summed once per optimiser step (`plaudit.train.sharding` has the other way).

The sum is taken over the accumulated fp32 gradients after the last micro-batch, not by wrapping in torch's DDP: that
would reduce each bf16 gradient in bf16, and the masters need fp32. The result is what DDP with `no_sync` gives in fp32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from plaudit.errors import TrainingError
from plaudit.models.shards import is_shard

T = TypeVar("T")
_BUCKET = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class World:
    """This process and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_values(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Element-wise sum of scalars over all processes; every process must give the same names."""
        if self.size == 1 or not values:
            return dict(values)
        names = sorted(values)
        flat = torch.stack([values[n].double() for n in names])
        dist.all_reduce(flat)
        return dict(zip(names, flat.float(), strict=True))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum `.grad` over all processes, in buckets.

        A gradient that only some processes have (an expert that was routed to on one of them) counts as zero
        elsewhere; one that nobody has stays None, as in a single process.
        """
        parameters = [p for p in parameters if not is_shard(p)]  # what is sharded was summed in the backward
        if self.size == 1 or not parameters:
            return
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
        dist.all_reduce(present)
        bucket: list[Tensor] = []
        held = 0
        for parameter, holders in zip(parameters, present.tolist(), strict=True):
            if not holders:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            held += parameter.grad.numel() * 4
            if held >= _BUCKET:
                _reduce(bucket)
                bucket, held = [], 0
        if bucket:
            _reduce(bucket)

    def gather(self, item: T) -> list[T]:
        """Every process's item, in rank order."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def together(self, work: Callable[[], Sequence[T]]) -> list[T]:
        """What every process's share of some work gave, in rank order.

        Raises:
            Exception: what one of the shares raised, on every process: the others would wait for it for ever.
        """
        if self.size == 1:
            return list(work())
        own: Sequence[T] = ()
        failure: Exception | None = None
        try:
            own = work()
        except Exception as error:  # of whatever kind: it is raised below
            failure = error
        shares = self.gather((own, failure))
        for _, found in shares:
            if found is not None:
                raise found
        return [item for share, _ in shares for item in share]

    def from_main(self, item: T) -> T:
        """The main process's item."""
        if self.size == 1:
            return item
        box: list[Any] = [item]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _reduce(bucket: list[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in bucket])
    dist.all_reduce(flat)
    offset = 0
    for gradient in bucket:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def start_world() -> World:
    """The world that torchrun (or `--processes`) describes in the environment, or a single process.

    Raises:
        TrainingError: PL407 when the processes do not find each other, or there is no GPU for one of them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        place = f"process {os.environ.get('RANK')} of {size}"
        if torch.cuda.is_available():
            local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= gpus:
                raise TrainingError(
                    "PL407",
                    f"there is no GPU for it: this machine has {gpus}, and every process needs its own",
                    where=place,
                    mend=f"start {gpus} process{'es' if gpus > 1 else ''} on this machine",
                )
            torch.cuda.set_device(local)
        try:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        except (dist.DistError, ValueError) as error:
            raise TrainingError(
                "PL407",
                f"the processes of the run do not find each other: {str(error).strip().splitlines()[0]}",
                where=f"{place}, MASTER_ADDR={os.environ.get('MASTER_ADDR')} "
                f"MASTER_PORT={os.environ.get('MASTER_PORT')}",
                mend="start all of them with --processes N or torchrun, which choose a free port; over several "
                "machines give torchrun another --master-port and check that it can be reached",
            ) from error
    return World(dist.get_rank(), dist.get_world_size())
