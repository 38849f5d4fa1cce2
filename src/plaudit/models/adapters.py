"""LoRA adapters through PEFT: a fresh one, a continued one with its frozen twin, and the base they belong to."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plaudit.config.schema import LoraSection
from plaudit.errors import ModelError
from plaudit.models.fingerprint import base_fingerprint
from plaudit.models.heads import CLASSIFIER_HEAD, is_classifier
from plaudit.models.origin import Origin, read_origin, write_origin


def add_lora(model: nn.Module, options: LoraSection, dtype: torch.dtype, new_token_ids: list[int]) -> Any:
    """Put a fresh adapter named "default" on the model.

    The rows of added tokens are trained besides, in the embedding and in an output head of its own (and no other rows).

    Raises:
        ModelError: PL306 when a target or a module to save does not exist.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    alpha = options.alpha if options.alpha is not None else 2.0 * options.r
    targets = options.target_modules if isinstance(options.target_modules, str) else list(options.target_modules)
    _check_targets(model, targets)
    config = LoraConfig(
        task_type=_task_type(model),  # for a classifier, PEFT trains and saves the head besides
        r=options.r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only divides it; a float is fine
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=_full_names(model, "lora.modules_to_save", options.modules_to_save) or None,
        use_rslora=options.rslora,
        use_dora=options.dora,
        # GPT-2 keeps its weights transposed.
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        trainable_token_indices=_token_rows(model, options, new_token_ids) or None,
    )
    try:
        with without_peft_noise():
            return get_peft_model(model, config, autocast_adapter_dtype=dtype == torch.float32)
    except ValueError as error:
        raise ModelError(
            "PL306",
            f"PEFT refuses the adapter: {error}",
            where="lora",
            mend="change the options of the section lora that it names",
        ) from error


@contextmanager
def without_peft_noise() -> Iterator[None]:
    """PEFT reads a name that newer versions of transformers call deprecated; a user can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _token_rows(model: nn.Module, options: LoraSection, ids: list[int]) -> dict[str, list[int]]:
    """Rows to train, by module name; PEFT follows tied weights by itself."""
    if not ids:
        return {}
    inner: Any = model
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    wanted = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is w for w in wanted)]
    return {name: list(ids) for name in names if name not in options.modules_to_save}


def _task_type(model: nn.Module) -> str:
    return "SEQ_CLS" if is_classifier(model) else "CAUSAL_LM"


def continue_lora(model: nn.Module, path: Path, dtype: torch.dtype) -> Any:
    """Load an adapter to go on training it, with a frozen copy of it as adapter "reference".

    A reward model has no reference and gets no copy; its head comes from the adapter.

    Raises:
        ModelError: PL306 when there is no adapter there, it was trained on another base, or for another task.
    """
    from peft import PeftModel

    if not (path / "adapter_config.json").is_file():
        raise ModelError("PL306", "there is no adapter", where=str(path), mend="give a folder with adapter_config.json")
    check_task(model, path)
    check_base(model, path)
    cast = dtype == torch.float32
    with without_peft_noise():
        wrapped = PeftModel.from_pretrained(model, str(path), is_trainable=True, autocast_adapter_dtype=cast)
    if is_classifier(model):
        return wrapped
    trainable = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    wrapped.load_adapter(str(path), adapter_name="reference", is_trainable=False, autocast_adapter_dtype=cast)
    wrapped.set_adapter("default")
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(name in trainable)
    return wrapped


def save_adapter(model: Any, path: Path, base: str | Origin) -> None:
    """Write the trained adapter in PEFT's format, with what it belongs to beside it.

    Args:
        base: fingerprint of the base, or everything that is known about the start.
    """
    # Everything trained is part of the adapter. Left to itself PEFT adds both whole embeddings after a resize, and
    # asks the hub for the base's config to find out.
    model.save_pretrained(str(path), selected_adapters=["default"], save_embedding_layers=False)
    write_origin(path, Origin("lm", base) if isinstance(base, str) else base)


def check_base(model: nn.Module, path: Path) -> None:
    """Raise ModelError PL306 when the adapter names another base than `model`."""
    origin = read_origin(path)
    if origin is None:
        return
    found = base_fingerprint(model)
    if origin.base != found:
        raise ModelError(
            "PL306",
            f"the adapter was trained on another base model (its base {origin.base[:12]}…, this one {found[:12]}…)",
            where=str(path),
            mend=f"load the base model that the adapter was trained on{_named(path)}",
        )


def _named(path: Path) -> str:
    """The base that an adapter names, in brackets."""
    values = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    base = values.get("base_model_name_or_path")
    return f" ({base})" if base else ""


def check_task(model: nn.Module, path: Path) -> None:
    """Raise ModelError PL306 when the adapter is a language model's and `model` a reward model, or the other way."""
    values = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    reward = values.get("task_type") == "SEQ_CLS" and CLASSIFIER_HEAD in (values.get("modules_to_save") or [])
    if reward == is_classifier(model):
        return
    if reward:
        what, mend = "the adapter is a reward model's and writes no text", "give the adapter of a language model"
    else:
        what = "the adapter is a language model's and has no reward head"
        mend = "merge it first (plaudit merge) and start from the merged model"
    raise ModelError("PL306", what, where=str(path), mend=mend)


def _check_targets(model: nn.Module, targets: str | list[str]) -> None:
    """Names must exist; a text is "all-linear" or a regular expression for full names, as in PEFT."""
    if isinstance(targets, list):
        _full_names(model, "lora.target_modules", targets)
        return
    if targets.lower() == "all-linear":
        return
    try:
        found = any(re.fullmatch(targets, name) for name, _ in model.named_modules())
    except re.error as error:
        raise ModelError(
            "PL306",
            f"not a regular expression: {error}",
            where="lora.target_modules",
            mend="name modules (q_proj,v_proj), or all-linear",
        ) from error
    if not found:
        raise _no_module(model, "lora.target_modules", [targets])


def _full_names(model: nn.Module, field: str, wanted: Sequence[str]) -> list[str]:
    """Full names of the modules whose name is, or ends with, one of the given ones.

    PEFT compares the ends of strings: its "norm" takes every input_layernorm as well.
    """
    everything = [name for name, _ in model.named_modules()]
    found = {w: [n for n in everything if n == w or n.endswith(f".{w}")] for w in wanted}
    missing = [w for w, names in found.items() if not names]
    if missing:
        raise _no_module(model, field, missing)
    return [name for names in found.values() for name in names]


def _no_module(model: nn.Module, field: str, missing: Sequence[str]) -> ModelError:
    leaves = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if not list(module.children())}
    return ModelError(
        "PL306",
        f"the model has no module named {', '.join(missing)}",
        where=field,
        mend=f"choose among {', '.join(sorted(leaves))}",
    )
