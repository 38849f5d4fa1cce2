"""The trained weights of a checkpoint, for a model that is not trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from plaudit.errors import ModelError
from plaudit.models.weights import first_line

_OWN = "model."
"""What a run puts before the names of its policy's weights; a critic's have other beginnings."""
_OTHERS = ("critic.", "heads.")


@torch.no_grad()
def read_trained(model: nn.Module, file: Path) -> None:
    """Put a checkpoint's fp32 weights into the model that its run started from, rounded to the model's precision.

    Args:
        model: as `load_model` gives it, without adapters.
        file: `weights.safetensors` of a checkpoint of full fine-tuning.

    Raises:
        ModelError: PL301, the file cannot be read, or its weights are not the model's.
    """
    own = dict(model.named_parameters())
    try:
        with safe_open(str(file), "pt") as weights:
            names = [n for n in weights.keys() if not n.startswith(_OTHERS)]  # noqa: SIM118  # no mapping
            known = {n: own.get(n.removeprefix(_OWN)) for n in names}
            shapes = {n: tuple(weights.get_slice(n).get_shape()) for n in names}
            wrong = [n for n, p in known.items() if p is None or tuple(p.shape) != shapes[n]]
            missing = set(own) - {n.removeprefix(_OWN) for n in names}
            if wrong or missing:
                raise ModelError(
                    "PL301",
                    f"the checkpoint is of another model: {len(wrong)} weights do not fit, {len(missing)} are missing",
                    where=f"{file}: {', '.join([*wrong, *sorted(missing)][:3])}",
                    mend="bring back the model that the run started from, under the name in its config.yaml",
                )
            for name, parameter in known.items():
                assert parameter is not None
                parameter.copy_(weights.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "PL301", f"the checkpoint cannot be read: {first_line(error)}", where=str(file), mend="take another one"
        ) from error
