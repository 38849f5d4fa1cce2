"""Out of memory in the middle of a run: said in words of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from plaudit.config.schema import RunConfig
from plaudit.errors import TrainingError
from plaudit.models.weights import first_line

_OF_THE_HOST = ("can't allocate memory", "not enough memory")
"""How torch says on a CPU that there is none; it has no error of its own for that."""


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Say what makes a run smaller where its memory is not enough.

    Raises:
        TrainingError: PL406.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
            words in str(error) for words in _OF_THE_HOST
        ):
            raise
        raise TrainingError(
            "PL406",
            f"there is not enough memory: {first_line(error)}" if str(error) else "there is not enough memory",
            where="train.tokens_per_microbatch",
            mend=f"{', '.join(_smaller(config))}. A run that has made steps already: with run.if_exists=new",
        ) from error


def _smaller(config: RunConfig) -> Iterator[str]:
    """What takes less memory, the mildest first."""
    tokens = config.train.tokens_per_microbatch
    yield f"--tokens-per-microbatch {tokens // 2 if isinstance(tokens, int) else 1024} (the results stay the same)"
    if not config.model.gradient_checkpointing:
        yield "--gradient-checkpointing (slower)"
    if config.lora is None:
        yield "--lora true (an adapter instead of all weights)"
    yield "or a smaller --max-length"
