"""Shaping as configurations write it: each step is a function of the reward and of the sample it belongs to."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plaudit.data.turns import RowProblem, parse_turns, turns_key
from plaudit.errors import ConfigError
from plaudit.methods.policy.advantages import soft_overlong
from plaudit.rewards import shaping
from plaudit.rewards.contract import BadRow, Sample
from plaudit.rewards.verifiers.shape import Unit, measured


class Step(BaseModel, ABC):
    """One step of shaping, with its options."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, ignored_types=(cached_property,)
    )

    @abstractmethod
    def apply(self, value: float, sample: Sample) -> float:
        """The reward behind this step.

        Raises:
            BadRow: the sample lacks what is needed.
        """

    def check(self) -> None:
        """Notice before anything is scored what cannot work.

        Raises:
            ConfigError: PL102; DataError from reading files.
        """

    def identity(self) -> str:
        """Equal for two steps that do the same."""
        return f"{type(self).__name__}:{self.model_dump_json()}"


class Clip(Step):
    """Hold the reward between two bounds."""

    low: float = -math.inf
    """The lower one."""
    high: float = math.inf
    """The upper one."""

    @model_validator(mode="after")
    def _bounds(self) -> Clip:
        if not self.low < self.high or (math.isinf(self.low) and math.isinf(self.high)):
            raise ValueError("give low, high or both, low below high")
        return self

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return float(shaping.clip(value, self.low, self.high))


class Standardise(Step):
    """(reward − mean) / std, with numbers of reference answers (`plaudit score` prints them)."""

    mean: float = Field(allow_inf_nan=False)
    """Of the reference answers."""
    std: float = Field(gt=0, allow_inf_nan=False)
    """Of the reference answers."""

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return float(shaping.standardise(value, self.mean, self.std))


class LengthPenalty(Step):
    """Subtract per_unit for every unit above a free length."""

    free: float = Field(300, ge=0)
    """Length without penalty."""
    per_unit: float = Field(0.01, gt=0, allow_inf_nan=False)
    """What each further unit costs."""
    most: float = Field(math.inf, gt=0)
    """The largest penalty."""
    unit: Unit = "tokens"
    """What is counted."""

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return value + float(shaping.length_penalty(measured(sample, self.unit), self.free, self.per_unit, self.most))


class SoftOverlong(Step):
    """DAPO's punishment of answers near the length limit: 0 to −1 over the last `cache` units, −1 beyond."""

    longest: int = Field(gt=0)
    """From here on the punishment is whole."""
    cache: int = Field(gt=0)
    """The units below `longest` over which it grows."""
    unit: Unit = "tokens"
    """What is counted."""

    @model_validator(mode="after")
    def _fits(self) -> SoftOverlong:
        if self.cache > self.longest:
            raise ValueError(f"cache is {self.cache}, above longest {self.longest}")
        return self

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return value + float(soft_overlong(measured(sample, self.unit), self.longest, self.cache))


class Threshold(Step):
    """One number from a threshold on, another below."""

    at: float = Field(allow_inf_nan=False)
    """The least reward that counts."""
    above: float = Field(1.0, allow_inf_nan=False)
    """What it becomes."""
    below: float = Field(0.0, allow_inf_nan=False)
    """What a smaller one becomes."""

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return float(shaping.threshold(value, self.at, self.above, self.below))


class Par(Step):
    """Preference as reward: the mean probability of beating reference answers to the same prompt, in (0, 1)."""

    references: str | None = None
    """A file of reference answers that `plaudit score` wrote with the same rewards: prompts and scores."""
    column: str = "reference_scores"
    """Without a file: the column of the row with the references' scores, a number or a list."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """In units of the reward. About the standard deviation of the rewards of reference answers; where differences are
    much larger, the sigmoid saturates and all rewards are 0 or 1."""

    def check(self) -> None:
        """Read the file, where there is one."""
        if self.references is not None:
            len(self._table)

    def identity(self) -> str:
        """With the references' scores."""
        table = "" if self.references is None else json.dumps(self._table, sort_keys=True)
        return f"{super().identity()}:{hashlib.blake2b(table.encode(), digest_size=16).hexdigest()}"

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return float(shaping.par(value, self._scores(sample), self.temperature))

    def _scores(self, sample: Sample) -> list[float]:
        if self.references is not None:
            found = self._table.get(turns_key(sample.prompt))
            if found is None:
                raise BadRow(f"{self.references} has no reference answer to the prompt")
            return found
        given: Any = sample.row.get(self.column)
        scores = given if isinstance(given, (list, tuple)) else [given]
        numbers = [s for s in scores if isinstance(s, (int, float)) and not isinstance(s, bool) and math.isfinite(s)]
        if not numbers or len(numbers) < len(scores):
            raise BadRow(f"the column {self.column!r} with the references' scores has {given!r}, must be numbers")
        return numbers

    @cached_property
    def _table(self) -> dict[str, list[float]]:
        assert self.references is not None
        return reference_table(self.references)


def reference_table(file: str) -> dict[str, list[float]]:
    """The scores of each prompt's reference answers, from a file that `plaudit score` wrote.

    Raises:
        ConfigError: PL102, the file has no prompt with a score; DataError from reading it.
    """
    from plaudit.data.readers import read

    table: dict[str, list[float]] = {}
    for number, row in read(file).rows:
        scores = row.get("score", row.get("scores"))
        for score in scores if isinstance(scores, list) else [scores]:
            if row.get("prompt") and isinstance(score, (int, float)) and math.isfinite(score):
                try:
                    prompt = turns_key(parse_turns(row["prompt"]))
                except RowProblem as problem:
                    raise ConfigError(
                        "PL102",
                        f"a prompt {problem.detail}",
                        where=f"{file}:{number}",
                        mend="mend the row, or leave it out",
                    ) from problem
                table.setdefault(prompt, []).append(float(score))
    if not table:
        raise ConfigError(
            "PL102",
            "no row has a prompt and a score",
            where=file,
            mend="score answers of the reference model with the same rewards: plaudit score … -o FILE",
        )
    return table


class LogSigmoid(Step):
    """log σ(reward − the references' 85th percentile): gains above it hardly count."""

    mean: float = Field(allow_inf_nan=False)
    """Of the reference answers."""
    std: float = Field(gt=0, allow_inf_nan=False)
    """Of the reference answers."""

    def apply(self, value: float, sample: Sample) -> float:
        """See `Step`."""
        return float(shaping.log_sigmoid_centred(value, self.mean, self.std))


SHAPINGS: dict[str, type[Step]] = {
    "clip": Clip,
    "standardise": Standardise,
    "length_penalty": LengthPenalty,
    "soft_overlong": SoftOverlong,
    "threshold": Threshold,
    "par": Par,
    "log_sigmoid": LogSigmoid,
}
"""Name → step."""
