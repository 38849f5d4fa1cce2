"""What the model says, without its weights, and what the machine has for it."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.config.schema import ModelConfig
from plaudit.config.starts import trained_model
from plaudit.data.render import Renderer

BYTES_PER_PARAMETER = 18
"""Of full fine-tuning: weight, gradient and Adam's two moments in fp32, and the copy in bf16 that computes."""
FULL_SHARE = 0.5
"""Of the free memory that these may take: activations and the reference need room too."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A model on this machine; None is what nobody knows.

    Attributes:
        positions: longest sequence of the model.
        parameters: of the model.
        free: bytes that a run could have, on the GPU where there is one.
    """

    renderer: Renderer
    positions: int | None
    parameters: int | None
    free: int | None

    @property
    def full(self) -> int | None:
        """Bytes that full fine-tuning takes, before any activation."""
        return None if self.parameters is None else BYTES_PER_PARAMETER * self.parameters

    @property
    def fits_in_full(self) -> bool | None:
        """Whether full fine-tuning leaves enough of the memory free."""
        return None if self.full is None or self.free is None else self.full <= FULL_SHARE * self.free


def machine_for(model: str) -> Machine:
    """Look at a model: its tokenizer and its configuration are read.

    Raises:
        ModelError: PL301 not found or not readable, PL303 an architecture that is out of scope.
    """
    import torch

    from plaudit.models.load import load_outline
    from plaudit.train.intake import positions_of
    from plaudit.train.memory import meter_for

    outline = load_outline(ModelConfig(path=trained_model(model)))
    meter, free = meter_for(torch.device("cuda" if torch.cuda.is_available() else "cpu")), None
    if meter is not None:
        free = meter.limit() - meter.used()
        meter.close()
    config = outline.config
    return Machine(
        renderer=Renderer(outline.tokenizer),
        positions=None if config is None else positions_of(config),
        parameters=None if config is None else _parameters(config),
        free=free,
    )


def _parameters(config: object) -> int | None:
    """How many the model has, from a copy of it without memory; None where the library cannot make one."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, ImportError):
        return None
    return sum(int(parameter.numel()) for parameter in model.parameters())


__all__ = ["Machine", "machine_for"]
