"""Which engine a model gets."""

from __future__ import annotations

from typing import Any

from torch import nn

from plaudit.engines.base import RolloutEngine
from plaudit.engines.hf import HFEngine
from plaudit.engines.local.engine import LocalEngine
from plaudit.errors import EngineError, ModelError
from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel
from plaudit.models.probe import probe


def open_engine(
    model: nn.Module,
    tokenizer: Any,
    *,
    role: Role = "policy",
    cache_gib: float | None = None,
    max_rows: int | None = None,
) -> tuple[RolloutEngine, str]:
    """The local engine where the model runs on the packed path and generates what it is scored with, else
    transformers' ``generate``.

    Args:
        model: a causal language model with or without adapters, or a `ForestModel`, which has been probed already.
        max_rows: completions at the same time; None = 512, or 32 with transformers' generate.
        cache_gib: see `LocalEngine`.

    Returns:
        The engine, and a sentence for the log that says which and why.
    """
    if isinstance(model, ForestModel):
        forest = model
    else:
        forest = ForestModel(model)
        try:
            forest.set_path(probe(forest).path)
        except ModelError as error:
            forest.set_path("padded")
            return _generate(forest, tokenizer, max_rows, cache_gib, error.what)
    if forest.path == "padded":
        return _generate(forest, tokenizer, max_rows, cache_gib, "its attention cannot be replaced")
    why = ""
    for fast in (True, False):  # a product or a graph that goes wrong on this machine is no reason to give up the rest
        try:
            engine = LocalEngine(
                forest,
                tokenizer,
                role=role,
                cache_gib=cache_gib,
                max_rows=max_rows or 512,
                packing=fast,
                graphs=fast,
            )
            return engine, _described(engine, engine.verify())
        except EngineError as error:
            why = error.what
        except ModelError as error:
            why = error.what
            break
    return _generate(forest, tokenizer, max_rows, cache_gib, why)


def _described(engine: LocalEngine, difference: float) -> str:
    memory = engine.limits.budget_bytes / 2**30
    more = f"; {engine.described}" if engine.described else ""
    return f"local engine; largest difference to the scores {difference:.1g}, cache up to {memory:.2g} GiB{more}"


def _generate(
    forest: ForestModel, tokenizer: Any, max_rows: int | None, cache_gib: float | None, why: str
) -> tuple[RolloutEngine, str]:
    engine = HFEngine(
        forest.model,  # type: ignore[arg-type]
        tokenizer,
        batch_size=max_rows or 32,
        generation_context=forest.native,
    )
    idle = "" if cache_gib is None else "; cache_gib has no effect there"
    return engine, f"transformers' generate, because {why}{idle}"
