"""The trained weights of a checkpoint, for a model that is not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from plaudit.errors import ModelError
from plaudit.models.shards import read, shapes_in
from plaudit.models.weights import first_line

_OWN = "model."
"""What a run puts before the names of its policy's weights; a critic's have other beginnings."""
_OTHERS = ("critic.", "heads.")


_SHARDED = "weights/"
"""The same before every name, where several processes have written their shards."""


@torch.no_grad()
def read_trained(model: nn.Module, file: Path) -> None:
    """Put a checkpoint's fp32 weights into the model that its run started from, rounded to the model's precision.

    Args:
        model: as `load_model` gives it, without adapters.
        file: `weights.safetensors` of a checkpoint of full fine-tuning, or the folder `state` of one with sharded
            weights.

    Raises:
        ModelError: PL301, the file cannot be read, or its weights are not the model's.
    """
    try:
        (_put_shards if file.is_dir() else _put_file)(model, file)
    except (OSError, SafetensorError, CheckpointException) as error:
        raise ModelError(
            "PL301", f"the checkpoint cannot be read: {first_line(error)}", where=str(file), mend="take another one"
        ) from error


def _put_file(model: nn.Module, file: Path) -> None:
    with safe_open(str(file), "pt") as weights:
        shapes = {n: tuple(weights.get_slice(n).get_shape()) for n in weights.keys()}  # noqa: SIM118  # no mapping
        for name, parameter in _places(model, shapes, file).items():
            parameter.copy_(weights.get_tensor(name))


def _put_shards(model: nn.Module, folder: Path) -> None:
    found = shapes_in(folder)
    shapes = {n.removeprefix(_SHARDED): shape for n, shape in found.items() if n.startswith(_SHARDED)}
    for name, parameter in _places(model, shapes, folder).items():
        whole = torch.empty(shapes[name])
        read(folder, {f"{_SHARDED}{name}": whole})
        parameter.copy_(whole)


def _places(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], file: Path) -> dict[str, nn.Parameter]:
    """Where each of the policy's weights belongs, by its name in the checkpoint."""
    own = dict(model.named_parameters())
    known = {n: own.get(n.removeprefix(_OWN)) for n in shapes if not n.startswith(_OTHERS)}
    wrong = [n for n, p in known.items() if p is None or tuple(p.shape) != shapes[n]]
    missing = set(own) - {n.removeprefix(_OWN) for n in known}
    if wrong or missing:
        raise ModelError(
            "PL301",
            f"the checkpoint is of another model: {len(wrong)} weights do not fit, {len(missing)} are missing",
            where=f"{file}: {', '.join([*wrong, *sorted(missing)][:3])}",
            mend="bring back the model that the run started from, under the name in its config.yaml",
        )
    return {n: p for n, p in known.items() if p is not None}
