"""Which prompts a rollout batch has: those of the schedule, or (curriculum) those from which there is most to learn.

Everything is a function of the seed, the number of the batch and, with a curriculum, of the pass rates known when the
batch was asked for. A request holds all of it, so that a batch that is made again is the same one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plaudit.config.schema import RolloutSection
from plaudit.errors import TrainingError
from plaudit.train.schedule import Schedule

Array = npt.NDArray[np.float64]
_KEPT = 0.5
"""Share of what was known of a prompt that counts beside its newest answers: the policy has changed since."""
_LEAST = 1e-9
"""A share below it is rounding."""


@dataclass(frozen=True)
class Request:
    """The prompts of one rollout batch.

    Attributes:
        number: of the batch.
        indices: prompts of the run's data.
        seed: of the run.
        weights: [prompts of the run] probability of each prompt to be drawn; None = all the same.
        total: prompts of the run.
    """

    number: int
    indices: tuple[int, ...]
    seed: int
    total: int
    weights: Array | None = None

    def more(self, attempt: int, count: int, used: Collection[int]) -> list[int]:
        """At most `count` prompts that are not `used`, for a further round of sampling."""
        rng = np.random.default_rng([self.seed, 36, self.number, attempt])
        weights = np.ones(self.total) if self.weights is None else self.weights.copy()
        weights[list(used)] = 0.0
        return drawn(weights, count, rng)

    def state(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        weights = None if self.weights is None else torch.from_numpy(self.weights)
        return {"number": self.number, "indices": list(self.indices), "weights": weights}


def drawn(weights: Array, count: int, rng: np.random.Generator) -> list[int]:
    """Indices drawn one after the other without putting back, with probabilities proportional to their weights.

    By exponential races (Efraimidis and Spirakis 2006): an index with weight w arrives at a time of rate w, and the
    first `count` are taken. Those with weight 0 never arrive.
    """
    arrivals = np.full(len(weights), np.inf)
    times = rng.exponential(size=len(weights))  # of every index, so that a draw does not depend on which are used
    np.divide(times, weights, out=arrivals, where=weights > 0)
    order = np.argsort(arrivals, kind="stable")[:count]
    return [int(i) for i in order if np.isfinite(arrivals[i])]


@dataclass(slots=True)
class PassRates:
    """What is known about how often each prompt is answered well: decaying counts, so that the newest say most."""

    passed: dict[int, float] = field(default_factory=dict)
    tried: dict[int, float] = field(default_factory=dict)

    def learn(self, seen: Mapping[int, tuple[float, int]]) -> None:
        """Take note of prompt → (answers that passed, answers)."""
        for index, (passed, tried) in seen.items():
            self.passed[index] = _KEPT * self.passed.get(index, 0.0) + passed
            self.tried[index] = _KEPT * self.tried.get(index, 0.0) + tried

    def rates(self, total: int) -> Array:
        """[total] pass rates, half a pass and half a failure (Jeffreys' prior) beside what was seen: ½ where nothing
        was."""
        passed, tried = np.zeros(total), np.zeros(total)
        passed[list(self.passed)], tried[list(self.tried)] = list(self.passed.values()), list(self.tried.values())
        found: Array = (passed + 0.5) / (tried + 1.0)
        return found

    def weights(self, total: int, uniform: float) -> Array:
        """[total] probabilities: p (1 − p), the variance of an answer's outcome, for a share of 1 − `uniform` of the
        draws (sampling for learnability, Foster et al. 2025, arXiv 2502.12272); the rest falls on every prompt alike.
        """
        rates = self.rates(total)
        learnable = rates * (1.0 - rates)
        found: Array = (1.0 - uniform) * learnable / learnable.sum() + uniform / total
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"passed": dict(self.passed), "tried": dict(self.tried)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.passed, self.tried = dict(state["passed"]), dict(state["tried"])


@dataclass(slots=True)
class PromptChooser:
    """Chooses the prompts of every batch.

    Args:
        total: prompts of the run.
    """

    schedule: Schedule
    options: RolloutSection
    seed: int
    total: int
    rates: PassRates = field(default_factory=PassRates)

    def request(self, number: int) -> Request:
        """Batch `number`, with as many prompts as the schedule gives it."""
        scheduled = self.schedule.groups_of(number * self.schedule.steps_per_batch)
        if self.options.curriculum == "none":
            return Request(number, tuple(scheduled), self.seed, self.total)
        weights = self.rates.weights(self.total, self.options.curriculum_uniform)
        rng = np.random.default_rng([self.seed, 35, number])
        chosen = tuple(drawn(weights, len(scheduled), rng))
        return Request(number, chosen, self.seed, self.total, weights)

    def restored(self, state: Mapping[str, Any]) -> Request:
        """What `Request.state` described."""
        weights = state["weights"]
        found = None if weights is None else weights.numpy()
        return Request(state["number"], tuple(state["indices"]), self.seed, self.total, found)

    def learn(self, seen: Mapping[int, tuple[float, int]]) -> None:
        """Take note of what came of a batch: prompt → (answers that passed, answers)."""
        if self.options.curriculum != "none":
            self.rates.learn(seen)


def outcomes(rewards: Sequence[float], threshold: float | None) -> list[float]:
    """How far each answer passes: 1 or 0 by the threshold, and without one its reward, which must be a share.

    Raises:
        TrainingError: PL405, no threshold, and a reward outside of 0 … 1.
    """
    if threshold is not None:
        return [float(r >= threshold - _LEAST * max(1.0, abs(threshold))) for r in rewards]
    outside = [r for r in rewards if not -_LEAST <= r <= 1 + _LEAST or math.isnan(r)]
    if outside:
        raise TrainingError(
            "PL405",
            f"the curriculum goes by pass rates, and a reward is {outside[0]:.4g}, outside of 0 … 1",
            where="rollout.curriculum",
            mend="say with rollout.pass_threshold from which reward on an answer passes",
        )
    return [min(1.0, max(0.0, r)) for r in rewards]
