"""Models and work of the benchmark on a GPU, and what they cost: shapes, floating-point operations, peaks of cards.

Models are built from their configuration with random weights and in the GPU's memory; nothing is downloaded or written
to a disk but the rows and a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import PreferenceRow, PreferenceWorkload, build_tokenizer, preference_rows, write_jsonl


@dataclass(frozen=True)
class Shape:
    """A Qwen3 model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    tied: bool
    vocabulary: int = 151_936

    @property
    def linear(self) -> int:
        """Weights of the linear layers of the trunk."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All weights, norms left out."""
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)


SHAPES = {
    "tiny": Shape(64, 2, 4, 2, 16, 128, True, 512),  # for trying the script
    "0.5b": Shape(896, 24, 14, 2, 64, 4864, True),
    "1.7b": Shape(2048, 28, 16, 8, 128, 6144, True),
    "8b": Shape(4096, 36, 32, 8, 128, 12_288, False),
}

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
}
"""Dense bf16 with fp32 accumulation, from the manufacturer's data sheets, by a part of the card's name; first match."""


def peak_tflops(name: str) -> float | None:
    """The card's peak, or None where it is not known (`--peak-tflops` says it)."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if all(p in name for p in part.split())), None)


def model_flops(shape: Shape, rows: Sequence[PreferenceRow], method: str, lora: bool) -> float:
    """Floating-point operations that a training step on these rows needs at least, a prompt counted once.

    Forward, with T unique tokens, N targets and S pairs of a token and one that it sees:

        2 T · (weights of the linear layers) + 2 N · vocabulary · hidden + 4 S · layers · heads · head size

    Backward is twice that; with LoRA the linear layers and the head have no gradient of their own weights, so theirs is
    once (the adapters themselves are left out). Nothing is recomputed, and the reference forward is not part of it:
    both sides have it from a cache.
    """
    tokens = targets = pairs = 0
    for row in rows:
        prompt = row.prompt_tokens
        completions = [row.chosen_tokens] if method == "sft" else [row.chosen_tokens, row.rejected_tokens]
        tokens += prompt + sum(completions)
        targets += sum(completions)
        pairs += prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in completions)
    dense = 2.0 * tokens * shape.linear + 2.0 * targets * shape.vocabulary * shape.hidden
    attention = 4.0 * pairs * shape.layers * shape.heads * shape.head_size
    return dense * (2 if lora else 3) + attention * 3


def unique_tokens(rows: Sequence[PreferenceRow], method: str) -> int:
    """Tokens that have to be computed once."""
    return sum(r.prompt_tokens + r.chosen_tokens + (0 if method == "sft" else r.rejected_tokens) for r in rows)


def write_work(folder: Path, shape: Shape, rows: int, *, small: bool, seed: int = 1) -> list[PreferenceRow]:
    """Rows for both methods (`dpo.jsonl`, `sft.jsonl`) and a tokenizer, in `folder`; returns the rows."""
    lengths = {"prompt_mean": 20.0, "completion_mean": 15.0, "max_length": 128}
    if not small:
        lengths = {"prompt_mean": 512.0, "completion_mean": 384.0, "max_length": 2048}
    drawn = list(preference_rows(PreferenceWorkload(rows=rows, vocabulary=shape.vocabulary, seed=seed, **lengths)))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl([{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in drawn], folder / "dpo.jsonl")
    write_jsonl([{"prompt": r.prompt, "completion": r.chosen} for r in drawn], folder / "sft.jsonl")
    build_tokenizer(shape.vocabulary).save_pretrained(folder / "tokenizer")
    (folder / "shape.json").write_text(json.dumps(shape.__dict__), encoding="utf-8")
    return drawn


def build_model(folder: str, device: str, weights: str, attention: str | None = None, seed: int = 1) -> Any:
    """The seeded model of a folder of `write_work`, on the device. Drawn in bf16 whatever `weights` (bfloat16 or
    float32) says, so that both begin with the same numbers."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Shape(**json.loads((Path(folder) / "shape.json").read_text(encoding="utf-8")))
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.intermediate,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    if attention is not None:
        config._attn_implementation = attention
    torch.manual_seed(seed)
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model: Any = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(standard)
    return model.to(device=device, dtype=getattr(torch, weights))
