"""Gold beside the reward: the arithmetic by hand, when it tells on a law of over-optimisation, and real runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plaudit.errors import ConfigError, RewardError, RunError, TrainingError
from plaudit.online.gold import MOST, GoldWatch, correlation, divergence
from plaudit.online.scoring import RewardScorer
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.rewards.spec import read_specs
from plaudit.train.interrupt import Halted
from tests.online.conftest import Run, metrics_of
from tests.train import runs

ALTERNATING = np.array([1.0, -1.0] * 4)
"""Eight prompts whose mean is 0 and whose standard deviation (n − 1) is √(8/7)."""


def rows(*levels: float, spread: float = 0.0) -> np.ndarray[Any, Any]:
    """[E, 8] each evaluation at a level; in the newer half prompts scatter by `spread` around it."""
    half = len(levels) // 2
    return np.array([level + (i >= half) * spread * ALTERNATING for i, level in enumerate(levels)])


def test_errors_by_hand() -> None:
    """Newer half − older half is 0.3 ± 0.1·(±1): the standard error is 0.1·√(8/7)/√8 = 0.1/√7."""
    rises, falls = rows(0, 0, 0.3, 0.3, spread=0.1), rows(0, 0, -0.3, -0.3, spread=0.1)
    assert divergence(rises, falls) == (pytest.approx(0.3 * math.sqrt(7) / 0.1), 4)
    less = rows(0, 0, -0.1, -0.1, spread=0.1)
    assert divergence(rises, less) == (pytest.approx(math.sqrt(7)), 4)  # the weaker of both decides
    assert divergence(less + 1, rises) == (0.0, 0)  # the other way round is no sign
    assert divergence(rises, rises) == (0.0, 0)
    assert divergence(rows(1, 1, 1, 1), rows(0, 0, 0, 0)) == (0.0, 0)


def test_a_difference_between_prompts_is_no_error() -> None:
    """Prompts of very different levels that all move by nearly the same."""
    levels = np.linspace(-50, 50, 8)
    found = divergence(levels + rows(0, 0, 0.3, 0.3, spread=0.1), levels - rows(0, 0, 0.3, 0.3, spread=0.1))
    assert found == (pytest.approx(0.3 * math.sqrt(7) / 0.1), 4)


def test_what_moves_alike_everywhere_counts_as_much_as_can_be() -> None:
    assert divergence(rows(0, 0, 1, 1), rows(0, 0, -1, -1)) == (MOST, 4)


def test_a_window_of_every_size() -> None:
    """Slow drifts are seen by the longer window: 8 evaluations in steps of 0.1, halves 0.4 apart; of 4, 0.2 apart."""
    drift = np.arange(8)[:, None] * 0.1 + 0.2 * np.array([ALTERNATING * (-1) ** e for e in range(8)])
    own = drift + 0.3 * np.concatenate([np.zeros((6, 8)), [ALTERNATING] * 2])
    errors, window = divergence(own, -own) or (0.0, 0)
    assert window == 8
    assert errors == pytest.approx(0.4 / (0.15 / math.sqrt(7)))


def test_too_little_to_say_anything() -> None:
    assert divergence(rows(0, 1, 2), rows(0, -1, -2)) is None
    assert divergence(rows(0, 0, 1, 1)[:, :7], rows(0, 0, -1, -1)[:, :7]) is None
    gold = rows(0, 0, -1, -1)
    gold[1, 0] = np.nan  # seven prompts have all four
    assert divergence(rows(0, 0, 1, 1), gold) is None


def over_optimised(kl: float, alpha: float, beta: float) -> float:
    """R(d) = d (α − β log d) with d = √KL (Gao et al. 2022)."""
    d = math.sqrt(kl)
    return d * (alpha - beta * math.log(d)) if d else 0.0


@pytest.mark.parametrize("before_peak", [6, 10, 40])
def test_it_is_told_before_a_quarter_of_the_gain_is_lost(before_peak: int) -> None:
    """100 prompts whose scores scatter by half a unit at every evaluation, gains of another size each, and a gold of
    α = 1, β = ½, whose peak is at d* = e with R* = e/2; the reward's own law bends far later. Never before it."""
    peak, best = math.e**2, math.e / 2
    for seed in range(12):
        rng = np.random.default_rng(seed)
        level, gain = rng.normal(0, 1, 100), rng.gamma(4, 0.25, 100)
        reward: list[Any] = []
        gold: list[Any] = []
        for e in range(4 * before_peak):
            kl = peak * e / before_peak
            reward.append(level + gain * over_optimised(kl, 1, 0.05) + rng.normal(0, 0.5, 100))
            gold.append(level + gain * over_optimised(kl, 1, 0.5) + rng.normal(0, 0.5, 100))
            if (found := divergence(np.array(reward), np.array(gold))) and found[0] >= 3:
                break
        assert kl > peak
        assert over_optimised(kl, 1, 0.5) > 0.75 * best


def test_a_gold_that_stands_still_is_hardly_ever_taken_for_one_that_falls() -> None:
    """Twenty evaluations, three standard errors, several windows: about one run of twenty."""
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        level = rng.normal(0, 1, 64)
        gold = np.array([level + rng.normal(0, 0.5, 64) for _ in range(20)])
        reward = np.array([level + 0.1 * e + rng.normal(0, 0.5, 64) for e in range(20)])
        told += any((divergence(reward[:e], gold[:e]) or (0, 0))[0] >= 3 for e in range(4, 21))
    assert told <= 8


def test_correlation() -> None:
    assert correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(1)
    assert correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, -1, 1, -1])) == pytest.approx(-1 / math.sqrt(5))
    assert correlation(np.array([1.0, 2]), np.array([2.0, 4])) is None
    assert correlation(np.array([1.0, 2, 3]), np.full(3, 0.1)) is None


# -- what is made of an evaluation's results


def scored(*groups: list[float | None]) -> list[ScoredGroup]:
    def result(value: float | None) -> RewardResult:
        failed = RewardResult.failed("timeout", "slow")
        return failed if value is None else RewardResult.of(value, parts={"length": value / 2})

    return [ScoredGroup([result(v) for v in group]) for group in groups]


def watch() -> GoldWatch:
    return GoldWatch(RewardScorer(read_specs(["length:least=1"])))


def test_a_failed_gold_score_is_an_error_and_never_a_zero() -> None:
    found = watch().metrics(scored([1.0, 2.0], [3.0, 5.0]), scored([10.0, None], [30.0, 50.0]), part=False)
    assert found["gold"] == 40  # of the prompt whose answers all have one
    assert found["gold/length/mean"] == 20
    assert found["gold/error_rate"] == 0.25
    assert found["gold/excluded"] == 0.5
    assert found["gold_correlation"] == pytest.approx(1)  # of the three answers that have both
    assert found["gold_gap"] == 0


def test_the_gap_is_in_deviations_of_the_first_evaluation() -> None:
    own = watch()
    own.metrics(scored([0.0, 2.0]), scored([10.0, 30.0]), part=False)  # means 1 and 20, deviations 1 and 10
    later = own.metrics(scored([3.0, 5.0]), scored([5.0, 25.0]), part=False)  # + 3 deviations, − 0.5
    assert later["gold_gap"] == pytest.approx(3.5)


def test_a_part_is_not_remembered() -> None:
    own = watch()
    before = own.state()
    found = own.metrics(scored([1.0, 2.0]), scored([1.0, 2.0]), part=True)
    assert set(found) == {"gold", "gold/length/mean", "gold/error_rate", "gold/excluded"}
    assert own.state()["first"] == before["first"] == {}
    assert own.state()["gold"].numel() == 0


# -- runs

HELD_OUT = {"data__eval_fraction": 0.5, "eval__every": 1, "train__epochs": 2.0, "rollout__eval_temperature": 1.0}
HELD_OUT |= {"rollout__eval_completions": 2, "checkpoint__every": 50}


def test_gold_of_a_run(train: Run, tmp_path: Path) -> None:
    """It decides about best/, and nothing is trained on it: every training number is that of a run without it."""
    plain = train("plain", method="rloo", **HELD_OUT)
    path = tmp_path / "gold.py"
    path.write_text("def signs(completions, **_):\n    return [float(len(c)) for c in completions]\n")
    gold = {"rewards": [f"{path}:signs"], "shaping": [{"clip": {"high": 15.0}}]}
    more = {"watch__gold": gold, "eval__best_metric": "eval/gold"}
    golden = train("golden", method="rloo", **HELD_OUT, **more)
    lines = [line for line in metrics_of(golden) if "eval/reward" in line]
    assert all(0 <= line["eval/gold"] <= 15 for line in lines)
    assert any(line["eval/gold"] < line["eval/gold/total/mean"] for line in lines)  # shaped
    assert {"eval/gold/signs/mean", "eval/gold/error_rate", "eval/gold_gap", "eval/gold_correlation"} <= lines[1].keys()
    assert lines[0]["eval/gold_gap"] == 0
    assert golden.summary["best_metric"] == "eval/gold"
    kept = ("loss", "reward", "grad_norm", "kl")
    trained = [[{k: line[k] for k in kept if k in line} for line in metrics_of(r)] for r in (plain, golden)]
    assert trained[0] == trained[1]


def test_a_changed_gold_is_another_run(train: Run, tmp_path: Path) -> None:
    path = tmp_path / "gold.py"
    path.write_text("def gold(completions, **_):\n    return [1.0 for _ in completions]\n")
    options = {**HELD_OUT, "method": "rloo", "watch__gold": f"{path}:gold", "watch__kl_budget": 1e-9}
    options |= {"train__epochs": 5.0, "eval__every": 50}
    with pytest.raises(Halted):
        train(**options, watch__stop="kl_over_budget")
    path.write_text("def gold(completions, **_):\n    return [2.0 for _ in completions]\n")
    with pytest.raises(RunError, match="the gold reward changed"):
        train(**options)
    with pytest.raises(RunError, match=r"PL502(.|\n)*watch\.gold"):
        train(**options | {"watch__gold": "length:least=1"})


def test_gold_that_fails_too_often_stops_the_run_by_its_own_limit(train: Run, tmp_path: Path) -> None:
    (tmp_path / "gold.py").write_text("def gold(completions, **_):\n    return [None for _ in completions]\n")
    gold = {"rewards": [f"{tmp_path / 'gold.py'}:gold"], "retries": 0}
    with pytest.raises(RewardError, match="PL706"):
        train(method="rloo", **HELD_OUT, watch__gold=gold)
    found = metrics_of(train("all", method="rloo", **HELD_OUT, watch__gold={**gold, "max_error_fraction": 1.0}))
    evaluated = [line for line in found if "eval/reward" in line]
    assert all(line["eval/gold/error_rate"] == 1 for line in evaluated)
    assert not any("eval/gold" in line for line in evaluated)


def test_a_column_that_gold_reads_and_no_row_has(train: Run) -> None:
    with pytest.raises(RewardError, match=r"PL709(.|\n)*watch\.gold"):
        train(method="rloo", **HELD_OUT, watch__gold="math:column=solution")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"watch.gold": "length"}, "watch.gold  has no effect without held-out data"),
        ({"watch.gold": {"shaping": []}, "data.eval_fraction": 0.3}, "watch.gold.rewards  is required"),
        ({"watch.gold": {"rewards": ["length"], "retrys": 1}, "data.eval_fraction": 0.3}, "did you mean retries"),
        ({"watch.gold_errors": 2.0}, "watch.gold_errors  has no effect without watch.gold"),
        ({"watch.stop": ["gold_correlation"]}, "gold_correlation is never raised: there is no watch.gold"),
    ],
)
def test_gold_without_effect(changes: dict[str, Any], words: str, options: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError) as refused:
        runs.resolved("rloo", options("run", **changes))
    assert words in str(refused.value)


@pytest.mark.parametrize("key", ["above_range", "disagreement", "outliers"])
def test_thresholds_of_reward_models_need_one(key: str, train: Run) -> None:
    with pytest.raises(TrainingError, match=rf"PL405(.|\n)*watch\.{key}"):
        train(method="rloo", **{f"watch__{key}": 0.5 if key != "disagreement" else 3.0})
