"""Peak memory of forward and backward per unique token: many branches on one prompt against flat data.

`python -m tests.forest.memory_probe` prints {case: {tokens, unique_tokens, peak_bytes}} as JSON.
"""

from __future__ import annotations

import json
import sys

import torch
import transformers as tf
from torch.profiler import ProfilerActivity, profile

from plaudit.forest.layout import Piece, build_forest
from plaudit.models.forest_model import ForestModel
from plaudit.types import PromptGroup
from tests.zoo import Maker


def model(window: int | None = None) -> ForestModel:
    """Wide enough that activations, not Python objects, are the memory; no vocabulary to speak of."""
    torch.manual_seed(0)
    config = tf.MistralConfig(
        sliding_window=window,
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    return ForestModel(tf.AutoModelForCausalLM.from_config(config)).train()


def peak_bytes(scorer: ForestModel, groups: list[PromptGroup]) -> dict[str, int]:
    """Largest sum of live allocations above the start, by the allocator's events."""
    forest = build_forest([Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(groups)], bos_id=None)
    for p in scorer.parameters():
        p.grad = torch.zeros_like(p)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded, scorer.role("policy"):
        scorer(forest).logprobs_N.sum().backward()
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    unique = sum(g.unique_tokens for g in groups)
    return {"tokens": forest.num_tokens, "unique_tokens": unique, "peak_bytes": peak}


def main() -> None:
    torch.set_num_threads(1)
    make = Maker(0)
    flat, branches = [make.group(64, [64]) for _ in range(40)], [make.group(1024, [32] * 128)]
    peak_bytes(model(), [make.group(8, [8])])  # what is allocated once per process
    found = {
        "flat": peak_bytes(model(), flat),
        "branches": peak_bytes(model(), branches),
        "branches, window": peak_bytes(model(window=300), branches),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
