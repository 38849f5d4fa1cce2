"""Frontiers from scored answers: gains over the reference, distances, best-of-n, laws and what over-optimisation costs.

Every prompt weighs 1, however many answers it has. Gains are differences from the reference's answers to the same
prompt, so R(0) = 0 and what makes a prompt easy or hard falls out. Intervals of means are clustered by prompt (normal,
over the prompts' own means); those of laws, correlations and losses are percentiles over prompts drawn anew, the same
draw for every point, because all points answer the same prompts.

Shapes: G prompts, K answers of a model to each, B replicates, M points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.best_of_n import best_of_n_kl, expected_best_of_n, tied_best_of_n_kl
from plaudit.evaluation.estimates import Estimate, mean_estimate, percentile_estimate, quantile
from plaudit.evaluation.frontier.results import (
    BEST_OF_CURVE,
    ONE_CURVE,
    BestOfPoint,
    Frontier,
    Loss,
    NamedFit,
    PolicyPoint,
    RewardName,
    Start,
)
from plaudit.evaluation.laws import LEAST_POINTS, Law, bootstrap_fit, fit_law

Array = npt.NDArray[np.float64]
DRAWS = 1000
"""Replicates of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answered to all prompts.

    Attributes:
        step: of the run, where it is known.
        proxy_GK, gold_GK: rewards; NaN where an answer has none.
        log_ratio_GK: log π(y) − log π_ref(y) in nats, summed over the tokens; 0 for the reference itself.
        curve: that it is a point of.
    """

    name: str
    proxy_GK: Array
    gold_GK: Array
    log_ratio_GK: Array
    step: int | None = None
    curve: str = ONE_CURVE

    @property
    def usable_GK(self) -> npt.NDArray[np.bool_]:
        """Answers with both rewards."""
        return np.isfinite(self.proxy_GK) & np.isfinite(self.gold_GK)

    def of(self, kept_G: npt.NDArray[np.bool_]) -> Answers:
        """The answers to some of the prompts, where those without both rewards have neither."""
        usable = self.usable_GK[kept_G]
        proxy, gold = (np.where(usable, values[kept_G], np.nan) for values in (self.proxy_GK, self.gold_GK))
        return replace(self, proxy_GK=proxy, gold_GK=gold, log_ratio_GK=self.log_ratio_GK[kept_G])


@dataclass(slots=True)
class _Curve:
    """A curve with its replicates, for the laws."""

    name: str
    law: Law
    kl_M: list[Estimate] = field(default_factory=list)
    distances_BM: list[Array] = field(default_factory=list)
    gains: dict[RewardName, list[Estimate]] = field(default_factory=lambda: {"proxy": [], "gold": []})
    gains_BM: dict[RewardName, list[Array]] = field(default_factory=lambda: {"proxy": [], "gold": []})

    def add(self, kl: Estimate, kl_B: Array, **gains: tuple[Estimate, Array]) -> None:
        self.kl_M.append(kl)
        self.distances_BM.append(np.sqrt(np.maximum(kl_B, 0.0)))
        for name in self.gains:
            self.gains[name].append(gains[name][0])
            self.gains_BM[name].append(gains[name][1])


def frontier(
    reference: Answers,
    points: Sequence[Answers],
    best_of: Sequence[int] = (),
    *,
    seed: int = 0,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> Frontier:
    """The frontier of some models and of best-of-n from the reference.

    Every curve has laws and a loss of its own: points of two runs are on no common path, and have no common end.

    Args:
        reference: its answers to the prompts; best-of-n is chosen among them.
        points: the models' answers to the same prompts, in the order of their curves.
        best_of: numbers n, at most the reference's answers to a prompt; empty = no such curve.
        seed: of the bootstrap.

    Raises:
        ValueError: no prompt has an answer with both rewards by every model, or shapes do not fit.
    """
    models = [reference, *points]
    if len({m.proxy_GK.shape[0] for m in models}) != 1:
        raise ValueError("the models have answered different numbers of prompts")
    kept = np.logical_and.reduce([m.usable_GK.any(axis=1) for m in models])
    if not kept.any():
        raise ValueError("no prompt has an answer with both rewards by every model")
    start, shown = reference.of(kept), [p.of(kept) for p in points]
    generator = np.random.default_rng(seed)
    count = int(kept.sum())
    drawn_BG = generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    found = Frontier(
        start=_start(start, reference, kept),
        confidence=confidence,
        points=[],
        best_of=[],
        fits=[],
        loss=None,
        best_of_loss=None,
    )
    policies = {p.curve: _Curve(p.curve, "rl") for p in shown}
    chosen = _Curve(BEST_OF_CURVE, "bon")
    for answers in shown:
        found.points.append(_point(answers, start, found.start, drawn_BG, confidence, policies[answers.curve]))
    for n in best_of:
        found.best_of.append(_best_of(start, n, drawn_BG, confidence, chosen))
    curves = [*policies.values(), *([chosen] if best_of else [])]
    found.fits += [_fit(curve, name) for curve in curves for name in ("proxy", "gold")]
    names = {name: [p.name for p in own] for name, own in found.curves().items()}
    found.losses = {name: _loss(names[name], curve, confidence) for name, curve in policies.items()}
    if len(policies) == 1:
        found.loss = next(iter(found.losses.values()))
    found.best_of_loss = _loss([f"best of {p.n}" for p in found.best_of], chosen, confidence)
    return found


def root(kl: float) -> float:
    """√KL; an estimate below 0 is at 0."""
    return math.sqrt(max(kl, 0.0))


def root_estimate(kl: Estimate) -> Estimate:
    """The same of an estimate with its interval."""
    return replace(kl, value=root(kl.value), low=root(kl.low), high=root(kl.high))


def _start(start: Answers, whole: Answers, kept: npt.NDArray[np.bool_]) -> Start:
    proxy, gold = _prompt_means(start.proxy_GK), _prompt_means(start.gold_GK)
    spread = {}
    for name, values in (("proxy", start.proxy_GK), ("gold", start.gold_GK)):
        known = values[np.isfinite(values)]
        spread[name] = float(known.std(ddof=1)) if known.size > 1 else 0.0
    return Start(
        name=whole.name,
        prompts=int(kept.sum()),
        left_out=int((~kept).sum()),
        answers=int(start.usable_GK.sum()),
        failed=int((~whole.usable_GK).sum()),
        proxy=float(proxy.mean()),
        gold=float(gold.mean()),
        proxy_std=spread["proxy"],
        gold_std=spread["gold"],
        correlation=_pearson(_moments(start, within=False).sum(axis=0)),
    )


def _prompt_means(values_GK: Array) -> Array:
    known = np.isfinite(values_GK)
    return np.asarray(np.where(known, values_GK, 0.0).sum(axis=1) / known.sum(axis=1))


def _means_B(values_G: Array, drawn_BG: Array) -> Array:
    """[B] the means of the replicates, over the prompts that have a value."""
    known = np.isfinite(values_G)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(drawn_BG @ np.where(known, values_G, 0.0) / (drawn_BG @ known))


def _point(
    answers: Answers, reference: Answers, start: Start, drawn_BG: Array, confidence: float, curve: _Curve
) -> PolicyPoint:
    kl_G = answers.log_ratio_GK.mean(axis=1)
    proxy, gold = _prompt_means(answers.proxy_GK), _prompt_means(answers.gold_GK)
    gains = {"proxy": proxy - _prompt_means(reference.proxy_GK), "gold": gold - _prompt_means(reference.gold_GK)}
    estimates = {name: mean_estimate(g, confidence) for name, g in gains.items()}
    kl = mean_estimate(kl_G, confidence)
    curve.add(
        kl,
        _means_B(kl_G, drawn_BG),
        proxy=(estimates["proxy"], _means_B(gains["proxy"], drawn_BG)),
        gold=(estimates["gold"], _means_B(gains["gold"], drawn_BG)),
    )
    gap = None
    if start.proxy_std > 0 and start.gold_std > 0:
        gap = mean_estimate(gains["proxy"] / start.proxy_std - gains["gold"] / start.gold_std, confidence)
    return PolicyPoint(
        name=answers.name,
        step=answers.step,
        answers=int(answers.usable_GK.sum()),
        failed=int((~answers.usable_GK).sum()),
        kl=kl,
        distance=root_estimate(kl),
        proxy=estimates["proxy"],
        gold=estimates["gold"],
        proxy_mean=float(proxy.mean()),
        gold_mean=float(gold.mean()),
        gap=gap,
        correlation=_correlation(answers, drawn_BG, confidence, within=False),
        within=_correlation(answers, drawn_BG, confidence, within=True),
        curve=answers.curve,
    )


def _best_of(reference: Answers, n: int, drawn_BG: Array, confidence: float, curve: _Curve) -> BestOfPoint:
    usable = reference.usable_GK
    counts = usable.sum(axis=1)
    columns = np.full((3, len(counts)), np.nan)  # KL, proxy gain, gold gain; prompts with fewer answers drop out
    for g in np.flatnonzero(counts >= n):
        proxy, gold = reference.proxy_GK[g, usable[g]], reference.gold_GK[g, usable[g]]
        if n == 1:  # any answer: 0 exactly, and not to rounding
            columns[:, g] = 0.0
            continue
        gains = (expected_best_of_n(proxy, values, n) - float(values.mean()) for values in (proxy, gold))
        columns[:, g] = [tied_best_of_n_kl(proxy, n), *gains]
    if not np.isfinite(columns).any():
        raise ValueError(f"no prompt has {n} answers of the reference with both rewards")
    kl, proxy_gain, gold_gain = (mean_estimate(c[np.isfinite(c)], confidence) for c in columns)
    replicates = [_means_B(c, drawn_BG) for c in columns]
    if n > 1:  # at n = 1 everything is 0
        curve.add(kl, replicates[0], proxy=(proxy_gain, replicates[1]), gold=(gold_gain, replicates[2]))
    return BestOfPoint(n, best_of_n_kl(n), kl, root_estimate(kl), int((counts >= n).sum()), proxy_gain, gold_gain)


def _moments(answers: Answers, *, within: bool) -> Array:
    """[G, 6] per prompt: number of answers and the sums of proxy, gold, their squares and their product."""
    proxy, gold, usable = answers.proxy_GK, answers.gold_GK, answers.usable_GK
    # Without `within`, about the mean of all: no digits are lost on large means.
    proxy, gold = (
        _deviations(values, _prompt_means(values)[:, None] if within else np.nanmean(values))
        for values in (proxy, gold)
    )
    columns = [np.ones_like(proxy), proxy, gold, proxy**2, gold**2, proxy * gold]
    return np.stack([np.where(usable, c, 0.0).sum(axis=1) for c in columns], axis=1)


def _deviations(values: Array, middle: Any) -> Array:
    """Differences from a mean, where rounding is no difference."""
    found = values - middle
    return np.asarray(np.where(np.abs(found) > 1e-12 * np.nanmax(np.abs(values)), found, 0.0 * values))


def _pearson(sums: Array) -> float | None:
    """The correlation from the sums of `_moments`; None where one side does not vary."""
    n, x, y, xx, yy, xy = sums.tolist()
    if n < 2:
        return None
    one, other = xx - x * x / n, yy - y * y / n
    # What is left of a constant after rounding is no variation.
    if one <= 1e-12 * xx or other <= 1e-12 * yy:
        return None
    return float(np.clip((xy - x * y / n) / math.sqrt(one * other), -1.0, 1.0))


def _correlation(answers: Answers, drawn_BG: Array, confidence: float, *, within: bool) -> Estimate | None:
    moments = _moments(answers, within=within)
    value = _pearson(moments.sum(axis=0))
    if value is None:
        return None
    replicates = [r for sums in drawn_BG @ moments if (r := _pearson(sums)) is not None]
    if len(moments) < 2 or not replicates:
        return Estimate(value, -1.0, 1.0, int(moments[:, 0].sum()), confidence)
    return percentile_estimate(value, replicates, int(moments[:, 0].sum()), confidence)


def _fit(curve: _Curve, name: RewardName) -> NamedFit:
    """The law of one curve and reward, or why there is none."""
    distances, gains = np.array([root(kl.value) for kl in curve.kl_M]), curve.gains[name]
    # Near 0 the root of a noisy KL is mostly noise, and only what errs upwards would be kept.
    kept = np.flatnonzero([kl.low > 0 for kl in curve.kl_M])
    at_zero = len(distances) - len(kept)
    found = NamedFit(curve.law, name, None, None, at_zero, curve.name)
    different = len(np.unique(distances[kept]))
    if different < LEAST_POINTS:
        what = f"a fit needs {LEAST_POINTS} points at different distances, and there are {different}"
        return replace(found, why=what + (f"; the KL of {at_zero} more cannot be told from 0" if at_zero else ""))
    errors = np.array([_error(gains[i]) for i in kept])
    known = errors if np.isfinite(errors).all() and (errors > 0).all() else None
    fit = fit_law(curve.law, distances[kept], [gains[i].value for i in kept], known, gains[0].confidence)
    rows = [np.stack([values[i] for i in kept], axis=1) for values in (curve.distances_BM, curve.gains_BM[name])]
    whole = np.isfinite(rows[0]).all(axis=1) & np.isfinite(rows[1]).all(axis=1)
    if not whole.any():
        return replace(found, fit=fit)
    return replace(found, fit=bootstrap_fit(fit, rows[0][whole], rows[1][whole], known))


def _error(e: Estimate) -> float:
    """The standard error that a normal interval was made from."""
    return (e.high - e.low) / (2 * quantile(e.confidence))


def _loss(names: Sequence[str], curve: _Curve, confidence: float) -> Loss | None:
    """What of the highest gold gain is lost at the end; the highest is looked for anew in each replicate."""
    estimates = curve.gains["gold"]
    gains = [e.value for e in estimates]
    if not gains or max(gains) <= 0:
        return None
    names = names[-len(gains) :]  # best of 1 is on no curve
    best = int(np.argmax(gains))
    share = _lost(gains)
    replicates = np.stack(curve.gains_BM["gold"], axis=1)
    shares = [_lost(row) for row in replicates if np.isfinite(row).all() and max(row) > 0]
    count = estimates[0].n
    interval = Estimate(share, 0.0, math.inf, count, confidence)
    if count > 1 and shares:
        interval = percentile_estimate(share, shares, count, confidence)
    return Loss(names[best], estimates[best], names[-1], estimates[-1], interval)


def _lost(gains: Sequence[float] | Array) -> float:
    return float(1 - gains[-1] / max(gains))
