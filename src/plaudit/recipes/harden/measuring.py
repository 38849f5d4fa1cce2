"""The reward model before and after: on the data's pairs, and on the adversarial ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plaudit.data.recordset import read_records
from plaudit.recipes.harden.cases import Case
from plaudit.recipes.harden.members import Member
from plaudit.recipes.harden.report import State
from plaudit.recipes.harden.scores import Scores, score_items
from plaudit.recipes.harden.selection import Array, Criterion, Scale, disagreement
from plaudit.rewards.models.accuracy import Ranked
from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import ScoringOptions


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What both moments are measured on.

    Attributes:
        cases: the scale is fitted to their answers.
        ranked: comparisons of the data.
        held_out, trained: (prompt, [chosen answer, adversarial answer]).
    """

    cases: Sequence[Case]
    ranked: Ranked
    held_out: Sequence[Item]
    trained: Sequence[Item]

    @property
    def items(self) -> list[Item]:
        """Everything that is scored, in the order of `state`."""
        reference: list[Item] = [(c.prompt, c.reference) for c in self.cases]
        return [*reference, *(item for item, _ in self.ranked), *self.held_out, *self.trained]


def pairs_of(file: Path) -> list[Item]:
    """The pairs of a file that may have been edited meanwhile; none where it is empty.

    Raises:
        DataError: PL2xx, a row is no pair any more.
    """
    if not file.is_file() or not file.read_text(encoding="utf-8").strip():
        return []
    found = read_records(str(file), "preference", has_template=True)
    return [(record.prompt or "", [record.chosen, record.rejected]) for record, _ in found]


def measure(
    members: Sequence[Member],
    yardstick: Yardstick,
    criterion: Criterion,
    folder: Path,
    name: str,
    *,
    options: ScoringOptions,
    precision: str,
    on_message: Callable[[str], None],
) -> State:
    """Score everything and sum it up; scores are kept in `folder` under `name`."""
    scores = score_items(
        members, yardstick.items, folder, name, options=options, precision=precision, on_message=on_message
    )
    return state(scores, yardstick, criterion)


def state(scores: Sequence[Scores], yardstick: Yardstick, criterion: Criterion) -> State:
    """The summary of [member][item][answer] scores of `yardstick.items`."""
    sizes = [len(yardstick.cases), len(yardstick.ranked), len(yardstick.held_out), len(yardstick.trained)]
    cuts = [0, *itertools.accumulate(sizes)]
    reference, ranked, held_out, trained = ([items[a:b] for items in scores] for a, b in itertools.pairwise(cuts))
    reference_MR = _flat(reference)
    scale = Scale.of(reference_MR, criterion, "std")
    shown = held_out if yardstick.held_out else trained
    apart = _mean(disagreement(scale.standard(_flat(shown)), "std"))
    return State(
        _accuracy(scale, ranked, yardstick.ranked),
        _beats(scale, held_out),
        _beats(scale, trained),
        None if apart is None else apart / scale.mean,
    )


def _flat(scores: Sequence[Scores]) -> Array:
    """[M, N]"""
    found = [[s for answers in items for s in answers] for items in scores]
    return np.array(found, dtype=np.float64).reshape(len(scores), -1)


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def _accuracy(scale: Scale, scores: Sequence[Scores], ranked: Ranked) -> float | None:
    points = list[float]()
    flat = iter(scale.score(_flat(scores)).tolist())
    for (_, answers), pairs in ranked:
        values = [next(flat) for _ in answers]
        points += [_point(values[better] - values[worse]) for better, worse in pairs]
    return sum(points) / len(points) if points else None


def _beats(scale: Scale, scores: Sequence[Scores]) -> float | None:
    """Share of the pairs whose second answer scores above the first."""
    flat = scale.score(_flat(scores))
    points = [_point(d) for d in (flat[1::2] - flat[::2]).tolist()]
    return sum(points) / len(points) if points else None


def _point(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
