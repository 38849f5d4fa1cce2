"""The parity probe: before a run, the whole path is compared with the model's own forward.

Two small groups are scored in two packings and held against `model(...).logits`, sequence by sequence: log-probs of a
language model, the score of a reward model. Fresh LoRA
matrices are zero, so an ignored adapter would pass; the probe therefore fills them with noise and puts them back.
Models with a second position regime (longrope) are also probed past their original context. A model that fails the
packed path takes the padded one, and the log says so; one that fails both is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.forest.attention import kernel_notes
from plaudit.forest.layout import Forest, Piece, build_forest, context_ids
from plaudit.methods.base import Role
from plaudit.models.forest_model import AttentionPath, ForestModel, causal_lm
from plaudit.models.heads import CLASSIFIER_HEAD
from plaudit.types import Completion, PromptGroup

_TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Allowed difference of a log-prob or score, in units of max(1, their spread). bf16 is widened to the noise that
the model's own forward shows between batch shapes."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configurations call the number of experts that a router chooses from."""
_ROUTED_SHARE = 0.75
"""Share of the tokens that is judged where a router chooses experts, in half precision: the same sums in another order
send some tokens to another expert, and the error of these says nothing. A wrong layout shows in most of the tokens."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe found."""

    path: AttentionPath
    error: float
    """largest difference of a log-prob on the chosen path, in nats; or of a score. Of a mixture of experts in half
    precision, the largest one of the three quarters of the tokens that differ least"""
    tolerance: float
    notes: tuple[str, ...]
    unit: str = "nats"
    """of `error`, in words: nats, or score units"""


def probe_groups(vocabulary: int, long_prompt: int = 0) -> list[PromptGroup]:
    """Two groups of random tokens; the second one is lengthened for models with a second position regime."""
    rng = np.random.default_rng(20230517)

    def ids(n: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return rng.integers(0, vocabulary, n).astype(np.int32)

    def completion(n: int, holes: bool = False) -> Completion:
        mask = np.ones(n, dtype=np.bool_)
        if holes:
            mask[2:4] = False
        return Completion(ids(n), mask)

    first = PromptGroup(ids(11), [completion(9), completion(6, holes=True)])
    second = PromptGroup(ids(5 + long_prompt), [completion(7), completion(3), completion(12)])
    return [first, second]


@contextmanager
def perturbed_adapters(model: nn.Module) -> Iterator[None]:
    """Move zero-initialised adapter matrices, and an adapter's copy of a reward head, for a moment: seeded noise."""
    moved = ("lora_B", "lora_embedding_B", f"{CLASSIFIER_HEAD}.modules_to_save")
    chosen = [p for name, p in model.named_parameters() if any(part in name for part in moved)]
    kept = [p.detach().clone() for p in chosen]
    generator = torch.Generator().manual_seed(7)
    try:
        with torch.no_grad():
            for p in chosen:
                noise = torch.randn(p.shape, generator=generator) * 0.05
                p.add_(noise.to(device=p.device, dtype=p.dtype))
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(chosen, kept, strict=True):
                p.copy_(old)


Found = dict[tuple[int, int], Tensor]
"""(group, completion) → [n] log-probs of the trained tokens, or [1] the score"""


def _rows(model: ForestModel, groups: list[PromptGroup]) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """Key, token ids [L] and the places of the trained tokens [n] of every sequence."""
    for i, group in enumerate(groups):
        context = context_ids(group, model.bos_id)
        for k, completion in enumerate(group.completions):
            ids = np.concatenate([context, completion.token_ids]).astype(np.int64)
            at = np.flatnonzero(completion.action_mask) + len(context)
            yield (i, k), torch.from_numpy(ids).to(model.device), torch.from_numpy(at).to(model.device)


@torch.no_grad()
def native_logprobs(model: ForestModel, groups: list[PromptGroup], tail: int = 0) -> Found:
    """Log-probs of every trained token by the model's own forward, one sequence at a time.

    `tail` tokens are appended to each sequence: they cannot change the result of a causal model, but they change the
    shapes its kernels see, so the difference is the model's own rounding noise.
    """
    found: Found = {}
    with model.native() as inner:
        for key, ids, at in _rows(model, groups):
            logits = inner(input_ids=torch.cat([ids, ids[:1].repeat(tail)])[None]).logits[0]
            found[key] = torch.log_softmax(logits[at - 1].float(), -1).gather(-1, ids[at, None]).squeeze(-1)
    return found


@torch.no_grad()
def native_scores(model: ForestModel, groups: list[PromptGroup], tail: int = 0) -> Found:
    """Scores by a reward model's own forward, one sequence at a time. The `tail` is padding here, with the last id of
    the vocabulary, which the groups must not contain."""
    text = causal_lm(model.model).config.get_text_config()
    padding, kept = int(text.vocab_size) - 1, text.pad_token_id
    found: Found = {}
    try:
        text.pad_token_id = padding
        with model.native() as inner:
            for key, ids, _ in _rows(model, groups):
                row = torch.cat([ids, ids.new_full((tail,), padding)])
                found[key] = inner(input_ids=row[None]).logits[0].float()
    finally:
        text.pad_token_id = kept
    return found


@torch.no_grad()
def _path_results(model: ForestModel, role: Role, groups: list[PromptGroup], packing: list[list[int]]) -> Found:
    found: Found = {}
    for members in packing:
        pieces = [Piece(groups[i], i, tuple(range(len(groups[i].completions)))) for i in members]
        forest = _forest(model, pieces)
        if model.is_reward:
            scores = model(forest, role, frozenset({"last"})).last_C.split(1)
        else:
            scores = model(forest, role).logprobs_N.split(forest.lengths_C.tolist())
        found.update(zip(forest.keys, scores, strict=True))
    return found


def _forest(model: ForestModel, pieces: list[Piece]) -> Forest:
    floor = model.regime.floor(model.position_regime(pieces[0]))
    return build_forest(
        pieces, bos_id=model.bos_id, score_last=model.is_reward, position_floor=floor, device=model.device
    )


def _largest_difference(a: Found, b: Found, share: float = 1.0) -> float:
    """Of the `share` of the tokens that differ least; not a number or infinite anywhere counts as infinite."""
    apart = torch.cat([(a[key] - b[key]).abs() for key in a]).float().sort().values
    if not bool(apart.isfinite().all()):
        return float("inf")
    return float(apart[math.ceil(share * len(apart)) - 1])


def _judged_share(model: ForestModel) -> float:
    config = causal_lm(model.model).config.get_text_config()
    experts = [getattr(config, name, None) for name in _EXPERTS]
    routed = any(n > 1 for n in experts if isinstance(n, int))
    return _ROUTED_SHARE if routed and model.dtype != torch.float32 else 1.0


def _packings(model: ForestModel, groups: list[PromptGroup]) -> list[list[list[int]]]:
    regimes = {model.position_regime(Piece(g, i, tuple(range(len(g.completions))))) for i, g in enumerate(groups)}
    return [[[0, 1]], [[1], [0]]] if len(regimes) == 1 else [[[0], [1]]]


def probe(model: ForestModel, wanted: AttentionPath | None = None) -> ProbeResult:
    """Choose the path on which the model equals its own forward.

    Args:
        model: any device and precision; adapters and heads are restored afterwards.
        wanted: insist on one path; None tries the forest first.

    Raises:
        ModelError: PL302 when no allowed path agrees with the model's own forward.
    """
    inner = causal_lm(model.model)
    native, unit = (native_scores, "score units") if model.is_reward else (native_logprobs, "nats")
    role: Role = "reward" if model.is_reward else "policy"
    # The last id stays free, for padding.
    vocabulary = int(inner.config.get_text_config().vocab_size) - (1 if model.is_reward else 0)
    rounds = [probe_groups(vocabulary)]
    if model.regime.original is not None and not model.regime.stateful:
        rounds.append(probe_groups(vocabulary, long_prompt=model.regime.original))
    paths: list[AttentionPath] = [wanted] if wanted else ["forest", "padded"]
    notes: list[str] = []
    share = _judged_share(model)
    training = model.training
    model.eval()
    try:
        with model.role(role), perturbed_adapters(model.model):
            reference = [native(model, groups) for groups in rounds]
            spread = max(1.0, float(torch.cat(list(reference[0].values())).float().std()))
            tolerance = _TOLERANCE[model.dtype] * spread
            if model.dtype != torch.float32:
                noise = _largest_difference(reference[0], native(model, rounds[0], tail=13), share)
                tolerance = max(tolerance, 4 * noise)
            for path in paths:
                if path == "forest" and not inner._supports_attention_backend:
                    notes.append(f"{type(inner).__name__} does not let its attention be replaced")
                    continue
                model.set_path(path)
                try:
                    worst = max(
                        _largest_difference(reference[i], _path_results(model, role, groups, packing), share)
                        for i, groups in enumerate(rounds)
                        for packing in _packings(model, groups)
                    )
                except torch.OutOfMemoryError:
                    raise  # says nothing about the path
                except (ModelError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                    notes.append(f"the {path} path does not run: {error}")
                    continue
                if worst <= tolerance:
                    if path == "forest":
                        notes += kernel_notes()
                    return ProbeResult(path, worst, tolerance, tuple(notes), unit)
                far = f"{worst:.2g} {unit} (limit {tolerance:.2g})"
                notes.append(f"the {path} path differs from the model's own forward by {far}")
    finally:
        model.train(training)
    raise ModelError(
        "PL302",
        f"{type(inner).__name__} is not scored as its own forward scores: " + "; ".join(notes),
        mend="do not train this model with plaudit; please report it with its config",
        where=type(inner).__name__,
    )
