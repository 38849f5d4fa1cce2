"""Ensembles of reward models: several opinions on one scale, and how far they differ.

Each member's raw scores are standardised on one reference set (mean 0, standard deviation 1) before they are combined;
the constants are kept in `ensemble.json` with the members' paths and fingerprints. Members may differ in everything:
architecture, tokenizer, template.

Sources: Coste et al. 2023 (arXiv 2310.02743) for the combinations; Eisenstein et al. 2023 (2312.09244): members that
share their pre-training share its errors, and no combination removes those.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from plaudit.errors import RewardError
from plaudit.rewards.models.card import ENSEMBLE_FILE, SCORES
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.combine import Array, Combine, Disagreement, Uncertainty, combine, member_std, uncertainty
from plaudit.rewards.models.conversations import Item
from plaudit.rewards.models.model import Looked, RewardModel, ScoringOptions, trained_range
from plaudit.rewards.models.normalisation import Measured, Normalisation, fit, measure

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A reward model and its standardisation on the reference set."""

    model: Classifier
    standard: Normalisation


class Ensemble(RewardModel):
    """Several reward models as one.

    Args:
        members: at least two, each with its standardisation.
        how: mean, min (worst case) or uwo (mean − uncertainty_weight · variance).
        uncertainty_weight: λ of uwo.
        reference: the members' disagreement on the reference set.
        measured: the combined scores of the reference set.
        folder: where it is kept, or None.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        how: Combine,
        uncertainty_weight: float,
        reference: Disagreement,
        measured: Measured | None = None,
        normalisation: Normalisation | None = None,
        folder: Path | None = None,
    ) -> None:
        if len(members) < 2:
            raise RewardError(
                "PL703",
                "an ensemble needs at least two members",
                where=str(folder) if folder else None,
                mend="name two or more reward models",
            )
        if not (math.isfinite(uncertainty_weight) and uncertainty_weight >= 0):
            raise RewardError(
                "PL703",
                f"the uncertainty weight is {uncertainty_weight:g}, must be 0 or more",
                mend="0.5 for best-of-n, 0.1 for reinforcement learning are the values of Coste et al.",
                where="uncertainty_weight",
            )
        self.members = list(members)
        self.how, self.uncertainty_weight, self.reference = how, uncertainty_weight, reference
        self.normalisation = normalisation or Normalisation()
        self._measured = measured
        self._seen: list[Array] = []
        self.folder = folder
        self.name = str(folder) if folder else "ensemble"
        self.notes = [f"{m.model.name}: {note}" for m in members for note in m.model.notes]

    @classmethod
    def build(
        cls,
        models: Sequence[Classifier],
        reference: Sequence[Item],
        *,
        how: Combine = "mean",
        uncertainty_weight: float = 0.5,
        data: Sequence[str] = (),
    ) -> Ensemble:
        """Standardise the members on one reference set.

        Args:
            models: at least two.
            reference: prompts with answers, like those that will be scored; every answer counts once.
            how, uncertainty_weight: see the class.
            data: names of the reference's sources.

        Raises:
            RewardError: PL702, a member gives every reference answer the same score; PL703, fewer than two members;
                PL705 from scoring.
        """
        members, rows = [], []
        for model in models:
            raw = [s for answers in model.raw_score(reference) for s in answers]
            standard = fit(measure(raw, data), std=1.0, largest=max((abs(s) for s in raw), default=1.0))
            members.append(Member(model, standard))
            rows.append([standard(s) for s in raw])
        scores = np.array(rows, dtype=np.float64)
        spread = Disagreement.of(scores) if len(rows) > 1 else Disagreement(0, 0.0, 0.0)
        together = measure(combine(scores, how, uncertainty_weight).tolist(), data) if len(rows) > 1 else None
        return cls(members, how=how, uncertainty_weight=uncertainty_weight, reference=spread, measured=together)

    @property
    def measured(self) -> Measured | None:
        """See `RewardModel`."""
        return self._measured

    def look(self, items: Sequence[Item], *, latents: bool = False) -> Looked:
        """See `RewardModel`. An ensemble has no single vector that a head reads; where its members gave every answer
        of the reference set the same score there is no spread to relate to, and none is given."""
        by_member = self.score_members(items)
        std = member_std(_flat(by_member))
        self._seen.append(std)
        scores = [[self.normalisation(raw) for raw in answers] for answers in self.combined(by_member)]
        if self.reference.mean <= 0:
            return Looked(scores)
        flat = iter((std / self.reference.mean).tolist())
        return Looked(scores, spread=[[next(flat) for _ in answers] for answers in scores])

    def score_members(self, items: Sequence[Item]) -> list[list[list[float]]]:
        """Standardised scores of each member: [member][item][answer]. Arguments and errors as `score`."""
        return [[[m.standard(s) for s in answers] for answers in m.model.raw_score(items)] for m in self.members]

    def raw_score(self, items: Sequence[Item]) -> list[list[float]]:
        """The members' standardised scores combined: [item][answer]."""
        by_member = self.score_members(items)
        self._seen.append(member_std(_flat(by_member)))
        return self.combined(by_member)

    @property
    def observed(self) -> Uncertainty | None:
        """The members' disagreement on everything scored so far, against the reference set; None before that."""
        return uncertainty(np.concatenate(self._seen), self.reference) if sum(map(len, self._seen)) else None

    def combined(self, by_member: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
        """What `score_members` gave, combined: [member][item][answer] → [item][answer]."""
        flat = iter(combine(_flat(by_member), self.how, self.uncertainty_weight).tolist())
        return [[next(flat) for _ in answers] for answers in by_member[0]]

    def uncertainty(self, by_member: Sequence[Sequence[Sequence[float]]]) -> Uncertainty:
        """The members' disagreement on what `score_members` gave, against the reference set."""
        return uncertainty(member_std(_flat(by_member)), self.reference)

    @property
    def has_template(self) -> bool:
        """Whether every member reads chat messages."""
        return all(m.model.has_template for m in self.members)

    @property
    def truncated(self) -> int:
        """Summed over members."""
        return sum(m.model.truncated for m in self.members)

    def save(self, folder: Path) -> None:
        """Write `ensemble.json`; the members stay where they are. Paths are kept relative to the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "format": _FORMAT,
            "combine": self.how,
            "uncertainty_weight": self.uncertainty_weight,
            "members": [
                {
                    "source": _portable(m.model.source, folder),
                    "base": m.model.given_base,
                    "fingerprint": m.model.fingerprint,
                    "reading": m.model.reading,
                    "standard": m.standard.to_json(),
                }
                for m in self.members
            ],
            "disagreement": self.reference.to_json(),
            **({SCORES: self._measured.to_json()} if self._measured else {}),
            "normalisation": self.normalisation.to_json(),
        }
        temporary = folder / f".{ENSEMBLE_FILE}"
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / ENSEMBLE_FILE)
        self.folder, self.name = folder, str(folder)

    def save_normalisation(self) -> Path:
        """See `RewardModel`."""
        if self.folder is None:
            raise RewardError("PL702", "the ensemble is in no folder yet", mend="save it first", where="the ensemble")
        self.save(self.folder)
        return self.folder / ENSEMBLE_FILE

    @classmethod
    def open(cls, folder: Path, *, base: str | None, precision: str, options: ScoringOptions) -> Ensemble:
        """Load what `save` wrote.

        Args:
            base: the base of all members that are adapters, in place of those they name.

        Raises:
            RewardError: PL703, the file is damaged, or a member is missing or has other weights than it had.
        """
        file = folder / ENSEMBLE_FILE
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if values["format"] != _FORMAT or values["combine"] not in get_args(Combine):
                raise ValueError(f"format {values['format']!r}, combine {values['combine']!r}")
            seen = values["disagreement"]
            spread = Disagreement(int(seen["answers"]), float(seen["mean"]), float(seen["p95"]))
            weight = float(values["uncertainty_weight"])
            entries = [
                (str(m["source"]), m["base"], str(m["fingerprint"]), m["standard"], dict(m["reading"]))
                for m in values["members"]
            ]
            normalisation = Normalisation.from_json(values["normalisation"], str(file))
            together = trained_range(values, str(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RewardError(
                "PL703", f"the file is damaged: {error!r}", where=str(file), mend="make the ensemble anew"
            ) from error
        members = [
            Member(
                _open_member(
                    folder, source, base or its_base, fingerprint, precision, _reading(options, reading, file)
                ),
                Normalisation.from_json(standard, f"{file}, member {source}"),
            )
            for source, its_base, fingerprint, standard, reading in entries
        ]
        return cls(
            members,
            how=values["combine"],
            uncertainty_weight=weight,
            reference=spread,
            measured=together,
            normalisation=normalisation,
            folder=folder,
        )


def _reading(options: ScoringOptions, kept: dict[str, bool], file: Path) -> ScoringOptions:
    """The options with the way of reading under which the member was standardised."""
    found = options.reading(kept, str(file))
    return replace(options, plain_text=found["plain_text"], append_eos=found["append_eos"])


def _open_member(
    folder: Path, source: str, base: str | None, fingerprint: str, precision: str, options: ScoringOptions
) -> Classifier:
    local = (folder / source).resolve() if source.startswith(".") else None
    if local is not None and not local.exists():
        raise RewardError(
            "PL703", f"the member {source} is not there any more", where=str(folder), mend="put it back, or make anew"
        )
    member = Classifier.open(local or source, base=base, precision=precision, options=options)
    if member.fingerprint != fingerprint:
        raise RewardError(
            "PL703",
            f"the member {source} has other weights than when the ensemble was made, so its scale is not known",
            where=str(folder),
            mend="make the ensemble anew",
        )
    return member


def _portable(source: str, folder: Path) -> str:
    """A path as seen from the folder (always with a leading dot); a hub id as it is."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    relative = os.path.relpath(path.resolve(), folder.resolve())
    return relative if relative.startswith(".") else f"./{relative}"


def _flat(by_member: Sequence[Sequence[Sequence[float]]]) -> Array:
    """[member][item][answer] → [M, N]"""
    return np.array([[s for answers in items for s in answers] for items in by_member], dtype=np.float64)
