"""Made-up preference data and randomly initialised models, identical for every contender and for every machine.

The rows hold words of a private word-level vocabulary (one word = one token), so that the length of every prompt and
completion in tokens is exactly the drawn one. Nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

EOS = "</s>"
UNKNOWN = "<unk>"
PAD = "<pad>"
SPECIAL_TOKENS = (PAD, UNKNOWN, EOS)
FORMAT = 2
"""Of a workload's folder; raised when what is written changes, so that an old folder is not used."""


@dataclass(frozen=True)
class Architecture:
    """A Qwen3 or Llama model (tied embeddings, grouped-query attention, head size 64)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    family: Literal["qwen3", "llama"] = "qwen3"
    vocabulary: int = 16384
    """The usual one of this size; a workload may have another."""

    def linear_shapes(self) -> dict[tuple[int, int], int]:
        """(inputs, outputs) of the linear layers of the trunk → how many of them the model has."""
        query, key = 64 * self.heads, 64 * self.kv_heads
        shapes = [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden)]
        shapes += [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return {shape: self.layers * shapes.count(shape) for shape in shapes}

    def parameters(self, vocabulary: int) -> int:
        """Number of weights, norms left out."""
        return vocabulary * self.hidden + sum(a * b * n for (a, b), n in self.linear_shapes().items())


ARCHITECTURES = {
    # For checks of the benchmarks themselves.
    "tiny": Architecture(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, vocabulary=256),
    "10m": Architecture(hidden=256, layers=6, heads=4, kv_heads=2, intermediate=768),
    "35m": Architecture(hidden=512, layers=8, heads=8, kv_heads=4, intermediate=1536),
    # The shape of SmolLM2-135M.
    "135m": Architecture(
        hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, family="llama", vocabulary=49152
    ),
}

POSITIONS = 8192
"""Longest sequence of the models: a prompt with another prompt's answer (KTO) is longer than any row."""


@dataclass(frozen=True)
class PreferenceWorkload:
    """What both sides train on. All lengths are in tokens; a completion's length counts its end token.

    Lengths are lognormal with the given means and a common sigma (of the logarithm); chosen and rejected are drawn
    independently. A row with prompt + completion over `max_length` is drawn again, so no contender truncates anything.
    """

    size: str = "10m"
    rows: int = 64
    prompt_mean: float = 200.0
    completion_mean: float = 150.0
    sigma: float = 0.6
    max_length: int = 1024
    vocabulary: int = 16384
    seed: int = 1

    @property
    def architecture(self) -> Architecture:
        """The model's shape."""
        return ARCHITECTURES[self.size]

    @property
    def name(self) -> str:
        """Folder name: the same for equal workloads only."""
        described = {**dataclasses.asdict(self), "format": FORMAT}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return f"preference-{self.size}-{digest[:12]}"


LENGTHS: dict[str, dict[str, float]] = {
    "mixed": {"prompt_mean": 200.0, "completion_mean": 150.0, "max_length": 1024},
    "long-prompt": {"prompt_mean": 1000.0, "completion_mean": 100.0, "max_length": 3072},
    "short-prompt": {"prompt_mean": 30.0, "completion_mean": 300.0, "max_length": 1536},
}
"""Named length distributions of `PreferenceWorkload`; sigma is 0.6 in all."""


def named_workload(name: str, size: str, rows: int, seed: int = 1) -> PreferenceWorkload:
    """A workload of `LENGTHS` for a model of `ARCHITECTURES`, with the model's usual vocabulary."""
    lengths = LENGTHS[name]
    return PreferenceWorkload(
        size=size,
        rows=rows,
        prompt_mean=lengths["prompt_mean"],
        completion_mean=lengths["completion_mean"],
        max_length=int(lengths["max_length"]),
        vocabulary=ARCHITECTURES[size].vocabulary,
        seed=seed,
    )


@dataclass(frozen=True)
class PreferenceRow:
    """One pair, as text and with its lengths in tokens (end token included in the completions)."""

    prompt: str
    chosen: str
    rejected: str
    prompt_tokens: int
    chosen_tokens: int
    rejected_tokens: int

    @property
    def unique_tokens(self) -> int:
        """Tokens that have to be computed once."""
        return self.prompt_tokens + self.chosen_tokens + self.rejected_tokens


@dataclass(frozen=True)
class PromptWorkload:
    """Prompts that both sides answer, of lognormal lengths as in `PreferenceWorkload`; with sigma = 0 all are equal.

    A prompt over `max_length` is drawn again. The reward of the answers is `even_words`.
    """

    size: str = "10m"
    rows: int = 16
    prompt_mean: float = 200.0
    sigma: float = 0.6
    max_length: int = 896
    vocabulary: int = 16384
    seed: int = 1

    @property
    def architecture(self) -> Architecture:
        """The model's shape."""
        return ARCHITECTURES[self.size]

    @property
    def name(self) -> str:
        """Folder name: the same for equal workloads only."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()
        return f"prompts-{self.size}-{digest[:12]}"


def draw_length(rng: random.Random, mean: float, sigma: float) -> int:
    """One lognormal length with the given arithmetic mean, at least 2."""
    return max(2, round(rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)))


def draw_words(rng: random.Random, count: int, vocabulary: int, lower_half: float) -> list[str]:
    """`count` words, each from the lower half of the vocabulary with the given probability."""
    words = vocabulary - len(SPECIAL_TOKENS)
    half = words // 2
    return [
        f"w{rng.randrange(half) if rng.random() < lower_half else rng.randrange(half, words)}" for _ in range(count)
    ]


def preference_rows(workload: PreferenceWorkload) -> Iterator[PreferenceRow]:
    """The rows of a workload. Chosen answers prefer the lower half of the vocabulary, so that there is a signal to
    learn and the loss of the second step already depends on the first gradient."""
    rng = random.Random(workload.seed)
    vocabulary = workload.vocabulary
    for _ in range(workload.rows):
        while True:
            prompt = draw_length(rng, workload.prompt_mean, workload.sigma)
            chosen = draw_length(rng, workload.completion_mean, workload.sigma)
            rejected = draw_length(rng, workload.completion_mean, workload.sigma)
            if prompt + max(chosen, rejected) <= workload.max_length:
                break
        yield PreferenceRow(
            prompt=" ".join(draw_words(rng, prompt, vocabulary, 0.5)),
            # The leading space keeps prompt and completion apart when they are concatenated.
            chosen=" " + " ".join(draw_words(rng, chosen - 1, vocabulary, 0.75)),
            rejected=" " + " ".join(draw_words(rng, rejected - 1, vocabulary, 0.25)),
            prompt_tokens=prompt,
            chosen_tokens=chosen,
            rejected_tokens=rejected,
        )


def prompt_rows(workload: PromptWorkload) -> Iterator[list[str]]:
    """The words of every prompt of a workload."""
    rng = random.Random(workload.seed)
    for _ in range(workload.rows):
        while (length := draw_length(rng, workload.prompt_mean, workload.sigma)) > workload.max_length:
            pass
        yield draw_words(rng, length, workload.vocabulary, 0.5)


def even_words(completions: list[str], **columns: Any) -> list[float]:
    """A reward that costs next to nothing and differs between answers: the share of words with an even number."""
    return [sum(word[-1] in "02468" for word in text.split()) / max(len(text.split()), 1) for text in completions]


def write_rows(rows: list[PreferenceRow], path: Path) -> str:
    """Write JSONL with the columns prompt, chosen, rejected; return the file's SHA-256."""
    return write_jsonl([{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in rows], path)


def write_jsonl(rows: list[dict[str, str]], path: Path) -> str:
    """Write JSONL; return the file's SHA-256."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def build_tokenizer(vocabulary: int) -> Any:
    """A word-level `PreTrainedTokenizerFast`: one whitespace-separated word, one token; no BOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = [f"w{i}" for i in range(vocabulary - len(SPECIAL_TOKENS))]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate([*SPECIAL_TOKENS, *words])}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrap: Any = PreTrainedTokenizerFast  # untyped upstream
    return wrap(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=EOS)


def write_model(workload: PreferenceWorkload | PromptWorkload, folder: Path) -> None:
    """A seeded model in fp32 with its tokenizer, in the Hugging Face format."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    tokenizer = build_tokenizer(workload.vocabulary)
    shape = workload.architecture
    options: dict[str, Any] = {
        "vocab_size": workload.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": 64,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(workload.seed)
    model: Any = (
        LlamaForCausalLM(LlamaConfig(**options))
        if shape.family == "llama"
        else Qwen3ForCausalLM(Qwen3Config(**options))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_reward_model(source: Path, folder: Path, seed: int) -> None:
    """The model of `source` as a sequence classifier with one label, whose head is seeded. Written once."""
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    automatic: Any = AutoModelForSequenceClassification
    automatic.from_pretrained(source, num_labels=1, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def materialise(workload: PreferenceWorkload | PromptWorkload, parent: Path) -> Path:
    """Write the workload once to `parent/<name>/`: rows.jsonl, model/, workload.json. Returns the folder."""
    folder = parent / workload.name
    manifest = folder / "workload.json"
    if manifest.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(workload, PromptWorkload):
        prompts = list(prompt_rows(workload))
        counts: dict[str, Any] = {"unique_tokens": [len(words) for words in prompts]}
        digest = write_jsonl([{"prompt": " ".join(words)} for words in prompts], folder / "rows.jsonl")
    else:
        rows = list(preference_rows(workload))
        lengths = [(row.prompt_tokens, row.chosen_tokens, row.rejected_tokens) for row in rows]
        counts = {"unique_tokens": [row.unique_tokens for row in rows], "lengths": lengths}
        digest = write_rows(rows, folder / "rows.jsonl")
    write_model(workload, folder / "model")
    content = {
        "workload": dataclasses.asdict(workload),
        "rows_sha256": digest,
        "parameters": workload.architecture.parameters(workload.vocabulary),
        **counts,
    }
    # Written last: its presence says that the folder is complete.
    manifest.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder
