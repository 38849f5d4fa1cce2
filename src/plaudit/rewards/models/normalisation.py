"""Gain and bias of a reward: the scale is free, so it is fixed on reference answers and kept with the model.

A reward model is trained on differences. Its zero is arbitrary, and mostly its unit too. Fixing both makes rewards of
different models comparable, and a KL coefficient transferable. Normalisation is applied when a model is used and is
never trained: it is no parameter, and transformers' own score of the same folder is the raw one.

Sources: Stiennon et al. 2020 (arXiv 2009.01325) and Ouyang et al. 2022 (2203.02155) shift the mean score of the
reference demonstrations to 0; Ziegler et al. 2019 (1909.08593, code) set mean and standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.errors import RewardError

_NO_SPREAD = 1e-9
"""A standard deviation below this share of the largest score is rounding noise."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw scores of the reference answers.

    Attributes:
        answers: how many there were.
        mean, std: of their scores; std is the population's (divided by n).
        data: names of the sources.
        highest, p99: the largest of them and their 99th percentile; None in files of before they were kept.
    """

    answers: int
    mean: float
    std: float
    data: tuple[str, ...] = ()
    highest: float | None = None
    p99: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The form in which it is kept with a model."""
        values = {"answers": self.answers, "mean": self.mean, "std": self.std, "data": list(self.data)}
        return values | {n: v for n, v in (("highest", self.highest), ("p99", self.p99)) if v is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measured:
        """What `to_json` wrote; KeyError, TypeError or ValueError where it did not."""
        more = {name: float(values[name]) for name in ("highest", "p99") if values.get(name) is not None}
        data = tuple(map(str, values["data"]))
        return cls(int(values["answers"]), float(values["mean"]), float(values["std"]), data, **more)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """r' = gain · r + bias.

    Attributes:
        measured: what the two numbers were derived from; None for the identity, or where they were given.
    """

    gain: float = 1.0
    bias: float = 0.0
    measured: Measured | None = None

    def __call__(self, raw: float) -> float:
        return self.gain * raw + self.bias

    @property
    def is_identity(self) -> bool:
        return self.gain == 1.0 and self.bias == 0.0

    def to_json(self) -> dict[str, Any]:
        """The form in which it is kept with a model."""
        values: dict[str, Any] = {"gain": self.gain, "bias": self.bias}
        if self.measured is not None:
            values["measured"] = self.measured.to_json()
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Normalisation:
        """What `to_json` wrote.

        Raises:
            RewardError: PL702, the values are not numbers, or the gain is not positive (it would turn the preferences
                round, or make all answers equal).
        """
        try:
            gain, bias = float(values["gain"]), float(values["bias"])
            kept = values.get("measured")
            measured = None if kept is None else Measured.from_json(kept)
        except (KeyError, TypeError, ValueError) as error:
            raise RewardError(
                "PL702", f"the stored normalisation is damaged: {error!r}", where=where, mend="normalise the model anew"
            ) from error
        if not (math.isfinite(gain) and math.isfinite(bias) and gain > 0):
            raise RewardError(
                "PL702",
                f"the stored normalisation is unusable: gain {gain:g}, bias {bias:g}",
                where=where,
                mend="normalise the model anew; the gain must be positive",
            )
        return cls(gain, bias, measured)


def measure(scores: Sequence[float], data: Sequence[str] = ()) -> Measured:
    """Mean and population standard deviation of scores, summed without rounding error, and the top of their range.

    Raises:
        RewardError: PL702, there are no scores.
    """
    if not scores:
        raise RewardError(
            "PL702",
            "there are no reference answers to normalise on",
            mend="give some demonstrations",
            where="the demonstrations",
        )
    mean = math.fsum(scores) / len(scores)
    variance = math.fsum((s - mean) ** 2 for s in scores) / len(scores)
    p99 = sorted(scores)[max(0, math.ceil(0.99 * len(scores)) - 1)]
    return Measured(len(scores), mean, math.sqrt(variance), tuple(data), max(scores), p99)


def fit(measured: Measured, *, mean: float = 0.0, std: float | None = None, largest: float = 1.0) -> Normalisation:
    """The normalisation that brings the reference answers to a mean, and to a standard deviation if one is asked for.

    Without `std`: gain 1, bias = mean − μ_D. With it: gain = std/σ_D, bias = mean − gain·μ_D (Ziegler et al. 2019).

    Args:
        measured: μ_D and σ_D of the raw scores.
        mean, std: targets; std None leaves the unit as it is.
        largest: magnitude of the scores, against which σ_D counts as zero or not.

    Raises:
        RewardError: PL702, the target is not positive, or the reference scores are all the same.
    """
    if std is None:
        return Normalisation(1.0, mean - measured.mean, measured)
    if not (math.isfinite(std) and std > 0):
        raise RewardError(
            "PL702", f"the target standard deviation is {std:g}, must be positive", where="std", mend="for example 1"
        )
    if measured.std <= _NO_SPREAD * max(largest, abs(measured.mean)):
        raise RewardError(
            "PL702",
            f"all {measured.answers} reference answers have the same score ({measured.mean:.6g}), so there is no "
            "spread to scale",
            where=", ".join(measured.data) or None,
            mend="give several different reference answers, or normalise the mean alone",
        )
    gain = std / measured.std
    return Normalisation(gain, mean - gain * measured.mean, measured)
