"""Kahneman-Tversky Optimization (Ethayarajh et al. 2024, arXiv 2402.01306).

Objective:
    L = (1/n) [Σ_desirable λ_D σ(β (z0 − ρ)) + Σ_undesirable λ_U σ(β (ρ − z0))], one mean over all n answers of the
    step, with ρ = log π(y|x) − log π_ref(y|x) summed over tokens (L_KTO of section 4.1). The reference point
    z0 = max(0, mean ρ(x, y')) estimates KL(π‖π_ref) from answers y' to other prompts, over the whole optimiser step
    and without gradient.

When:
    Answers with a thumb up or down instead of pairs; also pairs whose labels are noisy, taken apart with
    data.convert: pairs_to_feedback. The loss is bounded: an answer far on the wrong side is given up. At least 32 rows
    a step make z0 steady. Classes of different sizes: set the weights, or desirable_weight=auto.

Deviations:
    Within a step the answers are permuted anew every epoch so that none meets its own prompt (prompts are compared by
    their tokens); the paper shifts the answers of a micro-batch by one, which pairs a prompt that occurs twice in
    succession with its own answer. Where more than half of a step's rows share a prompt, some answers of the others
    are used twice. A y' that is too long for the prompt is replaced by one that fits, or else cut at its end. A step in
    which all prompts are the same has z0 = 0. auto keeps λ_D n_D / (λ_U n_U) within [1, 3/2] by raising one of the two
    weights above 1, as little as that takes; the range is that of the ICML version, the first version has [1, 4/3].

Elsewhere:
    TRL: KTOTrainer, loss_type="kto"; beta, desirable_weight and undesirable_weight are the same. z0 is taken over one
    micro-batch of every process there and needs sequential sampling; here it is over the step. The default learning
    rate there is 1e-6, the paper's 5e-6.
    LLaMA-Factory: stage=kto; pref_beta is beta, kto_chosen_weight is desirable_weight, kto_rejected_weight is
    undesirable_weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from plaudit.methods.base import Batch, MethodConfig, Role, Scorer, Scores, Sums, View, mean_of
from plaudit.methods.preference.feedback import FeedbackMethod, is_desirable, mean_where
from plaudit.runs.metrics import MetricSpec, register
from plaudit.types import Completion, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

ClassWeight = Annotated[float, Field(gt=0)] | Literal["auto"]
_RANGE = (1.0, 1.5)  # of λ_D n_D / (λ_U n_U), ICML version of the paper

register(
    MetricSpec(
        "kto/baseline_pairs",
        "rows",
        "neutral",
        "answers to other prompts that the reference point is the mean of; 0 = all prompts of the step are the same",
    ),
    MetricSpec(
        "kto/baseline_cut", "share", "neutral", "share of them that were cut at their end to fit behind their prompt"
    ),
)


class KTOConfig(MethodConfig):
    """Options of KTO."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference; the paper uses 0.01 to 0.1 after SFT, up to 0.5 without."""
    desirable_weight: ClassWeight = 1.0
    """λ_D; auto = derived from the numbers of desirable and undesirable rows."""
    undesirable_weight: ClassWeight = 1.0
    """λ_U; auto = derived from the numbers of desirable and undesirable rows."""


def kto_loss(ratio: Tensor, desirable: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """Loss per answer, before its class weight.

    Args:
        ratio: [n] log π(y|x) − log π_ref(y|x), summed over tokens, in nats.
        desirable: [n] whether the answer is desirable.
        baseline: z0, without gradient.
        beta: β of the paper.

    Returns:
        [n] σ(β (z0 − ρ)) for desirable answers, σ(β (ρ − z0)) for the others; between 0 and 1.
    """
    import torch

    distance = beta * (ratio - baseline)
    return torch.sigmoid(torch.where(desirable.bool(), -distance, distance))  # 1 − v(x, y) / λ of section 4.1


def baseline_of(ratios: Sequence[float]) -> float:
    """z0 = max(0, mean log-ratio of the mismatched answers); 0 where there are none.

    Args:
        ratios: log-ratios of all mismatched answers of the step.
    """
    return max(0.0, math.fsum(ratios) / len(ratios)) if ratios else 0.0  # clamped after the mean over the whole step


def class_weights(desirable: float, undesirable: float, config: KTOConfig) -> tuple[float, float]:
    """(λ_D, λ_U): what is given, and what "auto" derives.

    Args:
        desirable, undesirable: rows of each class, counted by their weights.

    Returns:
        With "auto", weights that bring λ_D n_D / (λ_U n_U) to the nearest point of [1, 3/2]: where both are "auto", one
        is raised and the other stays 1; where one is, that one moves. Without rows of one class, "auto" is 1.
    """
    given = (config.desirable_weight, config.undesirable_weight)
    weight_d, weight_u = (1.0 if w == "auto" else w for w in given)
    if "auto" not in given or not desirable or not undesirable:
        return weight_d, weight_u
    ratio = weight_d * desirable / (weight_u * undesirable)
    factor = min(max(ratio, _RANGE[0]), _RANGE[1]) / ratio
    moves_d = factor > 1 if given == ("auto", "auto") else given[0] == "auto"
    return (weight_d * factor, weight_u) if moves_d else (weight_d, weight_u / factor)


class KTO(FeedbackMethod):
    """Answers that are desirable or not; no pairs are needed."""

    name = "kto"
    title = "Kahneman-Tversky Optimization"
    paper = "arXiv 2402.01306"
    fresh_completions = True
    min_groups = 2
    elsewhere: ClassVar[Mapping[str, str]] = {
        "kto_ftx": "KTO has no additional likelihood term here; the methods on pairs have nll_weight",
    }
    default_learning_rate: ClassVar = {"lora": 5e-5, "full": 5e-6}
    Config = KTOConfig
    config: KTOConfig

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config)
        self._rows: tuple[float, float] | None = None
        """rows of each class in the whole training data, by their weights"""

    def observe(self, groups: Sequence[PromptGroup]) -> None:
        totals = [0.0, 0.0]
        for completion in (c for g in groups for c in g.completions):
            totals[not is_desirable(completion)] += completion.weight
        self._rows = (totals[0], totals[1])

    def class_weights(self) -> tuple[float, float]:
        """(λ_D, λ_U) of this run."""
        rows = self._rows
        if rows is None:
            asked = (self.config.desirable_weight, self.config.undesirable_weight)
            assert "auto" not in asked, "auto needs `observe`"
            rows = (0.0, 0.0)
        return class_weights(*rows, self.config)

    def notes(self) -> list[str]:
        desirable, undesirable = self._rows or (0.0, 0.0)
        weight_d, weight_u = self.class_weights()
        line = f"kto: {desirable:g} desirable rows with weight {weight_d:.4g}, "
        line += f"{undesirable:g} undesirable rows with weight {weight_u:.4g}"
        if desirable and undesirable:
            ratio = weight_d * desirable / (weight_u * undesirable)
            line += f": {ratio:.3g} to 1"
            if not _RANGE[0] - 1e-9 <= ratio <= _RANGE[1] + 1e-9:
                line += " (the paper advises 1 to 1.5: method.desirable_weight=auto, method.undesirable_weight=auto)"
        return [line]

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Also z0, from answers to other prompts as the weights of this step and the reference score them."""
        drawn = mismatched_answers(batch.groups, batch.max_length, rng)
        others = [
            replace(g, completions=[answer for answer, _ in row]) for g, row in zip(batch.groups, drawn, strict=True)
        ]
        # In one call, so that a prompt is computed once for both of its answers.
        both = [
            replace(g, completions=[*g.completions, *o.completions]) for g, o in zip(batch.groups, others, strict=True)
        ]
        reference = score("reference", both)
        counts = [len(g.completions) for g in batch.groups]
        self.take_reference(batch, [row[:n] for row, n in zip(reference, counts, strict=True)])
        behind = [row[n:] for row, n in zip(reference, counts, strict=True)]
        ratios = [
            float(np.sum(mine.logprobs - its.logprobs, dtype=np.float64))
            for row, its_row in zip(score("policy", others), behind, strict=True)
            for mine, its in zip(row, its_row, strict=True)
            if mine.logprobs is not None and its.logprobs is not None
        ]
        cut = [was_cut for row in drawn for _, was_cut in row]
        for name, value in (
            ("baseline", baseline_of(ratios)),
            ("baseline_pairs", float(len(ratios))),
            ("baseline_cut", sum(cut) / max(1, len(cut))),
        ):
            batch.per_completion[name] = [np.full(n, value, np.float32) for n in counts]

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        feedback = self.feedback_of(scores, view)
        baseline, pairs = view.columns["baseline"].to(feedback.ratio.dtype), view.columns["baseline_pairs"]
        weight_d, weight_u = self.class_weights()
        weight = (weight_d * feedback.desirable + weight_u * feedback.undesirable) * view.weights_C
        losses = kto_loss(feedback.ratio, feedback.desirable, baseline, self.config.beta)
        metrics = {
            **self.metrics_of(feedback, self.config.beta),
            "kl": mean_of(baseline),
            "kto/baseline_pairs": mean_of(pairs),
            "kto/baseline_cut": mean_where(view.columns["baseline_cut"], pairs > 0),
        }
        return Sums({"loss": (weight * losses).sum()}, metrics)


def mismatched_answers(
    groups: Sequence[PromptGroup], max_length: int | None, rng: np.random.Generator
) -> list[list[tuple[Completion, bool]]]:
    """For every answer one to another prompt, to be scored behind its own prompt.

    Args:
        groups: the groups of a step.
        max_length: longest prompt + answer.
        rng: what the pairing is drawn with.

    Returns:
        [group][own answer] copies of others with whether they were cut; empty where all prompts are the same.
    """
    owners = [i for i, g in enumerate(groups) for _ in g.completions]
    answers = [c for g in groups for c in g.completions]
    prompts = [groups[i].prompt_ids.tobytes() for i in owners]
    found: list[list[tuple[Completion, bool]]] = [[] for _ in groups]
    if len(set(prompts)) < 2:
        return found
    partners = _derangement(prompts, rng)
    for k, owner in enumerate(owners):
        room = None if max_length is None else max_length - len(groups[owner].prompt_ids)
        partner = partners[k]
        if prompts[partner] == prompts[k] or (room is not None and len(answers[partner].token_ids) > room):
            others = [i for i in range(len(answers)) if prompts[i] != prompts[k]]
            fitting = [i for i in others if room is None or len(answers[i].token_ids) <= room]
            partner = int(rng.choice(fitting or others))
        found[owner].append(_behind(groups[owner], answers[k], answers[partner], room))
    return found


def _derangement(prompts: Sequence[bytes], rng: np.random.Generator) -> list[int]:
    """A random partner with another prompt for each entry, every entry being a partner once. Where one prompt has more
    than half of the entries this cannot be done, and some keep a partner with their own prompt."""
    counts = Counter(prompts)
    ranks = dict(zip(sorted(counts), rng.permutation(len(counts)).tolist(), strict=True))
    # Entries of a prompt lie side by side, so a shift by the largest of these blocks leaves every block.
    order = sorted(rng.permutation(len(prompts)).tolist(), key=lambda i: ranks[prompts[i]])
    shift = max(counts.values())
    partners = [0] * len(prompts)
    for place, entry in enumerate(order):
        partners[entry] = order[(place + shift) % len(order)]
    return partners


def _behind(group: PromptGroup, own: Completion, answer: Completion, room: int | None) -> tuple[Completion, bool]:
    """A copy of an answer that can stand behind a group's prompt, and whether it had to be cut."""
    length = len(answer.token_ids) if room is None else min(len(answer.token_ids), room)
    mask = answer.action_mask[:length].copy()
    if len(group.prompt_ids) == 0:
        mask[:1] &= own.action_mask[:1]  # with nothing before it, the first token is no target
    copied = replace(answer, token_ids=answer.token_ids[:length], action_mask=mask, sampling_logprobs=None)
    return copied, length < len(answer.token_ids)
