"""Weight averaging of reward models: one model whose weights are the mean of its members' (WARM).

Source: Ramé et al. 2024 (arXiv 2401.12187). A label that each member has memorised by itself fades in the mean of the
weights more than in the mean of the predictions, and the result costs one forward pass. What all members share (a bias
towards length) stays, and no disagreement is left to watch.

Precondition (linear mode connectivity): the members lie in one basin, which takes one common start *and one common
initial head*. Both are compared by fingerprint; with data, the average's accuracy is compared with its members' too.

Adapters are merged into their base first: the mean of the products B·A is no product of the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.data.book import Invalid
from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.models.accuracy import accuracy
from plaudit.rewards.models.card import CARD_FILE, check_empty, write_card
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.model import ScoringOptions
from plaudit.rewards.rows import comparisons

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.02
"""How much lower the average's accuracy may be than the mean of its members' on the check data."""
_SAME = ("start_fingerprint", "head_fingerprint")


@dataclass(frozen=True, slots=True)
class Averaged:
    """What `average` wrote.

    Attributes:
        folder: the model folder.
        members: their names.
        compared: whether start and head were compared (False only when told not to).
        accuracy: of the average on the check data, None without data.
        member_accuracies: of each member.
        notes: what was done, in sentences.
    """

    folder: Path
    members: list[str]
    compared: bool
    accuracy: float | None = None
    member_accuracies: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def average(
    sources: Sequence[str | Path],
    output: Path,
    *,
    check: Any = None,
    tolerance: float = TOLERANCE,
    unchecked: bool = False,
    base: str | None = None,
    invalid: Invalid = "error",
    options: ScoringOptions | None = None,
) -> Averaged:
    """Average reward models and write the result as a model folder.

    The mean is formed in fp32 and rounded once to the precision of the first member's checkpoint. Gains and biases are
    not averaged: the result is to be normalised anew.

    Args:
        sources: at least two run directories, model folders or adapter folders.
        output: folder to write, new or empty.
        check: rows of pairs or rankings on which the average must not be worse than its members are on average.
        tolerance: by how much it may be, as a difference of accuracies.
        base: the base of members that are adapters, in place of the one they name.
        unchecked: do not compare start and head (members without fingerprints).
        invalid: what becomes of rows of the check data that cannot be used: error or drop.
        options: how the check data is scored.

    Raises:
        RewardError: PL704, fewer than two members, a precondition does not hold, or the average fails the check; then
            nothing is written. PL701 from loading; PL705 from scoring.
        ConfigError: PL102, the output folder is in use or the tolerance is no share.
        DataError, ModelError: from reading and loading.
    """
    if len(sources) < 2:
        raise RewardError(
            "PL704", "an average needs at least two members", mend="name two or more reward models", where="members"
        )
    if not 0 <= tolerance <= 1:
        raise ConfigError(
            "PL102",
            f"the tolerance is {tolerance:g}, must be a share from 0 to 1",
            where="tolerance",
            mend="for example 0.01",
        )
    check_empty(output)
    options = options or ScoringOptions()
    first = Classifier.open(sources[0], base=base, precision="fp32", options=options)
    if not unchecked:
        _need_fingerprints(first, first)
    ranked = None if check is None else comparisons(check, has_template=first.has_template, invalid=invalid)
    found = [] if ranked is None else [accuracy(first, ranked)]
    first.merge_adapter()
    mean = first.weights()
    for count, source in enumerate(sources[1:], start=2):
        member = Classifier.open(source, base=base, precision="fp32", options=options)
        _compare(first, member, unchecked)
        if ranked is not None:
            found.append(accuracy(member, ranked))
        member.merge_adapter()
        _add(mean, member.weights(), count, member.name)
    first.load_weights(mean)
    notes = [f"averaged {len(sources)} reward models in fp32"]
    if unchecked:
        notes.append("NOT CHECKED: whether the members started from the same model and the same head")
    right = None
    if ranked is not None:
        right = accuracy(first, ranked)
        notes.append(_judge(right, found, tolerance, sum(len(pairs) for _, pairs in ranked)))
    first.write_model(output)
    names = [str(s) for s in sources]
    kept: dict[str, Any] = {k: first.card[k] for k in _SAME if k in first.card and not unchecked}
    write_card(output / CARD_FILE, {**first.new_card(), **kept, "averaged": names, "start_compared": not unchecked})
    notes.append(f"written to {output}; it has no normalisation yet (plaudit reward-model normalise)")
    return Averaged(output, names, not unchecked, right, found, notes)


def _need_fingerprints(member: Classifier, first: Classifier) -> None:
    for key in _SAME:
        mine, theirs = member.card.get(key), first.card.get(key)
        if not mine:
            raise RewardError(
                "PL704",
                f"the member does not say what it started from ({key} is missing in {CARD_FILE})",
                where=member.name,
                mend="average models of `plaudit reward`, or give --unchecked, which is recorded",
            )
        if mine != theirs:
            what = "model" if key == "start_fingerprint" else "head"
            raise RewardError(
                "PL704",
                f"the member started from another {what} than {first.name} ({mine[:12]}…, not {str(theirs)[:12]}…)",
                where=member.name,
                mend="train all members from one model with one seed for the head; or make an ensemble of them",
            )


def _compare(first: Classifier, member: Classifier, unchecked: bool) -> None:
    if not unchecked:
        _need_fingerprints(member, first)
    if first.reads_like(member):
        return
    raise RewardError(
        "PL704",
        f"the member reads text otherwise than {first.name}: another vocabulary or chat template",
        where=member.name,
        mend="members must share their tokenizer and template; an ensemble need not",
    )


def _add(mean: dict[str, Tensor], weights: dict[str, Tensor], count: int, name: str) -> None:
    """Move the mean of count − 1 members to that of count. Equal weights stay what they are, to the bit."""
    import torch

    names = mean.keys() ^ weights.keys() or {k for k, w in weights.items() if w.shape != mean[k].shape}
    if names:
        raise RewardError(
            "PL704",
            f"the member is of another shape: {min(names)} is missing or has another size",
            where=name,
            mend="only models of one architecture and size can be averaged",
        )
    for key, weight in weights.items():
        if mean[key].is_floating_point():
            mean[key] += (weight - mean[key]) / count
        elif not torch.equal(mean[key], weight):
            raise RewardError(
                "PL704",
                f"the member's {key} differs and is no weight",
                where=name,
                mend="train the members from one start, or make an ensemble",
            )


def _judge(right: float, members: list[float], tolerance: float, pairs: int) -> str:
    """The verdict of the check data as a sentence."""
    usual = sum(members) / len(members)
    figures = (
        f"accuracy on {pairs} pairs: average {right:.4f}; members {', '.join(f'{a:.4f}' for a in members)} "
        f"(mean {usual:.4f})"
    )
    if right < usual - tolerance:
        raise RewardError(
            "PL704",
            f"the average is worse than its members: {figures}; tolerance {tolerance:g}",
            mend="the members are not connected by a straight line: train them from one start with one head, with a "
            "smaller learning rate, or make an ensemble of them",
            where="the check data",
        )
    return figures
