"""Models that are loaded by several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import PreTrainedModel

from plaudit.config.schema import ModelConfig
from plaudit.models.load import load_model


def test_threads_that_load_leave_no_patch_behind(tiny_model_dir: Path) -> None:
    """transformers replaces `tie_weights` of all models while it loads one."""
    original = PreTrainedModel.tie_weights
    config = ModelConfig(path=str(tiny_model_dir), precision="fp32")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_model(config), range(12)))
    assert PreTrainedModel.tie_weights is original
    assert all(type(f.model) is type(found[0].model) for f in found)
