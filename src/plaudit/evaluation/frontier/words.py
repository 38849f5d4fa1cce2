"""A frontier in words: the same in the terminal and on the page."""

from __future__ import annotations

import math

from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.frontier.results import BEST_OF_CURVE, Frontier, Loss, NamedFit
from plaudit.evaluation.laws import LawFit
from plaudit.evaluation.wording import number, percent

LAWS = {"rl": "R(d) = d (α − β log d)", "bon": "R(d) = d (α − β d)"}


def between(e: Estimate | None) -> str:
    """An interval; a dash where nobody knows it."""
    if e is None or math.isinf(e.low):
        return "–"
    return f"{number(e.low)} to {number(e.high)}"


def value(e: Estimate | None) -> str:
    """A value; a dash where there is none."""
    return "–" if e is None else number(e.value)


def spread(e: Estimate) -> str:
    """Half of a normal interval; a dash where nobody knows it."""
    return "–" if math.isinf(e.high) else f"±{(e.high - e.low) / 2:.2g}"


def fit_sentence(found: NamedFit) -> str:
    """What the fit says, or why there is none."""
    fit = found.fit
    if fit is None:
        return f"no fit: {found.why}."
    told = f"α = {number(fit.alpha.value)} ({between(fit.alpha)}), β = {number(fit.beta.value)} ({between(fit.beta)})"
    return f"{told}; {peak_sentence(fit)}"


def peak_sentence(fit: LawFit) -> str:
    """Where the fitted law turns."""
    if fit.peak is None:
        why = "β is not positive" if fit.beta.value <= 0 else "α is not positive"
        return f"no peak within reach: {why}."
    at, high = fit.peak.distance, fit.peak.reward
    told = f"peak at d* = {number(at.value)} ({between(at)}), R* = {number(high.value)} ({between(high)})"
    if fit.extrapolated:
        told += f", beyond what was measured (d up to {number(fit.reach)})"
    if fit.peaked is not None and fit.peaked < 0.975:
        told += f"; only {percent(fit.peaked)} of the resampled curves have a peak"
    return told + "."


def loss_sentence(loss: Loss | None, curve: str) -> str:
    """What is lost at the end."""
    if loss is None:
        return f"{curve}: no point gains in gold."
    if loss.peak == loss.last:
        return f"{curve}: gold is highest at the end ({loss.last}): nothing is lost yet."
    if math.isfinite(loss.peak_gain.low) and loss.peak_gain.low <= 0:
        return (
            f"{curve}: gold was highest at {loss.peak} ({number(loss.peak_gain.value)}), which cannot be told from no "
            "gain, so nothing can be said about a loss."
        )
    known = "" if math.isinf(loss.share.high) else f" ({100 * loss.share.low:.1f} to {100 * loss.share.high:.1f})"
    return (
        f"{curve}: gold was highest at {loss.peak} ({number(loss.peak_gain.value)}); "
        f"{percent(loss.share.value)}{known} of that gain is lost at {loss.last}."
    )


def loss_sentences(found: Frontier) -> list[str]:
    """What is lost at the end of every curve that was asked for."""
    told = [loss_sentence(loss, curve) for curve, loss in found.losses.items()]
    return told + ([loss_sentence(found.best_of_loss, BEST_OF_CURVE)] if found.best_of else [])


def interval_note(found: Frontier) -> str:
    """What the intervals are."""
    kinds = {f.fit.intervals for f in found.fits if f.fit is not None}
    share = f"{100 * found.confidence:g} %"
    if not kinds or kinds == {"bootstrap over prompts"}:
        return f"Intervals are {share}: normal over prompts for means, percentiles over resampled prompts for laws."
    what = "from the residuals" if kinds == {"residuals"} else "by linear regression"
    return f"Intervals are {share}; those of the laws are {what}, with the delta method for peaks."
