"""Which answers are adversarial: pure functions on scores.

An answer is adversarial when it scores high and the members disagree about it more than they do about the data's own
answers. Source: Adv-RM (Bukharin et al. 2025, arXiv 2504.06141): R1 is high, R2 (the same data, another seed) is not,
and the z-score of the disagreement is above 1.96.

Deviations: the paper trains a policy to maximise R1 − λ R2 and keeps what it finds; here the policies are given. The
z-score is against the disagreement on the chosen and rejected answers of the data, which the members were fitted to.

Shapes: M members, R reference answers, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from plaudit.errors import RewardError
from plaudit.rewards.models.normalisation import fit, measure

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Criterion = Literal["first", "mean"]
Divergence = Literal["std", "difference"]

Z = 1.96
"""The paper's threshold."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the reference answers say of the members: gain and bias of each, and how far they usually are apart.

    Attributes:
        gain_M, bias_M: with them the reference answers have mean 0 and standard deviation 1 under every member.
        mean, std: of the disagreement on the reference answers (std is the population's).
    """

    gain_M: Array
    bias_M: Array
    criterion: Criterion
    divergence: Divergence
    mean: float
    std: float

    @classmethod
    def of(cls, raw_MR: Array, criterion: Criterion, divergence: Divergence, names: Sequence[str] = ()) -> Scale:
        """Fitted to the raw scores of the reference answers.

        Raises:
            RewardError: PL702, a member gives all of them the same score; PL703, the members never disagree in
                different degrees, so that no disagreement is unusual (two copies of one model).
        """
        found = []
        for raw in raw_MR:
            found.append(fit(measure(raw.tolist(), names), std=1.0, largest=float(np.abs(raw).max(initial=1.0))))
        gain, bias = np.array([f.gain for f in found]), np.array([f.bias for f in found])
        apart = disagreement(_scaled(raw_MR, gain, bias), divergence)
        if apart.std() <= 1e-9:
            raise RewardError(
                "PL703",
                f"the members are equally far apart on all {apart.size} reference answers, so no disagreement is "
                "unusual",
                where=", ".join(names) or None,
                mend="they are one model: give one that saw the data in another order, or other data (--second)",
            )
        return cls(gain, bias, criterion, divergence, float(apart.mean()), float(apart.std()))

    def standard(self, raw_MN: Array) -> Array:
        """[M, N] scores in which the reference answers have mean 0 and standard deviation 1."""
        return _scaled(raw_MN, self.gain_M, self.bias_M)

    def score(self, raw_MN: Array) -> Array:
        """[N] the standardised score by which an answer is high or not: the first member's, or the members' mean."""
        scores = self.standard(raw_MN)
        found: Array = scores[0] if self.criterion == "first" else scores.mean(0)
        return found

    def z(self, raw_MN: Array) -> Array:
        """[N] how many standard deviations an answer's disagreement is above that of the reference answers."""
        found: Array = (disagreement(self.standard(raw_MN), self.divergence) - self.mean) / self.std
        return found


def _scaled(raw_MN: Array, gain_M: Array, bias_M: Array) -> Array:
    found: Array = gain_M[:, None] * raw_MN + bias_M[:, None]
    return found


def disagreement(scores_MN: Array, how: Divergence) -> Array:
    """How far the members are apart. [M, N] standardised scores → [N]

    Args:
        how: std, the members' standard deviation (divided by M), which is |R1 − R2| / 2 for two; or difference, the
            first member's score less the mean of the others', R1 − R2, which is large only where the first is the one
            that is taken in.
    """
    if how == "std":
        std: Array = scores_MN.std(0)
        return std
    others: Array = scores_MN[0] - scores_MN[1:].mean(0)
    return others


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the scores say of every candidate. Every array is [N].

    Attributes:
        score: standardised.
        bar: what it has to exceed.
        z: of the disagreement.
        high, unusual: whether it scores above the bar, and whether its z is above the threshold.
    """

    score: Array
    bar: Array
    z: Array
    high: Mask
    unusual: Mask

    @property
    def adversarial(self) -> Mask:
        """High and unusual."""
        return self.high & self.unusual


def judge(scale: Scale, raw_MN: Array, bar_N: Array, z: float = Z) -> Verdict:
    """Apply both conditions.

    Args:
        raw_MN: raw scores of the candidates.
        bar_N: standardised score that each has to exceed; see `bars`.
        z: threshold; −inf leaves the first condition alone.
    """
    score, found = scale.score(raw_MN), scale.z(raw_MN)
    return Verdict(score, bar_N, found, score > bar_N, found > z)


def bars(chosen: Sequence[Sequence[float]], quantile: float | None = None) -> list[float]:
    """What the answers to each prompt have to exceed.

    Args:
        chosen: [prompt][answer] standardised scores of the chosen answers, at least one of each prompt.
        quantile: one bar for all prompts, this quantile of all chosen scores; None = the prompt's own chosen answer,
            and where it has several the best of them.
    """
    if quantile is None:
        return [max(scores) for scores in chosen]
    one = float(np.quantile(np.concatenate([np.asarray(s, dtype=np.float64) for s in chosen]), quantile))
    return [one] * len(chosen)


def best_of_each(groups_N: Sequence[int], score_N: Array, wanted_N: Mask, limit: int) -> Mask:
    """[N] of the wanted ones, at most `limit` of each group: those with the highest scores, of equal ones the first."""
    kept = np.zeros(len(score_N), dtype=np.bool_)
    count: dict[int, int] = {}
    for i in sorted(np.flatnonzero(wanted_N).tolist(), key=lambda i: (-score_N[i], i)):
        group = groups_N[i]
        if count.get(group, 0) < limit:
            kept[i] = True
            count[group] = count.get(group, 0) + 1
    return kept
