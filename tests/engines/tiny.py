"""A tiny Llama with a peaked distribution."""

from __future__ import annotations

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
