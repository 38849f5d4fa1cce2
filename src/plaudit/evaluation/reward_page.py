"""`evaluation.html`: the evaluation of a reward model on one self-contained page, in the look of a run's report.

No network, no script: inline style and inline SVG. Every text is escaped by the template engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.evaluation.best_of_n import BestOfN
from plaudit.evaluation.calibration import Calibration
from plaudit.evaluation.clustered import SMALL
from plaudit.evaluation.estimates import Estimate
from plaudit.evaluation.reward_accuracy import RewardAccuracy, Stratum
from plaudit.evaluation.reward_evaluation import Histogram, RewardEvaluation
from plaudit.evaluation.wording import (
    interval,
    length_sentence,
    number,
    percent,
    temperature_sentence,
    temperature_value,
)
from plaudit.runs import charts
from plaudit.runs.planes import Plane, Series, plane, steps
from plaudit.runs.templating import template_engine


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of accuracies; the bar's places are per cent of its width."""

    name: str
    result: RewardAccuracy
    small: bool

    @property
    def low(self) -> float:
        return 100 * self.result.accuracy.low

    @property
    def width(self) -> float:
        return 100 * (self.result.accuracy.high - self.result.accuracy.low)

    @property
    def at(self) -> float:
        return 100 * self.result.accuracy.value


def reward_page(evaluation: RewardEvaluation) -> str:
    """The page as HTML."""
    engine, style = template_engine("plaudit.evaluation", ["evaluation.css"])
    engine.filters.update(percent=percent, number=number, interval=interval)
    return engine.get_template("reward.html.jinja").render(
        e=evaluation,
        style=style,
        tiles=_tiles(evaluation),
        groups=_groups(evaluation.strata),
        small=SMALL,
        whole=Row("all pairs", evaluation.accuracy, evaluation.accuracy.prompts < SMALL),
        temperature=temperature_sentence(evaluation.calibration.temperature),
        length=length_sentence(evaluation.length),
        reliability=_reliability(evaluation.calibration),
        histogram=_histogram(evaluation.histogram),
        curve=_curve(evaluation.best_of_n) if evaluation.best_of_n else None,
        chart_width=int(charts.WIDTH),
        chart_height=int(charts.HEIGHT),
    )


def _tiles(e: RewardEvaluation) -> list[tuple[str, str, str]]:
    """(label, value, note)"""
    tiles = [("accuracy, ties ½", percent(e.accuracy.accuracy.value), f"95 %: {interval(e.accuracy.accuracy)}")]
    if e.rewardbench is not None and e.rewardbench.overall is not None:
        overall = e.rewardbench.overall
        tiles.append(("RewardBench", percent(overall.value), f"95 %: {interval(overall)}"))
    else:
        tiles.append(("accuracy, ties lose", percent(e.accuracy.strict.value), f"{e.accuracy.ties:,} ties"))
    tiles.append(("longer is right", percent(e.length.longer_is_right.value), "a judge of the length alone"))
    chance = e.calibration.ece_by_chance
    note = "both orientations" if chance is None else f"{number(chance)} by chance alone"
    tiles.append(("calibration error", number(e.calibration.ece), note))
    tiles.append(("temperature", temperature_value(e.calibration.temperature), "fitted; 1 is calibrated"))
    return tiles


def _groups(strata: list[Stratum]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for s in strata:
        groups.setdefault(s.column, []).append(Row(s.value, s.result, s.small))
    return list(groups.items())


def _reliability(c: Calibration) -> Plane:
    return plane(
        "Reliability",
        "How often the labels agree where the model gives the probability p = σ(Δ). On the dashed line it is "
        "calibrated; nearer to one half than the line, it is too sure. Both orientations of every pair, bins of equal "
        "mass, with 95 % intervals.",
        [
            Series("guide", "", [(0.0, 0.0), (1.0, 1.0)]),
            Series(
                "train",
                "observed",
                [(b.predicted, b.observed) for b in c.bins],
                whiskers=[(b.predicted, b.low, b.high) for b in c.bins],
                dots=True,
            ),
        ],
        x_name="predicted probability",
        y_name="labels that agree",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _histogram(h: Histogram) -> Plane:
    top = max([*h.better, *h.worse])
    return plane(
        "Scores",
        "Scores of the better and of the worse answer of every pair. What counts is the difference within a pair: much "
        "overlap does not exclude a high accuracy.",
        [Series("train", "chosen", steps(h.edges, h.better)), Series("eval", "rejected", steps(h.edges, h.worse))],
        x_name="score",
        y_name="share of pairs",
        y_range=(0.0, 1.06 * top),
    )


def _curve(points: list[BestOfN]) -> Plane:
    shown: list[tuple[float, str]] = []
    largest = points[-1].kl or 1.0
    for p in reversed(points):  # the last one always; on a phone a label takes a sixth of the width
        if not shown or (shown[-1][0] - p.kl) / largest > 0.17:
            shown.append((p.kl, f"{p.kl:.2f}\nn = {p.n}"))
    return plane(
        "Best of n",
        "Expected gold score of the answer that the reward model picks among n, exact over all choices of n of a row's "
        "answers, against the best pick and a random one; with 95 % intervals over rows.",
        [
            Series("guide", "random", [(p.kl, p.random) for p in points]),
            Series("eval", "best by gold", [(p.kl, p.gold) for p in points]),
            Series(
                "train",
                "reward model",
                [(p.kl, p.reward_model.value) for p in points],
                whiskers=[_whisker(p.kl, p.reward_model) for p in points if p.prompts > 1],
                dots=True,
            ),
        ],
        x_name="KL from the policy: log n − (n − 1)/n, in nats",
        y_name="gold score",
        x_ticks=shown,
    )


def _whisker(x: float, e: Estimate) -> tuple[float, float, float]:
    return x, e.low, e.high
