"""Several rewards as one: a weighted sum behind gates, each part logged.

Gates are asked first. An answer that fails one has its reward, and nothing else is asked about it: a judge is not paid
for an answer in the wrong format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plaudit.rewards.background import in_background
from plaudit.rewards.contract import BadRow, Failure, Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.scoring import guarded
from plaudit.types import Floats

Shaper = Callable[[float, Sample], float]
"""Raises BadRow where the sample lacks what the shaping needs."""
TOTAL = "total"
"""The part that is the sum before shaping."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the rewards that make up a whole.

    Attributes:
        weight: its value is multiplied by it; of no use in a gate.
        at_least: makes it a gate: an answer with a smaller value gets `otherwise` and nothing else.
        when: columns of the row and the values that they must have for the part to apply.
    """

    reward: Reward
    weight: float = 1.0
    at_least: float | None = None
    otherwise: float = 0.0
    when: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, sample: Sample) -> bool:
        """Whether the part has something to say about the sample."""
        return all(
            column in sample.row and sample.row[column] in (wanted if isinstance(wanted, (list, tuple)) else [wanted])
            for column, wanted in self.when.items()
        )


class _Tally:
    """What is known about one sample so far."""

    __slots__ = ("decided", "error", "latents", "notes", "parts", "reached", "steps", "total")

    def __init__(self) -> None:
        self.total, self.reached, self.decided = 0.0, False, False
        self.error: Failure | None = None
        self.parts: dict[str, float] = {}
        self.notes: list[str] = []
        self.steps: dict[int, float] = {}
        self.latents: dict[str, Floats] = {}

    @property
    def open(self) -> bool:
        return not self.decided and self.error is None

    def take(self, part: Part, result: RewardResult) -> None:
        name = part.reward.name
        if result.error is not None and result.error.kind == "not_applicable":
            return
        if result.error is not None:
            self.error = self.error or Failure(result.error.kind, f"{name}: {result.error.message}")
            return
        assert result.value is not None
        self.parts[name] = result.value
        self.parts |= {f"{name}/{inner}": number for inner, number in result.parts.items()}
        self.latents.update((name, vector) for vector in result.latents.values())
        if result.note:
            self.notes.append(f"{name}: {result.note}")
        if part.at_least is None:
            self.total += part.weight * result.value
            self.reached = True
            for end, reward in result.steps:
                self.steps[end] = self.steps.get(end, 0.0) + part.weight * reward
        elif result.value < part.at_least:
            self.total, self.decided = part.otherwise, True
            self.notes.append(f"{name} is below {part.at_least:g}")


class Composite(Reward):
    """A weighted sum of rewards, with gates, then shaping.

    The value is Σ weight · value over the parts that apply, or a gate's `otherwise`; then every shaping in its order.
    Rewards of steps are weighed and added likewise, where they end at the same place, and are not shaped. A sample of
    which one part has an error has no value.

    Args:
        parts: at least one that is no gate; names are unique.
        shaping: applied to the sum; the sum itself stays in the log as the part "total".
    """

    kind = "sum"
    title = "Weighted sum of rewards behind gates"

    def __init__(self, parts: Sequence[Part], shaping: Sequence[Shaper] = ()) -> None:
        super().__init__(RewardOptions())
        self.parts, self.shaping = list(parts), list(shaping)
        self.name = " + ".join(p.reward.name for p in self.parts)
        self.pure = False  # what is pure in it is kept by its parts

    @property
    def columns(self) -> tuple[str, ...]:
        """Of all parts."""
        return tuple(dict.fromkeys(c for p in self.parts for c in (*p.when, *p.reward.columns)))

    def close(self) -> None:
        """Close every part."""
        for part in self.parts:
            part.reward.close()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        tallies = [_Tally() for _ in samples]
        seconds = [0.0] * len(samples)
        for gate in (p for p in self.parts if p.at_least is not None):
            self._ask([gate], samples, tallies, seconds)
        self._ask([p for p in self.parts if p.at_least is None], samples, tallies, seconds)
        return [self._result(*each) for each in zip(samples, tallies, seconds, strict=True)]

    def _ask(
        self, parts: Sequence[Part], samples: Sequence[Sample], tallies: Sequence[_Tally], seconds: list[float]
    ) -> None:
        """Ask parts about the samples that are not decided yet, all at the same time."""
        asked = [[i for i, t in enumerate(tallies) if t.open and p.applies(samples[i])] for p in parts]
        futures = [
            in_background("part", guarded, part.reward, [samples[i] for i in which])
            for part, which in zip(parts, asked, strict=True)
        ]
        for part, which, future in zip(parts, asked, futures, strict=True):
            for i, result in zip(which, future.result(), strict=True):
                tallies[i].take(part, result)
                seconds[i] += result.seconds

    def _result(self, sample: Sample, tally: _Tally, seconds: float) -> RewardResult:
        error = tally.error
        if error is None and not tally.reached and not tally.decided:
            error = Failure(
                "bad_row", "no reward applies to the row: no `when` holds, and no function has anything to say"
            )
        if error is not None:
            return RewardResult.failed(error.kind, error.message, seconds=seconds)
        value, parts = tally.total, tally.parts
        if self.shaping:
            parts = {**parts, TOTAL: value}
            try:
                for shape in self.shaping:
                    value = shape(value, sample)
            except BadRow as problem:
                return RewardResult.failed("bad_row", str(problem), seconds=seconds)
        steps = sorted(tally.steps.items())
        found = RewardResult.of(value, parts=parts, steps=steps, seconds=seconds, note="; ".join(tally.notes))
        return found.beside(tally.latents) if tally.latents and found.error is None else found
