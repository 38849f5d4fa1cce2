"""Answers that are strange to a reward model: outliers among the hidden states that its scalar head reads.

A learned reward is to be trusted where it has seen something. InfoRM (Miao et al. 2024, arXiv 2402.09345; MOP in its
journal version, 2510.13694) holds the latents of the policy's answers against a Gaussian of the reference policy's and
counts those whose squared Mahalanobis distance has a p-value below 0.01. Its latents are 128 numbers trained towards a
standard normal; ours are any reward model's last hidden state, wide and not normal. Hence two differences:

- the covariance is that of probabilistic PCA (Tipping and Bishop 1999): the leading directions with their own variance,
  all others with their mean one. It is invertible whatever the width, and a direction in which the reference hardly
  varies is not left out;
- a p-value is the share of reference answers that lie farther out, of prompts that the Gaussian was not fitted to. It
  is exact for any distribution; χ² is so only for a normal one.

Shapes: N answers, D width of the hidden state, K leading directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from plaudit.online.records import Rollout
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup

Array = npt.NDArray[np.float64]

LEVEL = 0.01
"""p-value below which an answer is an outlier."""
LEAST = 99
"""Fewest reference answers from which a p-value can be below `LEVEL`."""
DIRECTIONS = 32
"""Most leading directions; at least eight answers stand behind each."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A normal distribution with K leading directions and one variance for all others.

    Attributes:
        mean_D: its mean.
        axes_KD: orthonormal rows.
        variances_K: along them.
        rest: along every other direction.
    """

    mean_D: Array
    axes_KD: Array
    variances_K: Array
    rest: float

    @classmethod
    def fit(cls, rows_ND: Array, directions: int = DIRECTIONS) -> Gaussian:
        """Maximum likelihood of probabilistic PCA (Tipping and Bishop 1999, eqs. 7 and 8), N ≥ 2."""
        n, width = rows_ND.shape
        mean = rows_ND.mean(0)
        _, values, axes = np.linalg.svd(rows_ND - mean, full_matrices=False)
        variances: Array = np.asarray(values**2 / (n - 1), dtype=np.float64)
        k = max(0, min(directions, n // 8, width - 1))
        rest = float(variances[k:].sum()) / (width - k)
        # Nothing varies less than rounding: a direction without any variance would make every answer an outlier.
        floor = max(1e-12, 1e-6 * float(variances.sum()) / width)
        return cls(mean, axes[:k], np.maximum(variances[:k], floor), max(rest, floor))

    def distances(self, rows_ND: Array) -> Array:
        """[N] squared Mahalanobis distances: Σ_k z_k² / λ_k + |residual|² / rest."""
        centred = rows_ND - self.mean_D
        along = centred @ self.axes_KD.T
        beside = np.maximum((centred**2).sum(1) - (along**2).sum(1), 0.0)
        return np.asarray((along**2 / self.variances_K).sum(1) + beside / self.rest, dtype=np.float64)


def p_values(distances_N: Array, reference_M: Array) -> Array:
    """[N] (1 + how many of the reference are at least as far out) / (M + 1)."""
    order = np.sort(reference_M)
    beyond = len(order) - np.searchsorted(order, distances_N, side="left")
    return np.asarray((1.0 + beyond) / (len(order) + 1.0), dtype=np.float64)


@dataclass(slots=True)
class _OfOne:
    """What is known of one reward model's latents."""

    gathered: list[tuple[int, Array]] = field(default_factory=list)
    """(prompt, latent) of the first batches, until there are enough"""
    gaussian: Gaussian | None = None
    reference_M: Array | None = None
    """[M] distances of answers that it was not fitted to, rising"""


class LatentWatch:
    """Counts outliers among the answers of each rollout batch. The first batches say what none is.

    All processes see all answers, and so they know the same.

    Args:
        answers: answers of the first batches, half of them for the Gaussian and half for the p-values.
    """

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._models: dict[str, _OfOne] = {}

    def take(self, rollout: Rollout) -> dict[str, tuple[float, float]]:
        """The metrics of a batch, name → (sum, count). The vectors are taken out of the rollout.

        Until enough answers are there the batch is remembered and nothing is said.
        """
        by_name: dict[str, list[tuple[int, Array]]] = {}
        for number, group in enumerate(rollout.scored):
            for result in group.results:
                for name, vector in result.latents.items():
                    by_name.setdefault(name, []).append((number, np.asarray(vector, dtype=np.float64)))
        rollout.scored[:] = [without_latents(group) for group in rollout.scored]
        found: dict[str, tuple[float, float]] = {}
        for name, rows in by_name.items():
            one = self._models.setdefault(name, _OfOne())
            if one.gaussian is None or one.reference_M is None:
                self._gather(one, rows)
                continue
            distances = one.gaussian.distances(np.stack([row for _, row in rows]))
            out = p_values(distances, one.reference_M) < LEVEL
            found[f"rewards/{name}/outliers"] = (float(out.sum()), float(len(out)))
        return found

    def _gather(self, one: _OfOne, rows: Sequence[tuple[int, Array]]) -> None:
        start = 1 + max((prompt for prompt, _ in one.gathered), default=-1)
        one.gathered += [(start + prompt, row) for prompt, row in rows]
        if len(one.gathered) < self._answers:
            return
        # By prompts: answers to one prompt are alike, and would make the distances to themselves too small.
        fitted = [row for prompt, row in one.gathered if prompt % 2 == 0]
        others = [row for prompt, row in one.gathered if prompt % 2]
        if len(others) < max(LEAST, self._answers // 4) or len(fitted) < self._answers // 4:
            return  # too few prompts so far to part them
        one.gaussian = Gaussian.fit(np.stack(fitted))
        one.reference_M, one.gathered = np.sort(one.gaussian.distances(np.stack(others))), []

    # -- checkpoints

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: plain values and tensors."""
        return {name: _state(one) for name, one in self._models.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._models = {name: _of(values) for name, values in state.items()}

    def close(self) -> None:
        """Nothing was started."""


def without_latents(group: ScoredGroup) -> ScoredGroup:
    """The same results without the vectors beside them."""

    def bare(result: RewardResult) -> RewardResult:
        return result.beside({}) if result.latents else result

    return ScoredGroup([bare(r) for r in group.results], None if group.greedy is None else bare(group.greedy))


def _state(one: _OfOne) -> dict[str, Any]:
    if one.gaussian is None or one.reference_M is None:
        return {
            "prompts": [prompt for prompt, _ in one.gathered],
            # What was computed is fp32: nothing is lost.
            "rows": [torch.from_numpy(row.astype(np.float32)) for _, row in one.gathered],
        }
    return {
        "mean": torch.from_numpy(one.gaussian.mean_D),
        "axes": torch.from_numpy(np.ascontiguousarray(one.gaussian.axes_KD)),
        "variances": torch.from_numpy(one.gaussian.variances_K),
        "rest": one.gaussian.rest,
        "reference": torch.from_numpy(one.reference_M),
    }


def _of(values: Mapping[str, Any]) -> _OfOne:
    if "mean" not in values:
        rows = [row.numpy().astype(np.float64) for row in values["rows"]]
        return _OfOne(list(zip(values["prompts"], rows, strict=True)))
    arrays = [values[name].numpy() for name in ("mean", "axes", "variances")]
    return _OfOne([], Gaussian(arrays[0], arrays[1], arrays[2], values["rest"]), values["reference"].numpy())
