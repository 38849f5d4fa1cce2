"""`RewardModel`: whatever gives answers a number, behind one interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import RewardError
from plaudit.rewards.models.card import SCORES
from plaudit.rewards.models.conversations import Item, Overlong
from plaudit.rewards.models.normalisation import Measured, Normalisation, fit, measure
from plaudit.types import Floats


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How answers are scored.

    Attributes:
        tokens: packed tokens of one forward pass.
        overlong: a conversation longer than the model's positions is an error, or loses its oldest tokens and is
            counted.
        plain_text: for models from elsewhere that have a chat template: read text as it is, instead of as a user's and
            an assistant's message. None is no, or what the model was normalised with.
        append_eos: for models from elsewhere: end plain text with EOS. None is yes, or what the model was normalised
            with.
    """

    tokens: int = 8192
    overlong: Overlong = "error"
    plain_text: bool | None = None
    append_eos: bool | None = None

    def reading(self, kept: Mapping[str, Any], where: str) -> dict[str, bool]:
        """How text is read: as asked for, else as kept with a normalisation, else the default.

        Raises:
            RewardError: PL702, it is asked for otherwise than it was when the model was normalised.
        """
        found = {"plain_text": False, "append_eos": True, **kept}
        for name, asked in (("plain_text", self.plain_text), ("append_eos", self.append_eos)):
            if asked is not None and name in kept and asked != kept[name]:
                raise RewardError(
                    "PL702",
                    f"{name} is {asked}, and the model was normalised with {kept[name]}: its scale would not hold",
                    where=where,
                    mend="leave the option out, or normalise anew",
                )
            found[name] = found[name] if asked is None else asked
        return found


@dataclass(frozen=True, slots=True)
class Looked:
    """Scores with what belongs beside them where a run is watched.

    Attributes:
        scores: [item][answer] normalised.
        spread: [item][answer] standard deviation over an ensemble's members, relative to its mean on the reference set;
            None for anything else.
        latents: [item][answer] → [D] what the head reads; None where there is no such vector.
    """

    scores: list[list[float]]
    spread: list[list[float]] | None = None
    latents: list[list[Floats]] | None = None


class RewardModel(ABC):
    """Scores answers.

    Attributes:
        name: what messages call it: its path or hub id.
        normalisation: gain and bias; applied by `score`, not by `raw_score`.
        notes: decisions of loading, for the log.
    """

    name: str
    normalisation: Normalisation
    notes: list[str]

    @staticmethod
    def load(
        source: str | Path,
        *,
        base: str | None = None,
        precision: str = "auto",
        options: ScoringOptions | None = None,
    ) -> RewardModel:
        """Load a reward model, or an ensemble of them.

        Args:
            source: run directory of `plaudit reward`, its model folder, an adapter folder, an ensemble folder, or any
                transformers sequence classifier with one label (folder or hub id).
            base: the base model, where an adapter does not name a usable one.
            precision: auto, fp32 or bf16.
            options: how answers are scored.

        Raises:
            RewardError: PL701 not a reward model, PL702 or PL703 its stored values are damaged.
            ConfigError: PL102; ModelError: PL301, PL303, PL306.
        """
        from plaudit.rewards.models.card import ENSEMBLE_FILE
        from plaudit.rewards.models.ensemble import Ensemble

        options = options or ScoringOptions()
        if (Path(source).expanduser() / ENSEMBLE_FILE).is_file():
            return Ensemble.open(Path(source).expanduser(), base=base, precision=precision, options=options)
        from plaudit.rewards.models.classifier import Classifier

        return Classifier.open(source, base=base, precision=precision, options=options)

    def score(self, items: Sequence[Item]) -> list[list[float]]:
        """Normalised scores.

        Args:
            items: (prompt, answers); text or chat messages.

        Returns:
            [item][answer]

        Raises:
            RewardError: PL705, an item cannot be scored; DataError: PL208, messages without a chat template.
        """
        return [[self.normalisation(raw) for raw in answers] for answers in self.raw_score(items)]

    def look(self, items: Sequence[Item], *, latents: bool = False) -> Looked:
        """`score`, with what belongs beside it. The scores are the same.

        Args:
            latents: whether the vectors that the head reads are wanted.
        """
        return Looked(self.score(items))

    @property
    def highest(self) -> float | None:
        """The largest normalised score of any answer that it was measured on (training, normalisation); None where
        nothing says."""
        known = [m.highest for m in (self.measured, self.normalisation.measured) if m is not None]
        found = [raw for raw in known if raw is not None]
        return self.normalisation(max(found)) if found else None

    @property
    def measured(self) -> Measured | None:
        """Raw scores of the answers that it was trained on, or put together on."""
        return None

    @abstractmethod
    def raw_score(self, items: Sequence[Item]) -> list[list[float]]:
        """What the model itself says: `score` without gain and bias. Same arguments and errors."""

    @property
    @abstractmethod
    def has_template(self) -> bool:
        """Whether it reads chat messages."""

    @property
    @abstractmethod
    def truncated(self) -> int:
        """Answers scored so far whose conversation lost its oldest tokens."""

    @abstractmethod
    def save_normalisation(self) -> Path:
        """Keep the present normalisation with the model and return the file it is in.

        Raises:
            RewardError: PL702, the model has no folder to keep it in.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a copy, with the normalisation, to an empty folder."""


def trained_range(card: Mapping[str, Any], where: str) -> Measured | None:
    """What `plaudit reward` wrote about the scores of its training data; None where it wrote nothing.

    Raises:
        RewardError: PL702, the values are damaged.
    """
    kept = card.get(SCORES)
    try:
        return None if kept is None else Measured.from_json(kept)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RewardError(
            "PL702",
            f"the stored range of scores is damaged: {error!r}",
            where=where,
            mend=f"remove {SCORES} from the file",
        ) from error


def normalise(
    model: RewardModel, demonstrations: Sequence[Item], *, std: float | None = None, data: Sequence[str] = ()
) -> Normalisation:
    """Give the model the normalisation under which the demonstrations have mean 0, and standard deviation `std`.

    It is fitted to raw scores, so doing it twice is doing it once. Nothing is written: see
    `RewardModel.save_normalisation`.

    Args:
        demonstrations: reference answers; every answer of every item counts once.
        std: target standard deviation; None keeps the model's unit (gain 1).
        data: names of the sources, kept beside the numbers.

    Raises:
        RewardError: PL702, no demonstrations, or no spread to scale; PL705 from scoring.
    """
    flat = [s for answers in model.raw_score(demonstrations) for s in answers]
    largest = max((abs(s) for s in flat), default=1.0)
    model.normalisation = fit(measure(flat, data), std=std, largest=largest)
    return model.normalisation


def check_finite(scores: Sequence[Sequence[float]], name: str) -> None:
    """Refuse a score that is no number: it would poison every mean it enters.

    Raises:
        RewardError: PL705.
    """
    for i, answers in enumerate(scores, start=1):
        for k, value in enumerate(answers, start=1):
            if not math.isfinite(value):
                raise RewardError(
                    "PL705",
                    f"{name} gives the score {value}",
                    where=f"item {i}, answer {k}",
                    mend="the model's weights are damaged, or its precision is too small: try --precision fp32",
                )
