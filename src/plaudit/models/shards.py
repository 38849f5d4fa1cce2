"""Tensors that are spread over the processes of a run (FSDP2's shards), and files that such processes have written
(torch.distributed.checkpoint), for those too that have everything whole."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor


def is_shard(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return isinstance(tensor, DTensor)


def local_size(tensor: Tensor) -> int:
    """How many numbers of the tensor this process holds."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()


def whole(tensor: Tensor) -> Tensor:
    """The tensor as a whole. Of a shard every process has to ask at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor on the device of `target`, spread as that is. Nothing is sent: every process takes its part."""
    value = value.to(target.device)
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a tensor, whole or spread as the target is, into a weight."""
    target.copy_(like(value, target))


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a folder that processes have written their shards to, by name."""
    found = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: tuple(meta.size) for name, meta in found.items() if isinstance(meta, TensorStorageMetadata)}


@torch.no_grad()
def read(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill tensors with those of a folder, exactly, by name. Sharded ones are filled by all processes together, whole
    ones by each alone; neither depends on how many have written."""
    plain = {name: t.data if isinstance(t, nn.Parameter) else t for name, t in targets.items()}
    alone = not any(is_shard(t) for t in plain.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # that is what `alone` means
        load(plain, storage_reader=FileSystemReader(folder), no_dist=alone)
