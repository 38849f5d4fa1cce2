"""New tokens with adapters: PEFT wraps the embedding then, and all that lies between rows and answers meets that."""

from __future__ import annotations

import json

import pytest

from plaudit import api
from plaudit.engines.hf import HFEngine
from tests.train import runs

NEW = ["<ja>", "<nein>"]
ADAPTER = {"lora": {"r": 4}, "model.added_tokens": NEW}


@pytest.mark.parametrize("method", ["dpo", "grpo", "reward"])
def test_a_run_learns_them_and_is_used(method, options):
    result = runs.train_here(method, options(method, **ADAPTER, **{"train.max_steps": 2, "eval.every": 2}))
    assert result.steps == 2
    if method == "reward":  # saved as a whole model
        return
    saved = json.loads((result.run_dir / "model" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["trainable_token_indices"]
    [row] = api.generate(result.run_dir, prompts=["thing?"], max_new_tokens=4, seed=1)
    assert row["tokens"] > 0


def test_transformers_engine_counts_them(options):
    result = runs.train_here("sft", options("sft", **ADAPTER, **{"train.max_steps": 1}))
    rows = len(result.tokenizer)
    assert HFEngine(result.model, result.tokenizer).vocabulary == rows
