"""The two sides of the exactness matrix and the distance between them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plaudit.forest.layout import Forest, Piece, build_forest
from plaudit.forest.pack import pack, split_group
from plaudit.methods.base import Role, Scores, Statistic
from plaudit.models.forest_model import ForestModel
from plaudit.types import PromptGroup
from tests.zoo import Reference, Shape, reference

TOLERANCE = 1e-5
FLOOR = 1e-4
"""A parameter's gradient is compared relative to its own largest entry, but to no less than this share of the model's
largest: some true gradients are zero (a key bias does not move a softmax) and consist of rounding alone."""

Grads = dict[str, Tensor]


@dataclass(slots=True)
class Outcome:
    """Scores and accumulated gradients of one side."""

    scores: Reference
    grads: Grads
    computed_tokens: int = 0


def coefficients(key: object, n: int) -> Tensor:
    """Fixed, uneven weights of a key's targets, so that no two errors cancel and no target is without influence."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
    return torch.rand(n, generator=generator) + 0.5


LM_PARTS = ("logprobs", "entropy", "prompts")
SCALAR_PARTS = ("values", "last")


def objective(scores: Reference, parts: Sequence[str]) -> Tensor:
    """A weighted sum over every target; additive over micro-batches."""
    total = torch.zeros(())
    for part in parts:
        for key, values in getattr(scores, part).items():
            total = total + (coefficients((part, key), values.numel()) * values.reshape(-1)).sum()
    return total


def gradients(module: nn.Module) -> Grads:
    """Gradients by parameter name; taken away, so that the next pass starts from none."""
    found = {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}
    for p in module.parameters():
        p.grad = None
    return found


def plain(
    model: nn.Module,
    groups: Sequence[PromptGroup],
    shape: Shape,
    *,
    parts: Sequence[str] = LM_PARTS,
    scalar_head: nn.Linear | None = None,
    together: Literal["all", "group", "completion"] = "all",
) -> Outcome:
    """The reference side."""
    scores = reference(
        model, groups, bos_id=shape.bos, temperature=shape.temperature, scalar_head=scalar_head, together=together
    )
    objective(scores, parts).backward()
    return Outcome(scores, gradients(model))


def forests(model: ForestModel, groups: Sequence[PromptGroup], shape: Shape) -> list[Forest]:
    """Split and packed as the trainer does."""
    pieces: list[Piece] = []
    for index, group in enumerate(groups):
        pieces += split_group(
            group,
            index,
            budget=shape.budget,
            unit=shape.unit,
            bos_id=shape.bos,
            score_last=shape.score_last,
            regime=model.position_regime,
        )
    bins = pack(
        pieces, budget=shape.budget, bos_id=shape.bos, score_last=shape.score_last, regime=model.position_regime
    )
    return [
        build_forest(
            members,
            bos_id=shape.bos,
            score_last=shape.score_last,
            position_floor=model.regime.floor(model.position_regime(members[0])),
        )
        for members in bins
    ]


def by_key(scores: Scores, forest: Forest) -> Reference:
    """A forest's scores in the reference's form."""
    found = Reference()
    lengths = forest.lengths_C.tolist()
    for name, values in (
        ("logprobs", scores.logprobs_N),
        ("entropy", scores.entropy_N),
        ("log_sum_p2", scores.log_sum_p2_N),
        ("values", scores.values_N),
    ):
        if values is not None:
            getattr(found, name).update(zip(forest.keys, values.split(lengths), strict=True))
    if scores.last_C is not None:
        found.last.update(zip(forest.keys, scores.last_C, strict=True))
    if scores.prompt_logprobs_M is not None:
        for piece, values in zip(
            forest.pieces, scores.prompt_logprobs_M.split(forest.prompt_lengths_P.tolist()), strict=True
        ):
            if piece.prompt_targets and piece.group.prompt_mask is not None:
                found.prompts[piece.index] = values
    return found


def packed(
    model: ForestModel,
    groups: Sequence[PromptGroup],
    shape: Shape,
    *,
    role: Role = "policy",
    parts: Sequence[str] = LM_PARTS,
    call: Callable[..., Any] | None = None,
) -> Outcome:
    """The forest's side: forward and backward of every micro-batch inside the role, gradients accumulated."""
    stats: frozenset[Statistic] = frozenset({"logprob", "entropy", "log_sum_p2"})
    if parts is SCALAR_PARTS:
        stats = frozenset({"value", "last"}) if shape.score_last else frozenset({"value"})
    total, tokens = Reference(), 0
    for forest in forests(model, groups, shape):
        with model.role(role):
            found = by_key((call or model)(forest, role, stats, shape.temperature), forest)
            objective(found, parts).backward()
        tokens += forest.num_tokens
        for name in ("logprobs", "entropy", "log_sum_p2", "values", "last", "prompts"):
            getattr(total, name).update({k: v.detach() for k, v in getattr(found, name).items()})
    return Outcome(total, gradients(model), tokens)


@dataclass(slots=True)
class Distance:
    """Largest differences between two outcomes."""

    logprob: float = 0.0
    entropy: float = 0.0
    gradient: float = 0.0
    where: str = ""
    """The parameter with the largest difference."""

    def worst(self, other: Distance) -> Distance:
        return Distance(
            max(self.logprob, other.logprob),
            max(self.entropy, other.entropy),
            max(self.gradient, other.gradient),
            self.where if self.gradient >= other.gradient else other.where,
        )


def score_distance(a: dict[Any, Tensor], b: dict[Any, Tensor]) -> float:
    """Largest difference; both sides must have scored exactly the same targets."""
    assert set(a) == set(b), set(a) ^ set(b)
    assert all(a[k].shape == b[k].shape for k in a)
    return max((float((a[k] - b[k]).detach().abs().max()) for k in a if a[k].numel()), default=0.0)


def gradient_distance(ours: Grads, theirs: Grads) -> tuple[float, str]:
    """Largest relative difference of a parameter's gradient, and that parameter. A missing gradient counts as zero."""
    top = max(float(g.abs().max()) for g in theirs.values())
    worst, where = 0.0, ""
    for name in set(ours) | set(theirs):
        a, b = ours.get(name), theirs.get(name)
        size = max(float(b.abs().max()) if b is not None else 0.0, FLOOR * top)
        difference = a if b is None else b if a is None else a - b
        assert difference is not None
        error = float(difference.abs().max()) / size
        if not error <= worst:  # NaN must not pass
            worst, where = error, name
    return worst, where


def distance(ours: Outcome, theirs: Outcome, rename: Callable[[str], str] = lambda name: name) -> Distance:
    """How far the forest is from the plain forward.

    Args:
        rename: maps a parameter name of our side to the reference's.
    """
    grads = {rename(name): g for name, g in ours.grads.items()}
    gradient, where = gradient_distance(grads, theirs.grads)
    found = Distance(0.0, 0.0, gradient, where)
    found.logprob = max(
        score_distance(getattr(ours.scores, part), getattr(theirs.scores, part)) for part in ("logprobs", "prompts")
    )
    found.entropy = max(
        score_distance(getattr(ours.scores, part), getattr(theirs.scores, part)) for part in ("entropy", "log_sum_p2")
    )
    return found


def without_prefix(name: str) -> str:
    """Parameter of a ForestModel → parameter of the model inside."""
    return name.removeprefix("model.")


def table(cells: dict[tuple[str, str], Distance]) -> list[str]:
    """Markdown: per model its largest score errors, and the largest relative gradient error of every aspect."""
    lines = ["| model | log-prob | entropy, log Σp² | largest gradient error by aspect |", "|---|---|---|---|"]
    for model in dict.fromkeys(m for m, _ in cells):
        own = {aspect: d for (m, aspect), d in cells.items() if m == model}
        aspects = ", ".join(f"{a} {d.gradient:.1e}" for a, d in own.items() if d.where)
        logprob, entropy = max(d.logprob for d in own.values()), max(d.entropy for d in own.values())
        lines.append(f"| {model} | {logprob:.1e} | {entropy:.1e} | {aspects} |")
    return lines
