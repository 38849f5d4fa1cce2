"""LoRA adapters through PEFT: a fresh one, a continued one with its frozen twin as reference, saving, and the base they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plaudit.config.schema import LoraSection
from plaudit.errors import ModelError
from plaudit.models.fingerprint import base_fingerprint

_BASE_FILE = "plaudit.json"


def add_lora(model: nn.Module, options: LoraSection, dtype: torch.dtype, new_token_ids: list[int]) -> Any:
    """Put a fresh adapter named "default" on the model.

    The rows of added tokens are trained besides (and only those rows of the embedding).

    Raises:
        ModelError: PL306 when a target or a module to save does not exist.
    """
    from peft import LoraConfig, get_peft_model

    alpha = options.alpha if options.alpha is not None else 2.0 * options.r
    targets = options.target_modules if isinstance(options.target_modules, str) else list(options.target_modules)
    _check_names(model, options)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT only divides it; a float is fine
        lora_dropout=options.dropout,
        target_modules=targets,
        modules_to_save=list(options.modules_to_save) or None,
        use_rslora=options.rslora,
        use_dora=options.dora,
        trainable_token_indices=new_token_ids or None,
    )
    return get_peft_model(model, config, autocast_adapter_dtype=dtype == torch.float32)


def continue_lora(model: nn.Module, path: Path, dtype: torch.dtype) -> Any:
    """Load an adapter to go on training it, with a frozen copy of it as adapter "reference".

    Raises:
        ModelError: PL306 when there is no adapter there, or it was trained on another base.
    """
    from peft import PeftModel

    if not (path / "adapter_config.json").is_file():
        raise ModelError("PL306", "there is no adapter", where=str(path), mend="give a folder with adapter_config.json")
    check_base(model, path)
    cast = dtype == torch.float32
    wrapped = PeftModel.from_pretrained(model, str(path), is_trainable=True, autocast_adapter_dtype=cast)
    trainable = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    wrapped.load_adapter(str(path), adapter_name="reference", is_trainable=False, autocast_adapter_dtype=cast)
    wrapped.set_adapter("default")
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(name in trainable)
    return wrapped


def save_adapter(model: Any, path: Path, base: str) -> None:
    """Write the trained adapter in PEFT's format, with the fingerprint of its base beside it."""
    model.save_pretrained(str(path), selected_adapters=["default"])
    (path / _BASE_FILE).write_text(json.dumps({"base_fingerprint": base}) + "\n", encoding="utf-8")


def check_base(model: nn.Module, path: Path) -> None:
    """Raise ModelError PL306 when the adapter names another base than `model`."""
    file = path / _BASE_FILE
    if not file.is_file():
        return
    wanted = json.loads(file.read_text(encoding="utf-8"))["base_fingerprint"]
    found = base_fingerprint(model)
    if wanted != found:
        raise ModelError(
            "PL306",
            f"the adapter was trained on another base model (its base {wanted[:12]}…, this one {found[:12]}…)",
            where=str(path),
            mend="load the base model that the adapter was trained on",
        )


def _check_names(model: nn.Module, options: LoraSection) -> None:
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if not list(module.children())}
    everything = [name for name, _ in model.named_modules()]
    wanted = () if isinstance(options.target_modules, str) else options.target_modules
    for field, given in (("lora.target_modules", wanted), ("lora.modules_to_save", options.modules_to_save)):
        missing = [w for w in given if not any(n == w or n.endswith(f".{w}") for n in everything)]
        if missing:
            raise ModelError(
                "PL306",
                f"the model has no module named {', '.join(missing)}",
                where=field,
                mend=f"choose among {', '.join(sorted(names))}",
            )
