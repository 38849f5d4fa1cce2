"""The tensors of a sharded run in a checkpoint: each process writes its part (torch.distributed.checkpoint).

They lie by name in the folder `state` of the checkpoint, where a run of one process has weights.safetensors and
optimizer.pt, and are read into any other number of processes, sharded or whole. All else of a checkpoint is the same,
and so is how it comes about: a hidden folder, hashes, one renaming by the main process when everybody has written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_together

from plaudit.models.masters import Masters
from plaudit.models.shards import read, shapes_in
from plaudit.runs.checkpoints import name_of
from plaudit.train import checkpoint
from plaudit.train.optimizer_state import empty_moment, moments, put_moments
from plaudit.train.parallel import World

WEIGHTS, OPTIMIZER = "weights/", "optimizer/"
"""Beginnings of the names: weights/NAME (which `plaudit.models.trained` reads too) and optimizer/MOMENT/NAME."""


def tensors_of(masters: Masters, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything of a trainer that is sharded, by the names in the checkpoint."""
    found = {f"{WEIGHTS}{name}": weight for name, weight in masters.state().items()}
    for name, entries in moments(optimizer, masters.weights).items():
        found |= {f"{OPTIMIZER}{key}/{name}": value for key, value in entries.items()}
    return found


def save(
    folder: Path,
    snapshot: checkpoint.Snapshot,
    tensors: Mapping[str, Tensor],
    world: World,
    extra: Callable[[Path], None] | None,
) -> Path:
    """Write a checkpoint, all processes together, and return its final path.

    Args:
        snapshot: without weights and optimiser.
        tensors: see `tensors_of`.
        extra: called on the main process with the hidden folder, to add files.

    Raises:
        RunError: PL505 on every process when one of them cannot write; the previous checkpoint stays.
    """
    hidden = Path(world.from_main(str(checkpoint.hidden_folder(folder, snapshot.step))))

    def begin() -> None:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)

    def finish(entries: Mapping[str, Any]) -> None:
        checkpoint.write_files(hidden, snapshot, extra)
        checkpoint.write_manifest(hidden, entries)
        checkpoint.publish(hidden, folder, snapshot.step)

    def main(work: Callable[[], None]) -> None:
        """Work of the main process; if it fails, it fails everywhere."""

        def own() -> list[None]:
            try:
                if world.is_main:
                    work()
            except (OSError, RuntimeError, SafetensorError) as error:
                shutil.rmtree(hidden, ignore_errors=True)
                raise checkpoint.unwritable(folder, snapshot.step, error) from error
            return []

        world.together(own)

    main(begin)
    try:
        save_together(dict(tensors), storage_writer=FileSystemWriter(hidden / checkpoint.STATE))
    except CheckpointException as error:
        if world.is_main:
            shutil.rmtree(hidden, ignore_errors=True)
        cause = next(iter(error.failures.values()))[0]  # (error, traceback) of every process that failed
        raise checkpoint.unwritable(folder, snapshot.step, cause) from error
    # What was written is read once more for its hash: by all, each its share.
    entries = world.together(lambda: checkpoint.entries_of(hidden, world.rank, world.size))
    main(lambda: finish(dict(entries)))
    return folder / name_of(snapshot.step)


def restore(path: Path, masters: Masters, optimizer: torch.optim.Optimizer) -> None:
    """Read weights and optimiser state of a checkpoint, exactly."""
    folder = path / checkpoint.STATE
    wanted: dict[str, dict[str, Tensor]] = {}
    for name in shapes_in(folder):
        if name.startswith(OPTIMIZER):
            key, _, weight = name.removeprefix(OPTIMIZER).partition("/")
            wanted.setdefault(weight, {})[key] = empty_moment(key, masters.weights[weight])
    targets = {f"{WEIGHTS}{name}": weight for name, weight in masters.state().items()}
    targets |= {f"{OPTIMIZER}{key}/{name}": t for name, entries in wanted.items() for key, t in entries.items()}
    read(folder, targets)
    put_moments(optimizer, masters.weights, wanted)
    masters.publish()


def restore_weights(path: Path, masters: Masters) -> None:
    """Read the weights alone."""
    read(path / checkpoint.STATE, {f"{WEIGHTS}{name}": weight for name, weight in masters.state().items()})
    masters.publish()
