"""The objective on held-out groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from plaudit.methods.base import Method
from plaudit.train.parallel import World
from plaudit.train.schedule import chunks
from plaudit.train.source import Preparer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import PromptGroup


class Evaluation(Protocol):
    """Measures the model as it is."""

    def measure(self, step: int, *, part: bool = False) -> dict[str, float]:
        """Metrics by name, the same on every process. `part`: a small part, to learn which metrics there are."""
        ...


@dataclass(slots=True)
class HeldOutLoss:
    """The method's own loss and metrics on held-out groups.

    Args:
        groups: may be empty, when nobody evaluates.
        groups_per_step: groups that are looked at together, as in training.
    """

    method: Method
    groups: Sequence[PromptGroup]
    groups_per_step: int
    preparer: Preparer
    runner: StepRunner
    world: World

    @torch.no_grad()
    def measure(self, step: int, *, part: bool = False) -> dict[str, float]:
        """See `Evaluation`."""
        totals = Totals()
        sums: dict[str, float] = {}
        denominators: dict[str, float] = {}
        parts = chunks(len(self.groups), self.groups_per_step, self.method.min_groups)
        for number, (start, end) in enumerate(parts[:1] if part else parts):
            batch = self.preparer.batch_of(self.groups[start:end], 11, number)
            own, counts = self.runner.evaluate(Stream(self.method, batch, range(len(batch.groups))), totals)
            for name, value in self.world.sum_values(own).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, count in counts.items():
                denominators[name] = denominators.get(name, 0.0) + count
        coefficients = self.method.coefficients()
        loss = sum(coefficients[n] * sums[n] / denominators[n] for n in sums if denominators[n] > 0)
        metrics = {"loss": loss, **totals.read(self.world)}
        return {**metrics, **self.method.derived(metrics)}
