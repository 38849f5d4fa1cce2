"""What the three steps are trained on, and the model that they begin with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from signs import WORDS, demonstration, gold_reward, preference_probability, prompts

CLEAN, NOISY = 3200, 6400
"""Demonstrations: right ones first. From noisy ones a new model needs long to find out that answers copy the prompt."""
ANSWERS = 16
"""sampled answers to each prompt, which are compared two by two"""
PAD, UNKNOWN, END = "<pad>", "<unk>", "</s>"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_data(folder: Path) -> None:
    """Demonstrations and prompts, for training and held out."""
    training, held_out = prompts()
    rng = random.Random(1)
    lessons = [(1.0, 0.0)] * CLEAN + [()] * NOISY
    asked = ((rng.choice(training), how) for how in lessons)
    shown = ({"prompt": p, "completion": f" {demonstration(p, rng, *how)}"} for p, how in asked)
    write_rows(folder / "demonstrations.jsonl", shown)
    write_rows(folder / "prompts.jsonl", ({"prompt": p} for p in training))
    write_rows(folder / "held_out_prompts.jsonl", ({"prompt": p} for p in held_out))


def compared(answers: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, str]]:
    """Preferences of noisy annotators on the answers to each prompt, two by two: the best with
    the worst, and so on; those with one gold reward are left out.

    Args:
        answers: rows of `plaudit generate`.
    """
    rng = random.Random(seed)
    by_prompt: dict[str, list[tuple[str, int]]] = {}
    for row in answers:
        reward = gold_reward(row["prompt"], row["completion"], row["finish_reason"] == "stop")
        if row["completion"].strip():
            by_prompt.setdefault(row["prompt"], []).append((row["completion"].strip(), reward))
    pairs = []
    for prompt, judged in by_prompt.items():
        judged.sort(key=lambda answer: -answer[1])
        half = len(judged) // 2
        for (first, one), (second, other) in zip(judged[:half], judged[::-1][:half], strict=True):
            if one == other:
                continue
            said = rng.random() < preference_probability(one - other)
            chosen, rejected = (first, second) if said else (second, first)
            pairs.append({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"})
    return pairs


def write_untaught(folder: Path) -> None:
    """A Llama of 85,000 random weights to which one word is one token."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({word: i for i, word in enumerate((PAD, UNKNOWN, END, *WORDS))}, unk_token=UNKNOWN))
    core.pre_tokenizer = WhitespaceSplit()
    wrap: Any = PreTrainedTokenizerFast  # untyped upstream
    tokenizer = wrap(tokenizer_object=core, pad_token=PAD, unk_token=UNKNOWN, eos_token=END)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        initializer_range=0.15,  # from smaller weights it takes far longer
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
