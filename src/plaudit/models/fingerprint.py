"""A model's identity is its bytes: a hash over every parameter's name, shape and content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.models.forest_model import causal_lm
from plaudit.models.heads import CLASSIFIER_HEAD, is_classifier
from plaudit.models.role_adapters import output_head_name, role_of

_ADAPTER = re.compile(r"lora_|modules_to_save|trainable_tokens_|token_adapter\.trainable")
_WRAPPERS = re.compile(r"\.(base_layer|original_module|token_adapter)(?=\.)")


def _hash(named: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The base, without adapters and without a reward head: the head belongs to what is trained on the base."""
    inner: Any = causal_lm(model)
    named = [(_WRAPPERS.sub("", name), p) for name, p in inner.named_parameters() if not _ADAPTER.search(name)]
    if is_classifier(inner):
        named = [(name, p) for name, p in named if not _is_head(name)]
    return named


def _rounded(named: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The same in every compute precision."""
    return [(name, p.to(torch.bfloat16)) for name, p in named]


def base_fingerprint(model: nn.Module) -> str:
    """Which base an adapter belongs to: equal in every compute precision, with and without an adapter around the
    base."""
    return _hash(_rounded(_base(model)))


def trunk_base_fingerprint(model: nn.Module) -> str:
    """The base of a language model as `base_fingerprint` knows it of a reward model on the same trunk: without the
    output head."""
    head = output_head_name(model)
    return _hash(_rounded((name, p) for name, p in _base(model) if head is None or not name.startswith(f"{head}.")))


def trunk_fingerprint(model: nn.Module) -> str:
    """The function that a reward model's trunk computes, adapter included, before the head: equal in every compute
    precision. A fresh adapter changes nothing and is not part of it."""
    inner: Any = causal_lm(model)
    adapter = [(n, p) for n, p in inner.named_parameters() if _ADAPTER.search(n) and not _is_head(n)]
    fresh = not any(bool(p.any()) for n, p in adapter if "lora_B" in n or "lora_embedding_B" in n)
    return base_fingerprint(model) if fresh else _hash(_rounded([*_base(model), *adapter]))


def head_fingerprint(model: nn.Module) -> str:
    """A reward model's active head: the exact bytes."""
    heads = [p for n, p in causal_lm(model).named_parameters() if _is_head(n) and "original_module" not in n]
    assert len(heads) == 1, "a reward model has one head"
    return _hash([(CLASSIFIER_HEAD, heads[0])])


def _is_head(name: str) -> bool:
    return name.startswith(f"{CLASSIFIER_HEAD}.")


def scoring_fingerprint(model: nn.Module, *, adapters: bool) -> str:
    """Everything that a score of policy or reference depends on: the exact bytes, of the base alone or with its
    adapters. What belongs to a critic or a reward model on the same base is no part of it."""
    return _hash(_without_roles(list(model.named_parameters())) if adapters else _base(model))


def _without_roles(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """The parameters as they are named without the adapters of other roles, some of which wrap modules that are not
    wrapped otherwise."""
    own = [(name, p) for name, p in named if role_of(name) is None]
    if len(own) == len(named):
        return named
    adapted = {name[: found.start() - 1] for name, _ in own if (found := _ADAPTER.search(name))}

    def bare(found: re.Match[str]) -> str:
        return found[0] if found.string[: found.start()] in adapted else ""

    return [(_WRAPPERS.sub(bare, name), p) for name, p in own]
