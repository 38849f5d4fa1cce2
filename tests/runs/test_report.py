from __future__ import annotations

import html.parser
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from plaudit.errors import RunError
from plaudit.runs import charts
from plaudit.runs.curves import Curves, gold_plane, read_curves, summary_rows
from plaudit.runs.report import write_report
from plaudit.runs.rundir import RunDir
from plaudit.runs.sample_view import MAX_PROMPTS, MAX_STEPS, sample_view
from tests.runs.synthetic_run import HOSTILE, make_online_run, make_run


class Page(html.parser.HTMLParser):
    """Elements, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return make_run(tmp_path / "dpo-tiny")


def test_the_report_has_everything(run_path: Path) -> None:
    path = write_report(run_path)
    assert path == run_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for part in (
        "DPO · dpo-tiny",
        "tiny-model",
        "pairs.jsonl",
        "finished",
        "60 of 60",
        "rewards/chosen − rewards/rejected",
        "Raise beta",
        "answer at 0",
        "answer at 60",
        "identical pair",
        "beta: 0.1",
        "working directory",
        "The ledger is intact",
        "1 value is not finite",
        "Defined by the method",
    ):
        assert part in page.text, part
    assert page.count("svg") == 5  # loss (train and eval in one), margins, learning rate, odd, hostile
    assert page.count("path") == 6  # one line each, and the held-out loss beside the loss


def test_the_report_needs_no_network_and_runs_only_its_own_script(run_path: Path) -> None:
    text = write_report(run_path).read_text(encoding="utf-8")
    page = Page(text)
    loading = [(t, a) for t, a in page.tags if {"src", "href", "data", "action"} & a.keys()]
    assert all(t == "a" and (a["href"] or "").startswith("#") for t, a in loading)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    scripts = [a for t, a in page.tags if t == "script" and a.get("type") != "application/json"]
    assert len(scripts) == 1
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_markup_in_the_run_is_text(run_path: Path) -> None:
    text = write_report(run_path).read_text(encoding="utf-8")
    assert "<script>document" not in text
    assert "<img" not in text
    assert HOSTILE in Page(text).text
    for found in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
        json.loads(found)


def test_any_directory_state_gives_a_page(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", {"method": {"name": "sft"}}) as run:
        text = Page(write_report(run.path).read_text()).text
        assert "running" in text
        assert "No metrics have been logged yet" in text
        assert "This run has no data report" in text
        run.log_metrics(5, {"only/one": 3.0, "flat": math.nan})
        assert "only/one" in Page(write_report(run.path).read_text()).text
    assert "failed: its process is gone" in Page(write_report(tmp_path / "r").read_text()).text
    with pytest.raises(RunError, match="PL501"):
        write_report(tmp_path)


def test_a_changed_ledger_is_shown(run_path: Path) -> None:
    ledger = run_path / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("checkpoints/last", "checkpoints/best"))
    assert "The ledger does not verify" in Page(write_report(run_path).read_text()).text


def test_the_report_reads_only_the_directory(run_path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / run_path.name

    def page(path: Path) -> str:
        return re.sub(r"run directory, .* UTC", "", write_report(path).read_text()).replace(str(path), "")

    first = page(run_path)
    shutil.copytree(run_path, moved)
    assert page(moved) == first


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    path = make_run(tmp_path / "long", steps=20_000)
    report = write_report(path)
    assert report.stat().st_size < 400_000
    found = re.findall(r'<script type="application/json">(.*?)</script>', report.read_text(), re.S)
    assert max(len(s["steps"]) for f in found for s in json.loads(f)["series"]) <= charts.MAX_POINTS


def test_summary_rows_follow_the_direction(run_path: Path) -> None:
    rows = {r.name: r for r in summary_rows(read_curves(run_path))}
    held_out = rows["eval/loss"]
    assert (held_out.first, held_out.last, held_out.best, held_out.best_step) == ("0.69", "0.57", "0.57", 60)
    assert held_out.better is True
    assert rows["odd/metric"].best == "–"
    assert list(rows)[:2] == ["loss", "eval/loss"]


def test_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", {}) as run:
        run.log_metrics(1, {"loss": 1.0})
        run.log_metrics(1, {"loss": 2.0, "eval/loss": 3.0})
    assert read_curves(tmp_path / "r") == {"loss": [(1, 2.0)], "eval/loss": [(1, 3.0)]}


class TestOnline:
    """The page of a run that samples answers."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> str:
        return write_report(make_online_run(tmp_path / "ppo-tiny")).read_text(encoding="utf-8")

    def test_the_large_numbers_are_those_that_tell_something(self, source: str) -> None:
        assert re.findall(r'<div class="tile"><div class="label">(.*?)</div>', source) == [
            "eval/<wbr>reward",
            "kl",
            "entropy",
            "eval/<wbr>completions/<wbr>mean_<wbr>length",
        ]

    def test_charts_stand_under_the_heading_of_their_kind(self, source: str) -> None:
        found: dict[str, list[str]] = {}
        for heading in re.split(r"<h3[^>]*>", source.split('id="curves"')[1].split('id="numbers"')[0])[1:]:
            names = re.findall(r"<figcaption>\s*<div class=\"title\"><h4>(.*?)</h4>", heading)
            found[heading.partition("</h3>")[0]] = [name.replace("<wbr>", "") for name in names]
        assert list(found)[:6] == ["Rewards", "Answers", "KL and entropy", "Policy update", "Loss", "Value function"]
        assert found["Rewards"] == [
            "reward", "reward_std", "rewards/length/mean", "rewards/math/mean", "frac_reward_zero_std",
        ]  # fmt: skip
        assert found["Answers"] == ["completions/mean_length", "completions/clipped_ratio"]
        assert {"entropy", "kl_per_token"} <= set(found["KL and entropy"])
        assert found["Policy update"] == ["policy/clipfrac"]
        assert found["Value function"] == ["value/explained_variance"]
        assert found["Sampling"] == ["rollout/gap_mean"]

    def test_an_answer_stands_with_its_reward_its_parts_and_why(self, source: str) -> None:
        text = Page(source).text
        answers = re.findall(
            r"step (\d+) · reward (\S+)\s+(.*?)parts (.*?)\s+note (.*?)\s+tokens (\d+)\s+finish reason (\w+)",
            text,
            re.S,
        )
        assert ("1", "1", "an answer worth 1", f"math 1.125, {HOSTILE} -0.125") == answers[0][:4]
        assert answers[0][4:] == ("math: read 7, expected 7", "12", "stop")
        assert ("59", "0", "(empty)") in [a[:3] for a in answers]
        assert "<img" not in source

    def test_the_alert_is_there(self, source: str) -> None:
        text = Page(source).text
        assert "Alerts (1)" in text
        assert "75 % of the answers were cut off" in text
        assert "Raise rollout.max_new_tokens" in text

    def test_a_loss_that_moves_is_neither_better_nor_worse(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", {}) as run:
            run.log_metrics(1, {"loss": 1.0, "reward": 0.5})
            run.log_metrics(2, {"loss": 2.0, "reward": 0.6})
        rows = {row.name: row for row in summary_rows(read_curves(tmp_path / "r"))}
        assert list(rows) == ["reward", "loss"]
        assert rows["reward"].better is True
        assert rows["loss"].better is None


class TestCharts:
    def test_downsampling_keeps_ends_extremes_and_gaps(self) -> None:
        points = [(s, math.sin(s / 50)) for s in range(10_000)]
        points[3333], points[7777], points[5000] = (3333, 9.0), (7777, -9.0), (5000, math.nan)
        thin = charts.downsample(points)
        assert len(thin) <= charts.MAX_POINTS
        assert thin[0] == points[0]
        assert thin[-1] == points[-1]
        assert (3333, 9.0) in thin
        assert (7777, -9.0) in thin
        assert any(step == 5000 for step, _ in thin)
        assert [s for s, _ in thin] == sorted({s for s, _ in thin})

    def test_short_curves_are_untouched(self) -> None:
        points = [(s, float(s)) for s in range(charts.MAX_POINTS)]
        assert charts.downsample(points) == points

    def test_the_moving_average_does_not_lag(self) -> None:
        line = [(s, 2.0 * s) for s in range(400)]
        assert charts.smooth(line)[200] == (200, pytest.approx(400.0))

    def test_only_noisy_curves_are_smoothed(self) -> None:
        assert not charts.is_noisy([(s, s**2.0) for s in range(100)])
        assert charts.is_noisy([(s, float(s % 2)) for s in range(100)])
        assert not charts.is_noisy([(s, float(s % 2)) for s in range(10)])

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 8.7), (1e-7, 9e-7), (0, 6_120_000), (5, 5.0001)])
    def test_ticks_are_inside_and_round(self, low: float, high: float) -> None:
        ticks = charts.nice_ticks(low, high)
        assert 2 <= len(ticks) <= 7
        assert all(low - 1e-9 * abs(low) <= t <= high + 1e-9 * abs(high) for t in ticks)

    def test_a_gap_lifts_the_pen(self) -> None:
        drawn = charts.chart("x", [(1, 1.0), (2, math.nan), (3, 2.0), (4, 3.0)], [])
        assert drawn.lines[0].path.count("M") == 2
        assert drawn.not_finite == 1

    def test_train_and_eval_share_the_axis(self) -> None:
        drawn = charts.chart("loss", [(1, 1.0), (10, 2.0)], [(0, 5.0), (20, 0.0)])
        assert (drawn.first_step, drawn.last_step) == (0, 20)
        assert [label for label, _ in drawn.latest] == ["train", "eval"]
        # (1, 1) and (10, 2), (0, 5) and (20, 0); 5 and 0 stand 6 % of their distance from the edges
        high = 5 * 1.06
        at = [
            (round(s * 50), round(charts.HEIGHT * (high - v) / (5 * 1.12)))
            for s, v in ((1, 1), (10, 2), (0, 5), (20, 0))
        ]
        expected = [f"M{x} {y}l{x2 - x} {y2 - y}" for (x, y), (x2, y2) in (at[:2], at[2:])]
        assert [line.path for line in drawn.lines] == expected
        assert [h["heights"] for h in drawn.hover] == [[y for _, y in at[:2]], [y for _, y in at[2:]]]
        assert [h["steps"] for h in drawn.hover] == [[1, 9], [0, 20]]


@pytest.mark.parametrize(("low", "high"), [(0.69290, 0.69320), (-1e-4, 3e-4), (1_000_100.0, 1_000_400.0), (0.0, 3e9)])
def test_the_labels_of_ticks_tell_them_apart(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high, 3)
    labels = [charts.tick_text(tick, ticks[1] - ticks[0]) for tick in ticks]
    assert len(set(labels)) == len(labels) > 1


class TestSamples:
    def test_the_same_prompt_side_by_side(self) -> None:
        lines = [
            {"step": s, "prompt": p, "completion": f"{p}{s}", "chosen": "x", "reward": s}
            for s in range(0, 100, 10)
            for p in "ab"
        ]
        view = sample_view(lines)
        assert view.prompt_count == 2
        assert view.step_count == 10
        assert view.steps_shown[0] == 0
        assert view.steps_shown[-1] == 90
        assert len(view.steps_shown) == MAX_STEPS
        first = view.prompts[0]
        assert first.constant == {"chosen": "x"}
        assert [[c.completion for c in own] for own in first.cells] == [[f"a{s}"] for s in view.steps_shown]
        assert first.cells[1][0].fields == {"reward": view.steps_shown[1]}

    def test_long_texts_are_cut_and_it_is_said(self) -> None:
        view = sample_view([{"step": 1, "prompt": "p", "completion": "x" * 5000}])
        assert "+1,000 characters" in str(view.prompts[0].cells[0][0].completion)

    def test_no_completion_shows_the_fields(self) -> None:
        view = sample_view([{"step": 1, "prompt": "p", "chosen": "c", "rejected": "r"}])
        assert view.prompts[0].cells[0][0].completion is None
        assert view.prompts[0].cells[0][0].fields == {"chosen": "c", "rejected": "r"}

    def test_what_belongs_to_an_answer_stays_with_it(self) -> None:
        line = {"prompt": "p", "completion": "c", "reward": 1.0, "note": "n", "source": "x"}
        lines = [{"step": s, **line} for s in (1, 2)]
        prompt = sample_view(lines).prompts[0]
        assert prompt.constant == {"source": "x"}
        assert [cell.fields for own in prompt.cells for cell in own] == [{"reward": 1.0, "note": "n"}] * 2

    def test_of_many_prompts_the_repeated_ones_and_some_of_every_time_are_shown(self) -> None:
        lines = [
            {"step": s, "prompt": p, "completion": "c"}
            for s in range(10, 110, 10)
            for p in ("held out", *(f"{s}.{i}" for i in range(3)))
        ]
        view = sample_view(lines)
        assert view.prompt_count == 31
        # Of ten steps the first, the last and the fourth and seventh; three prompts of each, and the one that repeats.
        expected = ["held out", *(f"{s}.{i}" for s in (10, 40, 70, 100) for i in range(3))]
        assert [p.prompt for p in view.prompts] == expected
        assert view.prompts[0].steps == [10, 40, 70, 100]
        assert view.steps_shown == [10, 40, 70, 100]
        assert view.step_count == 10

    def test_many_prompts_of_one_time_share_the_room(self) -> None:
        lines = [{"step": s, "prompt": f"{s}.{i}", "completion": "c"} for s in range(1, 5) for i in range(9)]
        shown = [p.prompt for p in sample_view(lines).prompts]
        assert len(shown) == MAX_PROMPTS
        assert shown == [f"{s}.{i}" for s in range(1, 5) for i in range(5)]

    def test_a_prompt_that_began_late_is_shown_at_its_own_times(self) -> None:
        lines = [{"step": s, "prompt": "a", "completion": "c"} for s in range(0, 100, 10)]
        lines += [{"step": s, "prompt": "b", "completion": "c"} for s in range(55, 100, 10)]
        cells = {p.prompt: p.steps for p in sample_view(lines).prompts}
        assert cells == {"a": [0, 30, 60, 90], "b": [55, 65, 85, 95]}

    def test_the_status_of_a_run_that_an_alert_has_ended(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", {}) as run:
            run.log_metrics(1, {"reward": 0.5})
            run.log_event("stopped", code="kl_over_budget", step=1, message="far")
        assert "stopped by kl_over_budget at step 1" in Page(write_report(tmp_path / "r").read_text()).text


class TestGold:
    """Reward against gold, and the models of the KL grid."""

    CURVES: Curves = {  # noqa: RUF012  # of one evaluation before the first batch, and three behind
        "kl": [(1, 0.0), (3, 1.0), (5, 4.0), (7, 9.0)],
        "eval/reward": [(0, 0.5), (4, 1.5), (6, 2.5), (8, 3.5)],
        "eval/gold": [(0, 10.0), (4, 12.0), (6, 13.0), (8, 11.0)],
    }

    def test_rises_over_the_root_of_the_kl(self) -> None:
        """At 0, 1, 2 and 3 from left to right; the reward rises by 1 each, gold by 2, 3 and then only 1."""
        found = gold_plane(self.CURVES)
        assert found is not None
        assert found.key == [("train", "reward"), ("eval", "gold")]
        for style, rises in (("train", [0, 1, 2, 3]), ("eval", [0, 2, 3, 1])):
            dots = [d for d in found.dots if d.style == style]
            assert [d.x for d in dots] == pytest.approx([0, 100 / 3, 200 / 3, 100])
            heights = [dots[0].y - d.y for d in dots]
            assert heights == pytest.approx([r * (heights[rises.index(3)] / 3) for r in rises])

    @pytest.mark.parametrize("without", ["kl", "eval/gold", "eval/reward"])
    def test_there_is_none_without_one_of_them(self, without: str) -> None:
        assert gold_plane({name: points for name, points in self.CURVES.items() if name != without}) is None

    def test_the_page_has_both(self, tmp_path: Path) -> None:
        path = make_online_run(tmp_path / "r")
        assert "Reward against gold" not in write_report(path).read_text()
        assert "Models on the KL grid" not in write_report(path).read_text()
        with (path / "metrics.jsonl").open("a") as file:
            for step in (10, 30, 50):
                file.write(json.dumps({"step": step, "eval/reward": step / 60, "eval/gold": 1.0}) + "\n")
        kept = {"grid": [2.0], "step": 30, "kl": 2.25, "path": "kl-2", "metrics": {"reward": 0.5, "eval/gold": 0.75}}
        (path / "kl_grid.json").write_text(json.dumps([kept]))
        text = Page(write_report(path).read_text()).text
        assert "Reward against gold" in text
        assert "reward and gold over √KL" in text
        assert re.search(r"kl-2\s*30\s*2\.25\s*0\.5\s*–\s*0\.75", text)
