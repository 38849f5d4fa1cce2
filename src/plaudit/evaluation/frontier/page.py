"""`frontier.html`: a frontier on one self-contained page, in the look of a run's report.

No network, no script: inline style and inline SVG. Every text is escaped by the template engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.frontier.results import BestOfPoint, Frontier, PolicyPoint, RewardName
from plaudit.evaluation.frontier.words import (
    CURVES,
    LAWS,
    between,
    fit_sentence,
    interval_note,
    loss_sentence,
    value,
)
from plaudit.evaluation.laws import Law
from plaudit.evaluation.wording import number, percent
from plaudit.runs import charts
from plaudit.runs.planes import Plane, Series, plane
from plaudit.runs.templating import template_engine

_SHOWN = 1.25
"""A fitted law is drawn up to its peak, and no further than this many times the distances it was fitted to."""
_DRAWN = 60


def frontier_page(found: Frontier) -> str:
    """The page as HTML."""
    engine, style = template_engine("plaudit.evaluation", ["evaluation.css"])
    engine.filters.update(percent=percent, number=number, between=between, value=value)
    return engine.get_template("frontier.html.jinja").render(
        f=found,
        style=style,
        policy=_policy_plane(found) if found.points else None,
        best_of=_best_of_plane(found) if found.best_of else None,
        fits=[(CURVES[fit.law], fit.reward, LAWS[fit.law], fit_sentence(fit)) for fit in found.fits],
        losses=_losses(found),
        intervals=interval_note(found),
        chart_width=int(charts.WIDTH),
        chart_height=int(charts.HEIGHT),
    )


def _losses(found: Frontier) -> list[str]:
    losses = [loss_sentence(found.loss, "policy")] if found.points else []
    return losses + ([loss_sentence(found.best_of_loss, "best of n")] if found.best_of else [])


def _unit(found: Frontier, name: RewardName) -> float:
    """What a gain is divided by for the figure: two rewards have one axis, and hardly ever one scale."""
    spreads = {"proxy": found.start.proxy_std, "gold": found.start.gold_std}
    return spreads[name] if min(spreads.values()) > 0 else 1.0


def _y_name(found: Frontier) -> str:
    scaled = min(found.start.proxy_std, found.start.gold_std) > 0
    return "gain over the reference" + (", in standard deviations of its answers" if scaled else "")


def _pair(found: Frontier, law: Law, points: Sequence[PolicyPoint] | Sequence[BestOfPoint]) -> list[Series]:
    """The two curves with their laws and peaks."""
    series: list[Series] = []
    both: tuple[RewardName, ...] = ("proxy", "gold")
    for name in both:
        unit = _unit(found, name)
        series += _law(found, law, name, unit)
        gains: list[tuple[float, Estimate]] = [(p.distance.value, getattr(p, name)) for p in points]
        whiskers = [(d, e.low / unit, e.high / unit) for d, e in gains if math.isfinite(e.low)]
        curve = [(0.0, 0.0), *((d, e.value / unit) for d, e in gains)]
        series.append(Series(name, name, curve, whiskers=whiskers, dots=True))
    return series


def _law(found: Frontier, law: Law, name: RewardName, unit: float) -> list[Series]:
    fit = found.fit(law, name).fit
    if fit is None:
        return []
    top = fit.peak.distance.value if fit.peak is not None else 0.0
    end = max(fit.reach, min(top, _SHOWN * fit.reach))
    at = [end * i / _DRAWN for i in range(_DRAWN + 1)]
    series = [Series(f"{name} fit", "", [(d, fit.at(d) / unit) for d in at])]
    if fit.peak is not None and top <= end:
        series.append(Series(f"{name} peak", "", [(top, fit.peak.reward.value / unit)]))
    return series


def _policy_plane(found: Frontier) -> Plane:
    return plane(
        "Policy",
        "What the policy gains by the reward that it was trained with (proxy, dashed) and by the one that counts "
        "(gold, solid), against its distance from the reference. Thin: Gao's law, with its peak as a ring where it is "
        "within reach. Where gold turns and the proxy rises on, the proxy is over-optimised.",
        _pair(found, "rl", found.points),
        x_name="√KL(policy ‖ reference), KL in nats per answer",
        y_name=_y_name(found),
    )


def _best_of_plane(found: Frontier) -> Plane:
    series = _pair(found, "bon", found.best_of)
    tied = any(p.bound - p.kl.value > 1e-9 for p in found.best_of)
    if tied:
        unit = _unit(found, "gold")
        series.append(
            Series("guide", "gold at the bound", [(math.sqrt(p.bound), p.gold.value / unit) for p in found.best_of])
        )
    shown: list[tuple[float, str]] = []
    points = [p for p in found.best_of if p.n > 1]
    largest = max([p.distance.value for p in points], default=0.0) or 1.0
    for p in reversed(points):  # the last one always; on a phone a label takes a sixth of the width
        if not shown or (shown[-1][0] - p.distance.value) / largest > 0.17:
            shown.append((p.distance.value, f"{p.distance.value:.2f}\nn = {p.n}"))
    bound = (
        " The proxy has ties, so KL is less than the bound log n − (n − 1)/n, at which the grey line is drawn."
        if tied
        else " The proxy has no ties, so KL is log n − (n − 1)/n exactly."
    )
    return plane(
        "Best of n",
        "Expected gains of the answer that the proxy picks among n of the reference's, exact over all choices of n."
        + bound,
        series,
        x_name="√KL(best of n ‖ reference), KL in nats per answer",
        y_name=_y_name(found),
        x_ticks=shown,
    )
