"""What a frontier consists of, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.laws import Law, LawFit

RewardName = Literal["proxy", "gold"]
ONE_CURVE = "policy"
"""The name of the policy's curve where there is one only; of several, each has its run's name."""
BEST_OF_CURVE = "best of n"


@dataclass(frozen=True, slots=True)
class Start:
    """The reference: where every curve begins.

    Attributes:
        prompts: that every number is of; `left_out`: more, to which some model has no answer with both rewards.
        answers: with both rewards; `failed`: without.
        proxy, gold: mean rewards, which gains are counted from.
        proxy_std, gold_std: of its answers, the unit of the gap.
        correlation: of proxy and gold on its answers; None where one of them does not vary.
    """

    name: str
    prompts: int
    left_out: int
    answers: int
    failed: int
    proxy: float
    gold: float
    proxy_std: float
    gold_std: float
    correlation: float | None


@dataclass(frozen=True, slots=True)
class PolicyPoint:
    """One model of a curve.

    Attributes:
        curve: its name.
        step: of the run; None where it is not known.
        kl: KL(policy ‖ reference) per answer in nats; the estimate of a small one can be negative.
        distance: √KL.
        proxy, gold: gains over the reference; `proxy_mean` and `gold_mean` are the rewards themselves.
        gap: gain in proxy less gain in gold, each in standard deviations of the reference's answers; None where one of
            them does not vary.
        correlation: of proxy and gold on its answers; `within`: of their deviations from the prompt's mean.
    """

    name: str
    step: int | None
    answers: int
    failed: int
    kl: Estimate
    distance: Estimate
    proxy: Estimate
    gold: Estimate
    proxy_mean: float
    gold_mean: float
    gap: Estimate | None
    correlation: Estimate | None
    within: Estimate | None
    curve: str = ONE_CURVE


@dataclass(frozen=True, slots=True)
class BestOfPoint:
    """One point of the best-of-n curve, chosen by the proxy among the reference's answers.

    Attributes:
        bound: log n − (n − 1)/n.
        kl: the same with ties allowed for; equal to the bound where the proxy has none.
        distance: √kl.
        prompts: with at least n answers.
        proxy, gold: gains over a random answer.
    """

    n: int
    bound: float
    kl: Estimate
    distance: Estimate
    prompts: int
    proxy: Estimate
    gold: Estimate


@dataclass(frozen=True, slots=True)
class NamedFit:
    """A law of one curve and one reward, or why there is none.

    Attributes:
        at_zero: points that are in no fit because their KL cannot be told from 0.
        curve: its name.
    """

    law: Law
    reward: RewardName
    fit: LawFit | None
    why: str | None
    at_zero: int = 0
    curve: str = ONE_CURVE


@dataclass(frozen=True, slots=True)
class Loss:
    """What over-optimisation has cost.

    Attributes:
        peak, peak_gain: the point with the highest gold gain.
        last, last_gain: the end of the curve.
        share: of the highest gain that is lost at the end; more than 1 where the end is worse than the reference. The
            highest of several noisy points is too high on average, and so is this.
    """

    peak: str
    peak_gain: Estimate
    last: str
    last_gain: Estimate
    share: Estimate


@dataclass(slots=True)
class Frontier:
    """Proxy and gold against √KL.

    Attributes:
        points: the models, in their order; `curve` says which of them are a curve.
        best_of: the curve of best-of-n; empty where none was asked for.
        fits: two for every curve: proxy and gold.
        loss, best_of_loss: None where no point gains in gold. `loss` is that of the only curve of models; None where
            there are several.
        losses: the same for every curve of models, by its name.
        about: what was measured, as plain values: models, data, rewards, sampling.
        notes: what a reader of the numbers should know.
        folder: where the files are; None where nothing was written.
    """

    start: Start
    confidence: float
    points: list[PolicyPoint]
    best_of: list[BestOfPoint]
    fits: list[NamedFit]
    loss: Loss | None
    best_of_loss: Loss | None
    losses: dict[str, Loss | None] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None

    def curves(self) -> dict[str, list[PolicyPoint]]:
        """The points of every curve of models, by its name."""
        found: dict[str, list[PolicyPoint]] = {}
        for point in self.points:
            found.setdefault(point.curve, []).append(point)
        return found

    def fit(self, law: Law, reward: RewardName, curve: str | None = None) -> NamedFit:
        """One of the fits.

        Args:
            curve: its name; None = the only one of that law.

        Raises:
            KeyError: there is none such, or several curves have one and none is named.
        """
        found = [f for f in self.fits if (f.law, f.reward) == (law, reward) and curve in (None, f.curve)]
        if len(found) != 1:
            there = ", ".join(f"{f.curve} ({f.law}, {f.reward})" for f in self.fits)
            raise KeyError(f"{len(found)} fits are of {law}, {reward}, curve {curve}; there are: {there}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the folder."""
        values = asdict(self)
        del values["folder"]
        return values
