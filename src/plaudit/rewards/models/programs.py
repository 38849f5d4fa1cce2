"""What the commands of `plaudit reward-model` do, each with the sentences that it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.data.book import Invalid
from plaudit.rewards.models.card import check_empty
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.combine import Combine
from plaudit.rewards.models.ensemble import Ensemble
from plaudit.rewards.models.model import RewardModel, ScoringOptions, normalise
from plaudit.rewards.models.normalisation import Normalisation, measure
from plaudit.rewards.models.observations import observations
from plaudit.rewards.rows import AnswerRows, read_answers, score_rows


@dataclass(slots=True)
class ScoredRows:
    """Rows with scores, computed as they are asked for.

    Attributes:
        notes: what was done, in sentences; complete when all rows have been taken.
    """

    model: RewardModel
    found: AnswerRows
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        truncated, values = self.model.truncated, list[float]()
        for row, scores in score_rows(self.model, self.found.rows):
            values += [s for answers in scores for s in answers]
            yield row.with_scores(scores)
        m = measure(values)
        self.notes.append(
            f"scored {m.answers} answers of {len(self.found.rows)} rows: mean {m.mean:.4g}, std {m.std:.4g}, "
            f"{min(values):.4g} to {max(values):.4g}"
        )
        self.notes += [*_dropped(self.found), *observations(self.model, truncated_before=truncated)]


def _dropped(found: AnswerRows) -> list[str]:
    return [f"{found.dropped} rows could not be used and are left out"] if found.dropped else []


def score_data(model: RewardModel, data: Any, *, invalid: Invalid = "error") -> ScoredRows:
    """Read rows with answers and score them.

    Raises:
        DataError: see `plaudit.rewards.rows.read_answers`; ConfigError: PL102; RewardError: PL705.
    """
    found = read_answers(data, has_template=model.has_template, invalid=invalid)
    return ScoredRows(model, found, list(model.notes))


@dataclass(frozen=True, slots=True)
class Normalised:
    """What `normalise_model` did.

    Attributes:
        model: the normalised model.
        folder: where it is.
        notes: what was done, in sentences.
    """

    model: RewardModel
    folder: Path
    notes: list[str]

    @property
    def normalisation(self) -> Normalisation:
        """Gain and bias."""
        return self.model.normalisation


def normalise_model(
    source: str | Path,
    data: Any,
    *,
    std: float | None = None,
    output: Path | None = None,
    base: str | None = None,
    precision: str = "auto",
    invalid: Invalid = "error",
    options: ScoringOptions | None = None,
) -> Normalised:
    """Normalise a reward model on reference answers and keep the numbers with it, or with a copy.

    Args:
        source: what `RewardModel.load` takes.
        data: rows with reference answers.
        std: target standard deviation; None keeps the model's unit.
        output: new or empty folder for a copy; None writes `plaudit.json` (or `ensemble.json`) in the model's folder.

    Raises:
        RewardError: PL701, PL702, PL705; ConfigError: PL102; DataError and ModelError from reading and loading.
    """
    if output is not None:
        check_empty(output)
    model = RewardModel.load(source, base=base, precision=precision, options=options)
    found = read_answers(data, has_template=model.has_template, invalid=invalid)
    done = normalise(model, found.items, std=std, data=found.names)
    assert done.measured is not None
    notes = [
        *model.notes,
        f"raw scores of {done.measured.answers} reference answers: mean {done.measured.mean:.6g}, "
        f"std {done.measured.std:.6g}",
        f"gain {done.gain:.6g}, bias {done.bias:.6g}: the reference answers now have mean 0"
        + ("" if std is None else f" and std {std:g}"),
        *_dropped(found),
        *observations(model),
    ]
    if output is None:
        file = model.save_normalisation()
        return Normalised(model, file.parent, [*notes, f"kept in {file}"])
    model.save(output)
    return Normalised(model, output, [*notes, f"copied to {output}"])


@dataclass(frozen=True, slots=True)
class Built:
    """What `build_ensemble` made, and what was done, in sentences."""

    ensemble: Ensemble
    folder: Path
    notes: list[str]


def build_ensemble(
    output: Path,
    members: Sequence[str | Path],
    reference: Any,
    *,
    how: Combine = "mean",
    uncertainty_weight: float = 0.5,
    base: str | None = None,
    precision: str = "auto",
    invalid: Invalid = "error",
    options: ScoringOptions | None = None,
) -> Built:
    """Standardise members on one reference set and write the ensemble's folder.

    Raises:
        RewardError: PL701-PL703, PL705; ConfigError: PL102; DataError and ModelError from reading and loading.
    """
    check_empty(output)
    models = [Classifier.open(m, base=base, precision=precision, options=options) for m in members]
    found = read_answers(reference, has_template=all(m.has_template for m in models), invalid=invalid)
    ensemble = Ensemble.build(models, found.items, how=how, uncertainty_weight=uncertainty_weight, data=found.names)
    ensemble.save(output)
    notes = []
    for member in ensemble.members:
        m = member.standard.measured
        assert m is not None
        notes.append(f"{member.model.name}: raw mean {m.mean:.6g}, std {m.std:.6g} on {m.answers} reference answers")
    weight = f" (uncertainty weight {uncertainty_weight:g})" if how == "uwo" else ""
    spread = ensemble.reference
    notes += [
        f"combined by {how}{weight}; member std on the reference set: mean {spread.mean:.4g}, "
        f"95th percentile {spread.p95:.4g}",
        *_dropped(found),
        *observations(ensemble),
        f"written to {output}",
    ]
    return Built(ensemble, output, notes)
