"""Old log-probs of sampled answers, and how far the distribution that was sampled is from the one that is scored.

Three policies: the one that sampled (the engine's precision, filters, perhaps older weights), the old one (the
trainer's, at the start of training on the batch) and the new one. The loss's ratio is new against old; what lies
between sampled and old is measured, and corrected where `rollout.correction` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plaudit.config.schema import RolloutSection
from plaudit.errors import TrainingError
from plaudit.methods.base import Batch, Scorer
from plaudit.methods.policy.correction import gap_statistics, importance_weights
from plaudit.types import Completion, Floats, PromptGroup

_PROBED = 16
"""Of so many groups one is held against a forward pass in every batch, two answers of it, where the engine's log-probs
are used: a look, at the price of about one hundredth of the update."""

Columns = list[list[Floats]]


def set_old_logprobs(
    batch: Batch, options: RolloutSection, score: Scorer, *, exact: bool, needed: bool, single: bool
) -> None:
    """Give a rollout batch its columns "old" and, with a correction, "correction"; record the gap.

    Args:
        score: of the policy as it is now, at the sampling temperature.
        exact: whether the engine's log-probs are the trainer's, to rounding, and of the same weights.
        needed: whether the method reads the old log-probs before its loss.
        single: whether the batch gets one optimiser step: old log-probs then are the loss's own.
    """
    have = all(c.full_logprobs is not None for g in batch.groups for c in g.completions)
    use_engine = have and (options.old_logprobs == "engine" or (options.old_logprobs == "auto" and exact))
    if use_engine:
        batch.per_token["old"] = [[_at_targets(c, c.full_logprobs) for c in g.completions] for g in batch.groups]
        _probe(batch, score)
    elif needed or not single or options.correction != "none" or options.old_logprobs == "recompute":
        batch.per_token["old"] = _scored(score, batch.groups)
    else:
        _probe(batch, score)
    sampled = _sampled(batch.groups)
    if sampled is None and options.correction != "none":
        raise TrainingError(
            "PL405",
            "the answers do not say with which log-probs they were sampled, so nothing can be corrected",
            where="rollout.correction",
            mend="replay a file that has sampling_logprobs, or set it to none",
        )
    if sampled is None or "old" not in batch.per_token:
        return
    if not use_engine:
        _record(batch, batch.per_token["old"], sampled)
    if options.correction != "none":
        weights = [
            [importance_weights(o, s, options.correction, options.correction_cap, options.correction_floor)
             for o, s in zip(old, own, strict=True)]
            for old, own in zip(batch.per_token["old"], sampled, strict=True)
        ]  # fmt: skip
        batch.per_token["correction"] = weights
        flat = np.concatenate([w for row in weights for w in row])
        batch.record("rollout/correction", flat)
        held = np.float32(options.correction_cap)
        batch.record("rollout/corrected", ((flat == 0) | (flat >= held)).astype(np.float64))


def _at_targets(completion: Completion, values: Floats | None) -> Floats:
    assert values is not None
    return values[completion.action_mask]


def _scored(score: Scorer, groups: Sequence[PromptGroup]) -> Columns:
    found: Columns = []
    for row in score("policy", groups):
        found.append([c.logprobs for c in row if c.logprobs is not None])
    return found


def _sampled(groups: Sequence[PromptGroup]) -> Columns | None:
    """[group][completion] → [targets] log-probs under the distribution that was sampled; None where it is not known
    (greedy answers, or a file without them)."""
    if any(c.sampling_logprobs is None for g in groups for c in g.completions):
        return None
    return [[_at_targets(c, c.sampling_logprobs) for c in g.completions] for g in groups]


def _probe(batch: Batch, score: Scorer) -> None:
    """Measure the gap on a few groups."""
    few = batch.groups[: -(-len(batch.groups) // _PROBED)]
    sampled = _sampled(few)
    if sampled is not None:
        alone = [replace(g, completions=g.completions[:2]) for g in few]
        _record(batch, _scored(score, alone), [row[:2] for row in sampled])


def _record(batch: Batch, old: Columns, sampled: Columns) -> None:
    pairs = [(o, s) for a, b in zip(old, sampled, strict=True) for o, s in zip(a, b, strict=True)]
    gap = gap_statistics([o for o, _ in pairs], [s for _, s in pairs])
    for name, value in gap.items():
        batch.metrics[f"rollout/{name}"] = (float(value), 1.0)
