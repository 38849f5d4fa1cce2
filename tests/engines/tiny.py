"""A tiny Llama with a peaked distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 40
END = 1


def tiny_llama(seed: int = 0, *, tied: bool = True, positions: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=END,
        initializer_range=0.3,  # a peaked distribution: mistakes in masks and positions show
    )
    return LlamaForCausalLM(config)


class Words:
    """A tokenizer that only decodes: token 7 is the word w7."""

    eos_token_id = 2
    pad_token_id = 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return " ".join(f"w{i}" for i in ids)
