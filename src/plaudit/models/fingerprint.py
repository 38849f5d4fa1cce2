"""A model's identity is its bytes: a hash over every parameter's name, shape and content."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.models.forest_model import causal_lm

_ADAPTER = re.compile(r"lora_|modules_to_save|trainable_tokens_|token_adapter\.trainable")
_WRAPPERS = re.compile(r"\.(base_layer|original_module|token_adapter)(?=\.)")


def _hash(named: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base(model: nn.Module) -> list[tuple[str, Tensor]]:
    inner: Any = causal_lm(model)
    return [(_WRAPPERS.sub("", name), p) for name, p in inner.named_parameters() if not _ADAPTER.search(name)]


def base_fingerprint(model: nn.Module) -> str:
    """Which base an adapter belongs to: equal in every compute precision, with and without an adapter around the
    base."""
    return _hash([(name, p.to(torch.bfloat16)) for name, p in _base(model)])


def scoring_fingerprint(model: nn.Module, *, adapters: bool) -> str:
    """Everything that a score depends on: the exact bytes, of the base alone or with its adapters."""
    return _hash(list(model.named_parameters()) if adapters else _base(model))
