"""`frontier.html`: a frontier on one self-contained page, in the look of a run's report.

No network, no script: inline style and inline SVG. Every text is escaped by the template engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.frontier.results import (
    BEST_OF_CURVE,
    ONE_CURVE,
    BestOfPoint,
    Frontier,
    PolicyPoint,
    RewardName,
)
from plaudit.evaluation.frontier.words import (
    LAWS,
    between,
    fit_sentence,
    interval_note,
    loss_sentences,
    value,
)
from plaudit.evaluation.laws import Law, LawFit
from plaudit.evaluation.wording import number, percent
from plaudit.runs import charts
from plaudit.runs.planes import XY, Plane, Series, ends, plane
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
        policies=_policies(found),
        best_of=_best_of_plane(found) if found.best_of else None,
        fits=[(fit.curve, fit.reward, LAWS[fit.law], fit_sentence(fit)) for fit in found.fits],
        losses=_losses(found),
        intervals=interval_note(found),
        chart_width=int(charts.WIDTH),
        chart_height=int(charts.HEIGHT),
    )


def _losses(found: Frontier) -> list[str]:
    """As sentences on a page begin; but a run is called what it is called."""
    own = set(found.losses) - {ONE_CURVE}
    told = loss_sentences(found)
    return [line if line.partition(":")[0] in own else line[:1].upper() + line[1:] for line in told]


def _unit(found: Frontier, name: RewardName) -> float:
    """What a gain is divided by for the figure: two rewards have one axis, and hardly ever one scale."""
    spreads = {"proxy": found.start.proxy_std, "gold": found.start.gold_std}
    return spreads[name] if min(spreads.values()) > 0 else 1.0


def _y_name(found: Frontier) -> str:
    scaled = min(found.start.proxy_std, found.start.gold_std) > 0
    return "gain over the reference" + (", in standard deviations of its answers" if scaled else "")


def _pair(found: Frontier, law: Law, points: Sequence[PolicyPoint] | Sequence[BestOfPoint], curve: str) -> list[Series]:
    """The two curves with their laws and peaks."""
    series: list[Series] = []
    both: tuple[RewardName, ...] = ("proxy", "gold")
    for name in both:
        unit = _unit(found, name)
        series += _law(found.fit(law, name, curve).fit, name, unit)
        gains: list[tuple[float, Estimate]] = [(p.distance.value, getattr(p, name)) for p in points]
        whiskers = [(d, e.low / unit, e.high / unit) for d, e in gains if math.isfinite(e.low)]
        line = [(0.0, 0.0), *((d, e.value / unit) for d, e in gains)]
        series.append(Series(name, name, line, whiskers=whiskers, dots=True))
    return series


def _law(fit: LawFit | None, name: RewardName, unit: float) -> list[Series]:
    if fit is None:
        return []
    top = fit.peak.distance.value if fit.peak is not None else 0.0
    end = max(fit.reach, min(top, _SHOWN * fit.reach))
    at = [end * i / _DRAWN for i in range(_DRAWN + 1)]
    series = [Series(f"{name} fit", "", [(d, fit.at(d) / unit) for d in at])]
    if fit.peak is not None and top <= end:
        series.append(Series(f"{name} peak", "", [(top, fit.peak.reward.value / unit)]))
    return series


def _policies(found: Frontier) -> list[tuple[Plane, list[PolicyPoint]]]:
    """A figure for every curve, with its points; all on the same axes, so that one can be held against another."""
    curves = found.curves()
    series = {name: _pair(found, "rl", points, name) for name, points in curves.items()}
    across, up = ends([one for curve in series.values() for one in curve])
    first = next(iter(curves), None)
    return [
        (_policy_plane(found, name, series[name], across, up, None if name == first else first), points)
        for name, points in curves.items()
    ]


def _policy_plane(found: Frontier, name: str, series: Sequence[Series], across: XY, up: XY, like: str | None) -> Plane:
    """`like`: the curve above it that has said what is shown; None = there is none."""
    meaning = (
        "What the policy gains by the reward that it was trained with (proxy, dashed) and by the one that counts "
        "(gold, solid), against its distance from the reference. Thin: Gao's law, with its peak as a ring where it is "
        "within reach. Where gold turns and the proxy rises on, the proxy is over-optimised."
    )
    return plane(
        "Policy" if name == ONE_CURVE else name,
        meaning if like is None else f"The same, on the same axes as {like}.",
        series,
        x_name="√KL(policy ‖ reference), KL in nats per answer",
        y_name=_y_name(found),
        x_range=across,
        y_range=up,
    )


def _best_of_plane(found: Frontier) -> Plane:
    series = _pair(found, "bon", found.best_of, BEST_OF_CURVE)
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
