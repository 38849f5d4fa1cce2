"""Merge an adapter into its base, and prove on a probe that the merged model computes the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import ConfigError, ModelError
from plaudit.inference.locate import Located, load_located, locate
from plaudit.train.export import ADAPTER_FOLDER

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-3
"""Largest allowed difference of a logit in fp32, as a share of the largest logit: merging only reorders sums."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What `merge` wrote.

    Attributes:
        folder: the model folder.
        largest_difference: largest difference of a logit before and after merging on the probe, in fp32.
        notes: what was done, in sentences.
    """

    folder: Path
    largest_difference: float
    notes: list[str] = field(default_factory=list)


def merge_adapter(source: str | Path, output: Path, base: str | None, precision: str) -> Merged:
    """Write the merged model and its tokenizer to `output`.

    Raises:
        ConfigError: PL102, `output` is in use or an option is wrong.
        ModelError: PL301 or PL303 from loading; PL306, there is no adapter, or merging changed what is computed.
    """
    found = locate(source, base=base, precision=precision)
    if found.adapter is None and (Path(found.config.path) / ADAPTER_FOLDER).is_dir():
        raise ModelError(
            "PL306",
            "the adapter is merged already: a reward model's run keeps the merged model, and the adapter beside it",
            where=f"{found.config.path}/{ADAPTER_FOLDER}",
            mend=f"use {found.config.path} as it is",
        )
    if found.adapter is None:
        raise ModelError(
            "PL306", "there is no adapter to merge", where=str(source), mend="a model trained in full is used as it is"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError("PL102", "the output folder is not empty", where=str(output), mend="name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the output folder cannot be made: {error.strerror}",
            where=str(output),
            mend="name another folder",
        ) from error
    # The sum base + adapter is formed in fp32 and rounded once.
    exact = Located(found.config.model_copy(update={"precision": "fp32"}), found.adapter)
    loaded = load_located(exact)
    probe = _probe_ids(loaded.model)
    before = _logits(loaded.model, probe)
    merged: Any = loaded.model.merge_and_unload()  # type: ignore[operator]
    difference = float((_logits(merged, probe) - before).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(before.abs().max())):
        raise ModelError(
            "PL306",
            f"the merged model computes something else: a logit differs by {difference:.2g}",
            where=str(found.adapter),
            mend="use the adapter as it is, and report this",
        )
    dtype = _written_dtype(found, precision)
    merged.to(dtype)
    merged.config.dtype = dtype
    merged.save_pretrained(str(output))
    loaded.tokenizer.save_pretrained(str(output))
    name = str(dtype).removeprefix("torch.")
    notes = [f"merged {found.adapter} into {found.config.path}: {output} ({name}; logits differ by {difference:.1e})"]
    return Merged(output, difference, notes)


def _written_dtype(found: Located, precision: str) -> torch.dtype:
    import torch
    from transformers import AutoConfig

    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    if found.config.path.endswith(".gguf"):
        from plaudit.models.gguf import convert_gguf

        config = json.loads((convert_gguf(Path(found.config.path)) / "config.json").read_text(encoding="utf-8"))
        named = config.get("dtype") or config.get("torch_dtype")
    else:
        base = AutoConfig.from_pretrained(
            found.config.path, revision=found.config.revision, trust_remote_code=found.config.trust_remote_code
        )
        named = base.dtype
    return named if isinstance(named, torch.dtype) else getattr(torch, named or "float32")


def _probe_ids(model: Any) -> torch.Tensor:
    import torch

    size = int(model.get_input_embeddings().weight.shape[0])
    return (torch.arange(16, device=model.device) * 7919 % size)[None]


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits
