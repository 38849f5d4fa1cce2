"""A tiny model and a tokenizer made here: nothing is downloaded."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.engines.tiny import END, VOCAB, tiny_llama


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"<s>": 0, "</s>": END} | {f"w{i}": i for i in range(2, VOCAB)}
    tokens = Tokenizer(WordLevel(vocab, unk_token="w2"))
    tokens.pre_tokenizer = WhitespaceSplit()
    tokens.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>")
