"""Where the batches of optimiser steps come from: groups that are there already, or (in `plaudit.online`) rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from plaudit.methods.base import Batch, Method
from plaudit.train.schedule import Schedule
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import Stream, Totals
from plaudit.types import PromptGroup


class StepSource(Protocol):
    """What the training loop asks for its steps."""

    def streams(self, step: int, totals: Totals) -> list[Stream]:
        """What optimiser step `step` (counted from 0) trains on; empty: nothing, and no weight changes.

        Args:
            totals: takes what is known about the batch as a whole, as metrics.
        """
        ...

    def after_step(self, step: int, totals: Totals) -> None:
        """The step is done; `totals` has its metrics."""
        ...

    def state(self) -> Any:
        """What a checkpoint between two steps has to hold: plain values and tensors, or None."""
        ...

    def restore(self, state: Any) -> None:
        """Go on from what `state` returned."""
        ...

    def close(self) -> None:
        """No more steps follow."""
        ...


@dataclass(slots=True)
class Preparer:
    """Makes batches of groups that a method may extend.

    Args:
        max_length: longest sequence that the data and the model allow.
        seed: of the run; the randomness of a batch depends on it and the batch's number alone.
    """

    method: Method
    scorer: GroupScorer
    seed: int
    max_length: int | None = None

    def batch_of(self, groups: Sequence[PromptGroup], stream: int, number: int) -> Batch:
        """A prepared batch."""
        batch = Batch([replace(g, completions=list(g.completions)) for g in groups], max_length=self.max_length)
        self.method.prepare_batch(batch, self.scorer, np.random.default_rng([self.seed, stream, number]))
        return batch


@dataclass(slots=True)
class GivenGroups:
    """Steps on groups that are there already: their order is a function of seed and step, so nothing is kept."""

    method: Method
    groups: Sequence[PromptGroup]
    schedule: Schedule
    preparer: Preparer

    def streams(self, step: int, totals: Totals) -> list[Stream]:
        """See `StepSource`."""
        groups = [self.groups[i] for i in self.schedule.groups_of(step)]
        batch = self.preparer.batch_of(groups, 10, step)
        return [Stream(self.method, batch, range(len(batch.groups)))]

    def after_step(self, step: int, totals: Totals) -> None:
        """See `StepSource`."""

    def state(self) -> Mapping[str, Any] | None:
        """See `StepSource`."""
        return None

    def restore(self, state: Any) -> None:
        """See `StepSource`."""

    def close(self) -> None:
        """See `StepSource`."""
