"""Frontiers from scored answers: gains, distances, laws, losses and what is left out, on numbers made by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plaudit.errors import EvaluationError, RunError
from plaudit.evaluation.frontier.analysis import Answers, frontier
from plaudit.evaluation.frontier.logged import logged_frontier
from plaudit.evaluation.frontier.points import find_places
from plaudit.evaluation.frontier.words import fit_sentence, loss_sentence, loss_sentences
from plaudit.evaluation.laws import law_reward
from tests.conftest import write_jsonl


def answers(name: str, proxy: Any, gold: Any, ratio: Any = 0.0, step: int | None = None) -> Answers:
    shape = np.shape(proxy)
    return Answers(
        name,
        np.asarray(proxy, dtype=float),
        np.asarray(gold, dtype=float),
        np.broadcast_to(np.asarray(ratio, dtype=float), shape).copy(),
        step,
    )


def lawful(prompts: int = 40, noise: float = 0.0) -> tuple[Answers, list[Answers]]:
    """Models whose gains follow the law of reinforcement learning: proxy 2 and 0.5, gold 1 and 0.8."""
    generator = np.random.default_rng(0)
    base_proxy, base_gold = generator.normal(3, 1, (prompts, 4)), generator.normal(-1, 2, (prompts, 4))
    start = answers("start", base_proxy, base_gold)
    points = []
    for number, d in enumerate((0.4, 0.9, 1.6, 2.5)):
        noisy = lambda: noise * generator.normal(size=(prompts, 4))  # noqa: E731
        proxy = base_proxy + law_reward("rl", d, 2.0, 0.5) + noisy()
        gold = base_gold + law_reward("rl", d, 1.0, 0.8) + noisy()
        ratio = d**2 * (1 + noise * generator.normal(size=(prompts, 1)))
        points.append(answers(f"step {number}", proxy, gold, ratio, number))
    return start, points


def test_coefficients_come_back_from_lawful_answers() -> None:
    start, points = lawful()
    found = frontier(start, points)
    assert [p.distance.value for p in found.points] == pytest.approx([0.4, 0.9, 1.6, 2.5])
    for name, alpha, beta in (("proxy", 2.0, 0.5), ("gold", 1.0, 0.8)):
        fit = found.fit("rl", name).fit  # type: ignore[arg-type]
        assert fit is not None
        assert (fit.alpha.value, fit.beta.value) == pytest.approx((alpha, beta), abs=1e-9)
        assert fit.peak is not None
        assert fit.peak.distance.value == pytest.approx(math.exp(alpha / beta - 1))
        assert fit.extrapolated == (name == "proxy")
    gold = [law_reward("rl", d, 1.0, 0.8) for d in (0.4, 0.9, 1.6, 2.5)]
    assert found.loss is not None
    assert (found.loss.peak, found.loss.last) == ("step 2", "step 3")
    assert found.loss.share.value == pytest.approx(1 - gold[3] / max(gold))
    assert "is lost at step 3" in loss_sentence(found.loss, "policy")
    assert found.points[0].gap is not None
    spreads = start.proxy_GK.std(ddof=1), start.gold_GK.std(ddof=1)
    expected = law_reward("rl", 0.4, 2.0, 0.5) / spreads[0] - gold[0] / spreads[1]
    assert found.points[0].gap.value == pytest.approx(expected)
    assert [(f.curve, f.law, f.reward) for f in found.fits] == [("policy", "rl", "proxy"), ("policy", "rl", "gold")]
    with pytest.raises(KeyError, match=r"0 fits are of bon, gold"):  # best-of-n was not asked for
        found.fit("bon", "gold")


def test_intervals_are_clustered_by_prompt_and_deterministic() -> None:
    start, points = lawful(noise=0.3)
    found, again, other = (frontier(start, points, seed=s) for s in (1, 1, 2))
    assert found.to_json() == again.to_json()
    assert found.to_json() != other.to_json()
    first = points[0].gold_GK.mean(axis=1) - start.gold_GK.mean(axis=1)
    half = 1.959964 * first.std(ddof=1) / math.sqrt(40)
    assert found.points[0].gold.value == pytest.approx(first.mean())
    assert found.points[0].gold.high - found.points[0].gold.value == pytest.approx(half, rel=1e-6)
    for name, alpha, beta in (("proxy", 2.0, 0.5), ("gold", 1.0, 0.8)):
        fit = found.fit("rl", name).fit  # type: ignore[arg-type]
        assert fit is not None
        assert fit.intervals == "bootstrap over prompts"
        assert fit.weighted
        assert fit.alpha.low < alpha < fit.alpha.high
        assert fit.beta.low < beta < fit.beta.high
    # the same answers three times over say no more than once
    thrice = [
        answers(p.name, *(np.tile(v, (1, 3)) for v in (p.proxy_GK, p.gold_GK, p.log_ratio_GK)))
        for p in (start, *points)
    ]
    assert frontier(thrice[0], thrice[1:]).points[0].gold.high == pytest.approx(found.points[0].gold.high)


@pytest.mark.slow
def test_intervals_of_the_law_cover() -> None:
    """The bootstrap over prompts, where the points share their prompts and the reference's answers."""
    generator = np.random.default_rng(3)
    inside = {"alpha": 0, "beta": 0}
    for _ in range(150):
        ease = generator.normal(size=(60, 1))
        noisy = lambda: ease + 0.5 * generator.normal(size=(60, 4))  # noqa: B023, E731
        start = answers("start", noisy(), noisy())
        points = []
        for d in (0.7, 1.2, 2.0, 3.0):
            own = 1 + 0.3 * generator.normal(size=(60, 1))  # a prompt's own gain
            gold = noisy() + own * law_reward("rl", d, 1.0, 0.5)
            points.append(answers(str(d), gold, gold, d**2 + 0.5 * generator.normal(size=(60, 4))))
        fit = frontier(start, points, draws=300).fit("rl", "gold").fit
        assert fit is not None
        inside["alpha"] += fit.alpha.low <= 1.0 <= fit.alpha.high
        inside["beta"] += fit.beta.low <= 0.5 <= fit.beta.high
    assert min(inside.values()) >= 0.88 * 150


def test_best_of_n_is_the_mean_over_every_choice() -> None:
    """Gold under the choice of a tied proxy, prompt by prompt, by enumeration of the subsets."""
    generator = np.random.default_rng(2)
    proxy = generator.integers(0, 3, (5, 6)).astype(float)
    gold = generator.normal(size=(5, 6))
    found = frontier(answers("start", proxy, gold), [], [1, 2, 4])
    assert [p.n for p in found.best_of] == [1, 2, 4]
    for point in found.best_of:
        for name, values in (("proxy", proxy), ("gold", gold)):
            gains = []
            for row_p, row_v in zip(proxy, values, strict=True):
                chosen = []
                for subset in itertools.combinations(range(6), point.n):
                    best = max(row_p[i] for i in subset)
                    chosen.append(np.mean([row_v[i] for i in subset if row_p[i] == best]))
                gains.append(np.mean(chosen) - row_v.mean())
            assert getattr(point, name).value == pytest.approx(np.mean(gains), abs=1e-12)
        assert point.kl.value <= point.bound
    assert found.best_of[1].kl.value < found.best_of[1].bound - 0.01
    assert (found.best_of[0].gold.low, found.best_of[0].gold.high) == (0, 0)
    assert found.fit("bon", "gold").why == "a fit needs 3 points at different distances, and there are 2"
    untied = frontier(answers("start", gold, proxy), [], [1, 2, 4])
    assert [p.kl.value for p in untied.best_of] == pytest.approx([p.bound for p in untied.best_of])


def test_answers_without_a_reward_are_left_out_and_counted() -> None:
    start, points = lawful(prompts=6)
    start.gold_GK[0, 1] = np.nan  # one of four: the rest stand for the prompt
    points[1].proxy_GK[2] = np.nan  # all of them: the prompt is left out everywhere
    found = frontier(start, points, [1, 4])
    assert (found.start.prompts, found.start.left_out, found.start.failed) == (5, 1, 1)
    assert [p.failed for p in found.points] == [0, 0, 0, 0]
    assert [p.prompts for p in found.best_of] == [5, 4]  # the first has only three answers to choose from
    assert found.start.answers == 19
    kept = [0, 1, 3, 4, 5]
    means = [np.delete(start.proxy_GK[0], 1).mean(), *start.proxy_GK[kept[1:]].mean(axis=1)]
    assert found.start.proxy == pytest.approx(np.mean(means))
    points[0].gold_GK[:] = np.nan
    with pytest.raises(ValueError, match="no prompt has an answer with both rewards"):
        frontier(start, points)
    with pytest.raises(ValueError, match="no prompt has 9 answers"):
        frontier(start, [], [9])
    with pytest.raises(ValueError, match="different numbers of prompts"):
        frontier(start, [answers("x", [[1.0]], [[1.0]])])


def test_points_that_cannot_be_told_from_the_start_are_in_no_fit() -> None:
    start, points = lawful(noise=0.01)
    still = answers("step 0", start.proxy_GK, start.gold_GK, np.random.default_rng(0).normal(size=(40, 4)))
    found = frontier(start, [still, *points[:2]])
    none = found.fit("rl", "gold")
    assert (none.fit, none.at_zero) == (None, 1)
    assert fit_sentence(none) == (
        "no fit: a fit needs 3 points at different distances, and there are 2; the KL of 1 more cannot be told from 0."
    )
    assert found.fit("rl", "gold").at_zero == 1
    assert frontier(start, [still, *points]).fit("rl", "gold").fit is not None


def test_nothing_is_lost_where_nothing_was_gained() -> None:
    start, _ = lawful()
    worse = answers("worse", start.proxy_GK + 1, start.gold_GK - 1, 1.0)
    assert frontier(start, [worse]).loss is None
    assert loss_sentence(None, "policy") == "policy: no point gains in gold."
    better = answers("better", start.proxy_GK + 1, start.gold_GK + 1, 1.0)
    found = frontier(start, [worse, better]).loss
    assert found is not None
    assert found.share.value == 0
    assert "nothing is lost yet" in loss_sentence(found, "policy")


def test_every_run_has_a_curve_of_its_own() -> None:
    """Two runs of one step each on the other's curve: what one law says of both is true of neither."""
    start, points = lawful(noise=0.1)
    second = lawful(prompts=40, noise=0.1)[1][:3]
    one = [replace(p, curve="one", name=f"one {p.name}") for p in points]
    two = [replace(p, curve="two", name=f"two {p.name}", gold_GK=p.gold_GK + 9 - 4 * i) for i, p in enumerate(second)]
    found = frontier(start, [*one, *two], [1, 2])
    assert {name: [p.name for p in own] for name, own in found.curves().items()} == {
        "one": [p.name for p in one],
        "two": [p.name for p in two],
    }
    for name, own in (("one", points), ("two", two)):
        alone = frontier(start, [replace(p, curve="policy") for p in own])
        for reward in ("proxy", "gold"):
            assert found.fit("rl", reward, name).fit == alone.fit("rl", reward).fit  # type: ignore[arg-type]
        loss, expected = found.losses[name], alone.loss
        assert loss is not None
        assert expected is not None
        assert (loss.peak_gain, loss.last_gain, loss.share) == (expected.peak_gain, expected.last_gain, expected.share)
        assert loss.peak.startswith(f"{name} step")
    assert found.loss is None  # there is no verdict over both
    assert [f.curve for f in found.fits] == ["one", "one", "two", "two", "best of n", "best of n"]
    with pytest.raises(KeyError, match="2 fits"):
        found.fit("rl", "gold")
    told = loss_sentences(found)
    assert [t.partition(":")[0] for t in told] == ["one", "two", "best of n"]
    assert "two: gold was highest at two step 0" in told[1]
    result = found.to_json()
    assert [p["curve"] for p in result["points"]] == ["one"] * 4 + ["two"] * 3
    assert list(result["losses"]) == ["one", "two"]


def test_correlations_on_a_models_own_answers() -> None:
    start, _ = lawful()
    x = np.random.default_rng(5).normal(size=(40, 4))
    ease = 10 * np.arange(40)[:, None]
    model = answers("model", x + ease, -x + ease, 1.0)
    point = frontier(start, [model]).points[0]
    assert point.correlation is not None
    assert point.within is not None
    assert point.correlation.value == pytest.approx(np.corrcoef((x + ease).ravel(), (-x + ease).ravel())[0, 1])
    assert point.correlation.low > 0.9  # easy prompts are easy by both
    assert point.within.value == pytest.approx(-1)  # and every answer that one likes better, the other likes worse
    constant = answers("constant", np.full((40, 4), 0.1), x, 1.0)
    point = frontier(start, [constant]).points[0]
    assert (point.correlation, point.within) == (None, None)
    single = frontier(answers("start", x[:, :1], x[:, :1]), [answers("m", x[:, :1], x[:, 1:2], 1.0)]).points[0]
    assert single.within is None


# -- a run's own log


def logged_run(folder: Path, lines: list[dict[str, Any]], config: str = "model: {path: x}\ndata: {}\n") -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    write_jsonl(folder / "metrics.jsonl", lines)
    return folder


def test_a_log_is_drawn_without_sampling(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 0, "eval/reward": 2.0, "eval/gold": 5.0}]
    for step, d in ((2, 0.5), (4, 1.0), (6, 2.0), (8, 3.0)):
        lines.append({"step": step - (step == 8), "kl": d**2})
        gains = law_reward("rl", d, 1.0, 0.2), law_reward("rl", d, 0.8, 0.6)
        lines.append({"step": step, "eval/reward": 2 + gains[0], "eval/gold": 5 + gains[1]})
    found = logged_frontier(logged_run(tmp_path / "run", lines))
    fit = found.fit("rl", "gold").fit
    assert fit is not None
    assert (fit.alpha.value, fit.beta.value) == pytest.approx((0.8, 0.6))
    assert fit.intervals == "residuals"
    assert found.loss is not None
    assert found.losses == {"policy": found.loss}
    assert {f.law for f in found.fits} == {"rl"}  # nothing about best-of-n, which is not in a log
    assert (found.loss.peak, found.loss.last) == ("step 4", "step 8")
    assert any("1 of 4 evaluations take their KL from an earlier step" in note for note in found.notes)
    assert any("most likely answers" in note for note in found.notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"step": 0, "eval/reward": 1.0}], "no evaluation with a gold reward"),
        ([{"step": 2, "eval/reward": 1.0, "eval/gold": 1.0, "kl": 1.0}], "no evaluation before its first step"),
        ([{"step": s, "eval/reward": 1.0, "eval/gold": 1.0} for s in (0, 1)], "has logged no kl"),
    ],
)
def test_a_log_without_what_is_needed(tmp_path: Path, lines: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EvaluationError, match=rf"PL806[\s\S]*{message}[\s\S]*leave out --from-log"):
        logged_frontier(logged_run(tmp_path / "run", lines))
    with pytest.raises(RunError, match="PL501"):
        logged_frontier(tmp_path / "nowhere")


# -- which models


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text('{"step": 4}')
    return folder


def test_a_run_is_all_states_that_it_has_kept_each_once(tmp_path: Path) -> None:
    run = put(tmp_path / "run", "config.yaml", "environment.json")
    (run / "COMPLETE").write_text('{"summary": {"steps": 9, "best_step": 4}, "ledger_head": ""}')
    put(run / "model", "config.json")
    put(run / "best", "adapter_config.json")
    put(run / "kl-0.5", "config.json")
    put(run / "kl-1", "adapter_config.json")
    put(run / "kl-2", "adapter_config.json")  # nobody says of which step
    (run / "kl_grid.json").write_text('[{"step": 2, "path": "kl-0.5"}, {"step": 3, "path": "kl-1"}]')
    put(run / "checkpoints" / "step-00000004", "weights.safetensors", "progress.json")  # the same as best
    put(run / "checkpoints" / ".writing-00000009-1", "weights.safetensors", "progress.json")
    found = find_places([run])
    assert [(p.name, p.folder.relative_to(run).as_posix()) for p in found] == [
        ("step 2", "kl-0.5"),
        ("step 3", "kl-1"),
        ("step 4", "best"),
        ("step 9", "model"),
        ("kl-2", "kl-2"),
    ]
    assert {p.run for p in found} == {run}
    only = find_places([run / "checkpoints"])
    assert [(p.name, p.step, p.run) for p in only] == [("step 4", 4, run)]
    (run / "kl_grid.json").write_text('[{"step": 2}]')
    with pytest.raises(RunError, match=r"PL504[\s\S]*kl_grid"):
        find_places([run])


def test_of_a_run_that_an_alert_has_stopped_the_ends_are_known(tmp_path: Path) -> None:
    """There is no summary: the ledger has the steps of `model` and `best`, and neither stands beside its checkpoint."""
    run = put(tmp_path / "run", "config.yaml", "environment.json")
    put(run / "model", "config.json")
    put(run / "best", "config.json")
    put(run / "checkpoints" / "step-00000004", "weights.safetensors", "progress.json")  # of step 4, as best is
    events = [{"event": "stopped", "step": 2, "best_step": 1}, {"event": "resumed"}]
    write_jsonl(run / "ledger.jsonl", [*events, {"event": "stopped", "step": 9, "best_step": 4}])
    assert [(p.name, p.folder.name) for p in find_places([run])] == [("step 4", "best"), ("step 9", "model")]


def run_with(folder: Path, steps: int) -> Path:
    run = put(folder, "config.yaml", "environment.json")
    (run / "COMPLETE").write_text(f'{{"summary": {{"steps": {steps}}}, "ledger_head": ""}}')
    put(run / "model", "config.json")
    put(run / "kl-0.2", "config.json")
    (run / "kl_grid.json").write_text('[{"step": 2, "path": "kl-0.2"}]')
    return run


def test_models_of_several_runs_say_which_run_and_step_they_are_of(tmp_path: Path) -> None:
    lg, other = run_with(tmp_path / "a" / "lg", 6), run_with(tmp_path / "b" / "mid", 8)
    both = find_places([lg, other])
    assert [(p.curve, p.name) for p in both] == [
        ("lg", "lg step 2"),
        ("lg", "lg step 6"),
        ("mid", "mid step 2"),
        ("mid", "mid step 8"),
    ]
    # named one by one, in any order, and with a model of no run between them
    free = put(tmp_path / "free", "config.json")
    named = find_places([lg / "kl-0.2", free, other / "model", lg / "model"])
    assert [(p.curve, p.name, p.step) for p in named] == [
        ("lg", "lg step 2", 2),
        ("lg", "lg step 6", 6),
        ("models in no run", "free", None),
        ("mid", "mid step 8", 8),
    ]
    only = find_places([lg / "kl-0.2", lg / "model"])
    assert [(p.curve, p.name) for p in only] == [("policy", "step 2"), ("policy", "step 6")]
    again = run_with(tmp_path / "b" / "lg", 8)
    assert {p.curve for p in find_places([lg, again])} == {"a/lg", "b/lg"}
    assert {p.curve for p in find_places([lg, tmp_path / "b" / "mid" / ".." / "lg"])} == {"a/lg", "b/lg"}
    assert [p.curve for p in find_places([free])] == ["policy"]
    (lg / "COMPLETE").unlink()  # it has not ended: nobody knows of which step the model is
    assert [p.name for p in find_places([lg / "model", other / "model"])] == ["lg model", "mid step 8"]


def test_a_folder_of_folders_with_models(tmp_path: Path) -> None:
    put(tmp_path / "all" / "step-00000012" / "model", "adapter_config.json")
    put(tmp_path / "all" / "step-00000002", "config.json")
    put(tmp_path / "all" / "logs")
    assert [(p.name, p.step) for p in find_places([tmp_path / "all"])] == [
        ("step-00000002", 2),
        ("step-00000012", 12),
    ]


def test_folders_are_taken_as_they_are_named(tmp_path: Path) -> None:
    one, two = put(tmp_path / "a" / "policy", "config.json"), put(tmp_path / "b" / "policy", "config.json")
    found = find_places([two, one, two])
    assert [p.folder for p in found] == [two, one]
    assert len({p.name for p in found}) == 2
    (one / "model.safetensors").write_bytes(b"1")
    first = found[1].identity()
    (one / "model.safetensors").write_bytes(b"2")
    assert found[1].identity() != first
    for missing in (tmp_path / "nowhere", put(tmp_path / "empty")):
        with pytest.raises(EvaluationError, match=r"PL804[\s\S]*checkpoint.keep"):
            find_places([missing])
