"""How the tiny reward models of these tests are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from plaudit.config.schema import LoraSection, ModelConfig
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import load_model
from plaudit.models.origin import origin_of
from plaudit.train.export import save_model


def write_foreign(folder: Path, tiny: Path, *, seed: int = 1, chat: bool = True, **config: Any) -> Path:
    """A classifier as transformers writes it, with a random head."""
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    if not chat:
        tokenizer.chat_template = None
    model: Any = AutoModelForSequenceClassification.from_pretrained(tiny, **{"num_labels": 1, **config})
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@torch.no_grad()
def write_own(
    folder: Path, tiny: Path, *, seed: int = 0, noise: float = 0.05, lora: bool = False, head: float = 0.0
) -> Path:
    """A model as `plaudit reward` saves it, "trained" by seeded noise.

    Args:
        noise: of what is trained; 0 leaves the start.
        head: added to the head before anything else: another start of the head.
    """
    options = LoraSection(r=4) if lora else None
    loaded = load_model(ModelConfig(path=str(tiny), precision="fp32"), options, task="reward")
    for name, p in loaded.model.named_parameters():
        if "score" in name:
            p.add_(head)
    origin = origin_of(loaded.model)
    generator = torch.Generator().manual_seed(seed)
    for p in loaded.model.parameters():
        if p.requires_grad:
            p.add_(torch.randn(p.shape, generator=generator) * noise)
    model = ForestModel(loaded.model, roles=loaded.roles, bos_id=loaded.tokenizer.bos_token_id)
    save_model(model, loaded.tokenizer, folder, origin)
    return folder
