"""What every engine in the trainer's process does the same way: end tokens, checks of prompts, taking over weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from plaudit.engines.base import weights_checksum
from plaudit.errors import EngineError
from plaudit.types import Tokens


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """End-of-sequence ids of the model's generation config and of the tokenizer, sorted."""
    found: set[int] = set()
    config = getattr(model, "generation_config", None)
    for ids in (getattr(config, "eos_token_id", None), tokenizer.eos_token_id):
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return tuple(sorted(found))


def positions_of(model: Any) -> int | None:
    """Positions that a transformers model has; None = no limit."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def check_fits(prompts: Sequence[Tokens], new_tokens: int, limit: int | None) -> None:
    """Refuse prompts that nothing can be generated from.

    Args:
        limit: positions of the model, or None where it has no limit.

    Raises:
        EngineError: PL602 for an empty prompt, or one that does not fit with `new_tokens`.
    """
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise EngineError("PL602", "a prompt is empty", where=f"prompt {i}", mend="start it with the BOS token")
        if limit is not None and len(prompt) + new_tokens > limit:
            raise EngineError(
                "PL602",
                f"{len(prompt)} prompt tokens + {new_tokens} new tokens exceed the model's {limit} positions",
                where=f"prompt {i}",
                mend="shorten the prompt or lower max_new_tokens",
            )


def take_over(model: nn.Module, weights: Mapping[str, torch.Tensor] | None) -> str:
    """Load complete weights into an engine's model (None: it shares the trainer's) and return their checksum.

    Raises:
        EngineError: PL603 when names or shapes do not match.
    """
    own = dict(model.named_parameters())
    if weights is not None:
        _load(model, own, weights)
    return weights_checksum(own)


def _load(model: nn.Module, own: dict[str, nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    aliases = dict(model.named_parameters(remove_duplicate=False))  # a tied head may be sent by its own name
    unknown = sorted(set(weights) - set(aliases))
    missing = sorted(set(own) - set(weights))
    shapes = sorted(k for k in set(weights) & set(aliases) if weights[k].shape != aliases[k].shape)
    if unknown or missing or shapes:
        raise EngineError(
            "PL603",
            f"the engine's model has other weights: {len(unknown)} unknown, {len(missing)} missing, "
            f"{len(shapes)} of another shape",
            where=", ".join([*unknown, *missing, *shapes][:4]),
            mend="send every parameter of the model the engine was built with (adapters merged)",
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            aliases[name].copy_(tensor)
