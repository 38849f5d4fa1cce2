"""The trained model for use elsewhere: in memory and on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from plaudit.models.adapters import save_adapter
from plaudit.models.forest_model import ForestModel, causal_lm


def usable_model(policy: ForestModel) -> nn.Module:
    """The model as its own library knows it, with its own attention and in evaluation mode."""
    policy.set_path("padded")
    return policy.model.eval()


def save_model(policy: ForestModel, tokenizer: Any, folder: Path, base: str) -> None:
    """Write the policy for use elsewhere: an adapter in PEFT's format, or a full model, with its tokenizer."""
    hidden = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    if policy.has_adapters:
        save_adapter(policy.model, hidden, base)
    else:
        with policy.native():
            causal_lm(policy.model).save_pretrained(str(hidden))
    tokenizer.save_pretrained(str(hidden))
    shutil.rmtree(folder, ignore_errors=True)
    hidden.rename(folder)
