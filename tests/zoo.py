"""Tiny models of every supported family, and a reference that knows nothing of forests.

The reference runs the plain, right-padded `model(input_ids, attention_mask).logits`, a row per completion. It imports
the example types and nothing else of plaudit, so that a mistake in the packed path cannot hide in its own oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import transformers as tf
from torch import Tensor, nn

from plaudit.types import Completion, PromptGroup

torch.set_num_threads(1)  # matrices of 32 × 32: more threads only wait for each other, several times as long

VOCABULARY = 97
WINDOW = 7
"""Sliding windows are shorter than most test sequences, and shorter than some completions alone."""
ORIGINAL = 24
"""Original context of the longrope model: test sequences lie on both sides of it."""

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def _longrope() -> Any:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 6.0],
        "original_max_position_embeddings": ORIGINAL,
    }
    return tf.Phi3Config(**_SMALL, original_max_position_embeddings=ORIGINAL, rope_parameters=rope)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaConfig(**_SMALL),
    "qwen3": lambda: tf.Qwen3Config(**_SMALL, head_dim=8),
    "mistral": lambda: tf.MistralConfig(**_SMALL, head_dim=8, sliding_window=WINDOW),
    "gemma2": lambda: tf.Gemma2Config(
        **{**_SMALL, "tie_word_embeddings": True},
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=3.0,
    ),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **{**_SMALL, "num_hidden_layers": 4},
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3_longrope": _longrope,
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "granite": lambda: tf.GraniteConfig(
        **_SMALL, logits_scaling=3.0, attention_multiplier=0.4, embedding_multiplier=2.0, residual_multiplier=0.7
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **{**_SMALL, "intermediate_size": 32},
        head_dim=8,
        sliding_window=WINDOW,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            "truncate": False,
        },
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **_SMALL, head_dim=8, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, decoder_sparse_step=1
    ),
    "mamba": lambda: tf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8),
    "phi": lambda: tf.PhiConfig(**_SMALL, partial_rotary_factor=0.5),  # lm_head with bias
    "cohere": lambda: tf.CohereConfig(**_SMALL, logit_scale=0.25),
}

NAMES = tuple(CONFIGS)
PADDED_ONLY = frozenset({"mamba"})
SPREAD = 0.15
"""Standard deviation of the weights: scores of order one, so that a wrong attention pattern moves every log-prob."""


def build(name: str, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Any:
    """A randomly initialised model of a family, in training mode, with its own (not the forest's) attention."""
    torch.manual_seed(seed)
    config = CONFIGS[name]()
    # sdpa drops soft-capping, and transformers before 5.21 takes it for Gemma-2 unless told otherwise.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager" if capped else None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.ndim > 1 and not key.endswith("A_log"):
                p.copy_(torch.randn(p.shape, generator=generator) * SPREAD)
            elif key.endswith(("bias", "sinks")):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    model.to(dtype)
    model.train()
    return model


# -- groups -----------------------------------------------------------------------------------------------------------


class Maker:
    """Seeded random groups."""

    def __init__(self, seed: int = 0, vocabulary: int = VOCABULARY) -> None:
        self.rng = np.random.default_rng(seed)
        self.vocabulary = vocabulary

    def ids(self, n: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self.rng.integers(3, self.vocabulary, n).astype(np.int32)

    def completion(self, n: int, holes: Sequence[int] = (), **more: Any) -> Completion:
        mask = np.ones(n, dtype=np.bool_)
        mask[list(holes)] = False
        return Completion(self.ids(n), mask, **more)

    def group(
        self, prompt: int, lengths: Sequence[int], *, holes: Sequence[Sequence[int]] = (), prompt_targets: bool = False
    ) -> PromptGroup:
        completions = [self.completion(n, holes[k] if k < len(holes) else ()) for k, n in enumerate(lengths)]
        mask = self.rng.random(prompt) < 0.6 if prompt_targets else None
        return PromptGroup(self.ids(prompt), completions, prompt_mask=mask)


@dataclass(frozen=True, slots=True)
class Shape:
    """A case of the matrix."""

    groups: Callable[[], list[PromptGroup]]
    bos: int | None = None
    budget: int = 4096
    unit: Literal["completion", "pair", "group"] = "group"
    score_last: bool = False
    temperature: float = 1.0


def _brings_bos() -> list[PromptGroup]:
    make = Maker(8)
    group = make.group(0, [6, 4])
    group.completions[0].token_ids[0] = 1
    return [group, make.group(5, [3])]


SHAPES: dict[str, Shape] = {
    "one completion": Shape(lambda: [Maker(1).group(12, [9])]),
    "pairs": Shape(lambda: [m.group(9, [5, 11]) for m in [Maker(2)] for _ in range(3)], temperature=0.7),
    "ragged K": Shape(lambda: [Maker(3).group(17, [8, 11, 2, 20, 1]), Maker(4).group(3, [14, 1, 6])]),
    "multi-turn masks": Shape(
        lambda: [Maker(5).group(8, [12, 10], holes=[(0, 1, 5, 6, 11), (3, 4)]), Maker(6).group(6, [7], holes=[(6,)])]
    ),
    "nothing trained in one branch": Shape(lambda: [Maker(5).group(8, [3, 10], holes=[(0, 1, 2)])]),
    "empty prompt without BOS": Shape(lambda: [Maker(7).group(0, [6, 2, 1]), Maker(7).group(9, [4])]),
    "empty prompt with BOS": Shape(lambda: [Maker(7).group(0, [6, 2, 1]), Maker(7).group(9, [4])], bos=1),
    "completion brings BOS": Shape(_brings_bos, bos=1),
    "prompt and completion of one token": Shape(lambda: [Maker(9).group(1, [1, 9]), Maker(10).group(7, [1])]),
    "prompt targets": Shape(
        lambda: (
            [m.group(13, [6, 3], prompt_targets=True) for m in [Maker(11)] for _ in range(2)]
            + [Maker(12).group(1, [5], prompt_targets=True), Maker(13).group(6, [5])]
        ),
        temperature=1.3,
    ),
    "score_last": Shape(
        lambda: [Maker(14).group(8, [5, 9], holes=[(), (7, 8)]), Maker(15).group(0, [4])], score_last=True
    ),
    "split, prompts repeated": Shape(
        lambda: [Maker(16).group(10, [6, 9, 4, 12], prompt_targets=True), Maker(17).group(14, [5, 5, 5])],
        budget=30,
        unit="completion",
        temperature=0.8,
    ),
    "split in pairs": Shape(
        lambda: [Maker(18).group(10, [6, 9, 4, 12]), Maker(19).group(5, [5, 7])], budget=32, unit="pair"
    ),
    "both sides of the original context": Shape(
        # 24 is the last length of the first regime; 25 needs the filler position, because its last token is not packed.
        lambda: [Maker(20).group(10, [4, 14, 15, 30]), Maker(21).group(20, [3, 40]), Maker(22).group(3, [5])],
        budget=64,
        unit="completion",
    ),
    "the original context and BOS": Shape(
        # BOS makes the second completion one token too long for the first regime.
        lambda: [Maker(23).group(0, [23, 24, 25])],
        bos=1,
        unit="completion",
    ),
}


# -- the reference ----------------------------------------------------------------------------------------------------

Key = tuple[int, int]


@dataclass(slots=True)
class Reference:
    """What the plain forward says, by (group, completion)."""

    logprobs: dict[Key, Tensor] = field(default_factory=dict)
    entropy: dict[Key, Tensor] = field(default_factory=dict)
    log_sum_p2: dict[Key, Tensor] = field(default_factory=dict)
    values: dict[Key, Tensor] = field(default_factory=dict)
    last: dict[Key, Tensor] = field(default_factory=dict)
    prompts: dict[int, Tensor] = field(default_factory=dict)


def reference(
    model: nn.Module,
    groups: Sequence[PromptGroup],
    *,
    bos_id: int | None = None,
    temperature: float = 1.0,
    scalar_head: nn.Linear | None = None,
    together: Literal["all", "group", "completion"] = "all",
) -> Reference:
    """Scores by the plain padded forward.

    Args:
        model: any causal LM, with its own attention.
        scalar_head: a linear head on the last hidden states (values and last-token scores).
        together: which rows share a forward (only longrope can tell the difference).
    """
    rows: list[tuple[Key, Tensor, int]] = []
    for i, group in enumerate(groups):
        prompt = [int(t) for t in group.prompt_ids]
        if not prompt and bos_id is not None and all(int(c.token_ids[0]) != bos_id for c in group.completions):
            prompt = [bos_id]
        for k, completion in enumerate(group.completions):
            rows.append(((i, k), torch.tensor(prompt + [int(t) for t in completion.token_ids]), len(prompt)))
    batches: dict[object, list[tuple[Key, Tensor, int]]] = {}
    for row in rows:
        batches.setdefault({"all": 0, "group": row[0][0], "completion": row[0]}[together], []).append(row)
    found = Reference()
    for batch in batches.values():
        _score(model, groups, batch, found, temperature, scalar_head)
    return found


def _score(
    model: nn.Module,
    groups: Sequence[PromptGroup],
    batch: Sequence[tuple[Key, Tensor, int]],
    found: Reference,
    temperature: float,
    scalar_head: nn.Linear | None,
) -> None:
    ids = nn.utils.rnn.pad_sequence([r[1] for r in batch], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(r[1]) for r in batch], batch_first=True)
    output = model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=scalar_head is not None)
    for number, (key, row, start) in enumerate(batch):
        logp = torch.log_softmax(output.logits[number].float() / temperature, -1)
        group, completion = groups[key[0]], groups[key[0]].completions[key[1]]
        at = [start + int(t) for t in np.flatnonzero(completion.action_mask) if start + t > 0]
        before = torch.tensor(at, dtype=torch.long) - 1
        found.logprobs[key] = logp[before, row[at]]
        found.entropy[key] = -(logp[before].exp() * logp[before]).sum(-1)
        found.log_sum_p2[key] = (2 * logp[before]).exp().sum(-1).log()
        if key[1] == 0 and group.prompt_mask is not None:
            at = [int(t) for t in np.flatnonzero(group.prompt_mask) if t > 0]
            found.prompts[key[0]] = logp[torch.tensor(at, dtype=torch.long) - 1, row[at]]
        if scalar_head is not None:
            hidden = output.hidden_states[-1][number]
            found.values[key] = scalar_head(hidden[before]).squeeze(-1).float()
            found.last[key] = scalar_head(hidden[len(row) - 1]).squeeze(-1).float()
