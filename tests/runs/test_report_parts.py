"""What the report is made of: the verdict, alerts on their curves, texts compared, data, and when it is written."""

from __future__ import annotations

import math
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from plaudit.config.changed import Changed
from plaudit.errors import RunError
from plaudit.runs import charts, jsonl, report
from plaudit.runs.alert_curves import CURVES_OF, curves_of
from plaudit.runs.alerts import RULES, Alert
from plaudit.runs.curves import Curves
from plaudit.runs.data_view import data_uses
from plaudit.runs.metrics import format_value, is_known
from plaudit.runs.report import ReportWriter, write_report
from plaudit.runs.rundir import RunDir, read_config
from plaudit.runs.sample_view import sample_view
from plaudit.runs.templating import visible
from plaudit.runs.text_diff import Piece, pieces
from plaudit.runs.verdict import verdict
from tests.runs.synthetic_run import make_run
from tests.runs.test_report import Page


def curve(*values: float) -> list[tuple[int, float]]:
    return [(10 * i, value) for i, value in enumerate(values)]


class TestVerdict:
    def test_pairs_are_judged_by_accuracy_and_margin_on_held_out_data(self) -> None:
        found = verdict(
            {
                "rewards/accuracies": curve(0.5, 0.1),
                "eval/rewards/accuracies": curve(0.5, 0.75),
                "eval/rewards/margins": curve(0.0, 1.5),
            },
            {},
        )
        assert (found.outcome, found.held_out) == ("better", True)
        assert [(m.name, m.words) for m in found.movements] == [
            ("eval/rewards/accuracies", "rose from 0.5 to 0.75"),
            ("eval/rewards/margins", "rose from 0 to 1.5"),
        ]

    def test_what_rounding_leaves_of_a_zero_is_shown_as_one(self) -> None:
        (found,) = verdict({"rewards/margins": curve(-9.54e-9, 0.1, 0.3)}, {}).movements
        assert found.words == "rose from 0 to 0.3"
        still = verdict({"rewards/margins": curve(-1.85e-9, 3.96e-6)}, {})
        assert still.outcome == "unclear", "a margin of some millionths is nothing that was learned"
        assert format_value("eval/rewards/margins", -1.85e-9) == "0"
        assert format_value("learning_rate", 1e-7) == "1.00e-07", "which is no sum of log-probs"

    def test_lower_is_better_for_a_perplexity(self) -> None:
        assert verdict({"eval/perplexity": curve(9, 5)}, {}).outcome == "better"
        assert verdict({"eval/perplexity": curve(5, 9)}, {}).outcome == "worse"

    def test_a_reward_that_rises_while_gold_falls_is_both(self) -> None:
        found = verdict({"eval/reward": curve(1, 2), "eval/gold": curve(2, 1)}, {})
        assert found.outcome == "mixed"
        assert [m.outcome for m in found.movements] == ["better", "worse"]

    def test_noise_is_no_change_and_a_trend_through_it_is(self) -> None:
        noise = [0.5 + 0.1 * math.sin(37 * i) for i in range(100)]
        assert verdict({"reward": curve(*noise)}, {}).outcome == "unclear"
        assert verdict({"reward": curve(*(v + i / 100 for i, v in enumerate(noise)))}, {}).outcome == "better"

    def test_a_jump_early_on_does_not_hide_a_rise_that_stays(self) -> None:
        assert verdict({"eval/rewards/accuracies": curve(0.5, 0, 1, 1, 1, 1, 1)}, {}).outcome == "better"

    def test_where_the_best_was_is_told_if_the_end_is_clearly_worse(self) -> None:
        lost = [verdict({"eval/perplexity": curve(9, 5, last)}, {}).movements[0].lost for last in (5.2, 6)]
        assert lost == [None, 10]

    @pytest.mark.parametrize(
        "curves", [{}, {"kl": curve(0, 1)}, {"eval/reward": curve(1)}, {"eval/reward": curve(1, math.nan)}]
    )
    def test_what_was_not_measured_twice_is_not_judged(self, curves: Curves) -> None:
        assert verdict(curves, {}).outcome == "early"


class TestAlertCurves:
    def test_every_rule_has_a_curve_that_is_a_metric(self) -> None:
        assert RULES.keys() - {"not_finite"} <= CURVES_OF.keys()
        assert all(is_known(name) for names in CURVES_OF.values() for name in names)

    def test_the_curves_that_were_logged(self) -> None:
        curves: Curves = {
            "loss": [(1, 1.0), (2, math.nan)],
            "eval/reward": [(1, 1.0)],
            "rewards/a/outliers": [(1, 0.5)],
            "rewards/b/outliers": [(1, 0.5)],
        }
        assert curves_of({"code": "not_finite", "step": 2}, curves, {}) == ["loss"]
        assert curves_of({"code": "held_out_reward_falls", "step": 2}, curves, {}) == ["reward"]
        assert curves_of({"code": "reward_outliers"}, curves, {}) == ["rewards/a/outliers", "rewards/b/outliers"]
        assert curves_of({"code": "early_stopping"}, curves, {"eval": {"best_metric": "eval/loss"}}) == ["loss"]
        assert curves_of({"code": "kl_jump"}, curves, {}) == []
        assert curves_of({"code": "of a newer version"}, curves, {}) == []

    def test_the_gravest_come_first_with_links_to_their_marks(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", {}) as run:
            for step in (1, 11):
                run.log_metrics(step, {"grad_norm": 1.0, "rewards/margins": 0.0, "loss": 1.0})
            run.log_alert(Alert("info", "always_clipped", "clipped", "raise it", 1))
            run.log_alert(Alert("warn", "margins_flat", "rewards/margins are flat", "raise beta", 6))
            run.log_alert(Alert("error", "loss_not_falling", "no fall", "stop", 11))
            text = write_report(run.path).read_text()
        assert re.findall(r'id="alert-(\d)">\s*<h3>.*?class="level">(\w+)', text) == [
            ("1", "Error"),
            ("2", "Warning"),
            ("3", "Information"),
        ]
        assert re.findall(r'class="mark (\w+)" href="#alert-(\d)" style="left:([\d.]+)%', text) == [
            ("error", "1", "100.00"),
            ("warn", "2", "50.00"),
            ("info", "3", "0.00"),
        ]
        assert 'href="#curve:rewards/margins"' in text
        assert 'id="curve:rewards/margins"' in text
        assert "<p>rewards/margins are flat.</p>" in text, "a name keeps its small letter"


class TestTexts:
    def test_what_is_new_is_marked(self) -> None:
        assert pieces("The sky is blue.", "The wide sky is green.") == [
            Piece("The "),
            Piece("wide ", new=True),
            Piece("sky is "),
            Piece("green", new=True),
            Piece("."),
        ]

    @pytest.mark.parametrize(
        ("before", "now"),
        [
            ("a b c", "a b c"),
            ("entirely other words", "nothing that was there before"),
            ("", "something"),
            ("something", ""),
        ],
    )
    def test_nothing_is_marked_where_it_says_nothing(self, before: str, now: str) -> None:
        assert pieces(before, now) == [Piece(now)]

    def test_the_pieces_are_the_text(self) -> None:
        now = "<b>x</b>\n\n\tif a == 2:\n  \u202eq"
        assert "".join(p.text for p in pieces("<i>x</i>\n\tif a == 1:\n", now)) == now

    def test_what_is_not_seen_is_shown(self) -> None:
        assert visible("\x1b[31m\u202e\x00\x7f\ta\n") == "␛[31m⟨U+202E⟩␀␡\ta\n"

    def test_margins_of_a_pair_through_training(self) -> None:
        lines = [
            {"step": s, "prompt": "p", "completion": str(s), "chosen": "a", "margin": s / 10, "logps/chosen": -1.0 - s}
            for s in (0, 5, 10)
        ]
        prompt = sample_view(lines).prompts[0]
        assert [(r.name, r.values, r.change) for r in prompt.numbers] == [
            ("margin", ["0", "0.5", "1"], "+1"),
            ("logps/chosen", ["-1", "-6", "-11"], "-10"),
        ]
        assert prompt.constant == {"chosen": "a"}
        assert not prompt.fixed

    def test_answers_that_are_only_scored_stand_once_with_their_scores(self) -> None:
        lines = [
            {"step": s, "prompt": "p", "completion": text, "rank": rank, "reward": reward * (s + 1)}
            for s in (0, 10)
            for text, rank, reward in (("good", 1, 0.5), ("bad", 2, -0.25))
        ]
        sampled = [{**line, "tokens": 3} for line in lines]
        assert not sample_view(sampled).prompts[0].fixed, "each step wrote them again, with what belongs to them"
        prompt = sample_view(lines).prompts[0]
        assert prompt.fixed
        assert [(r.name, r.values, r.change) for r in prompt.numbers] == [
            ("margin", ["0.75", "8.25"], "+7.5"),
            ("reward of answer 1", ["0.5", "5.5"], "+5"),
            ("reward of answer 2", ["-0.25", "-2.75"], "-2.5"),
        ]


def test_the_data_report_in_parts() -> None:
    file = {
        "path": "pairs.jsonl", "rows": 10, "groups": 8, "weight": 2.0, "conventions": {"prompt + chosen": 10},
        "extras": {"source": 10}, "truncated": {}, "notes": {},
        "dropped": {"identical": {"count": 12, "rows": [*range(20, 8, -1)]}},
        "duplicates": {"count": 1, "rows": [4]}, "contradictions": {"count": 0, "rows": []}, "converted": None,
    }  # fmt: skip
    use = {"rows": 10, "groups": 8, "dropped": 2, "kind": "preference", "labels": None, "files": [file],
           "prompt_tokens": {"min": 1, "median": 2.0, "p95": 3.0, "max": 4}, "completion_tokens": {"max": 0},
           "meaning": {"identical": "chosen and rejected are the same"}}  # fmt: skip
    found = data_uses({"train": use})
    assert found is not None
    assert [(f.what, f.count, f.meaning, f.rows) for f in found[0].fates] == [
        ("dropped", 12, "chosen and rejected are the same", "9, 10, 11, 12, 13, 14, 15, 16, …"),
        ("kept", 1, "they repeat an earlier one", "4"),
    ]
    assert [what for what, _ in found[0].lengths] == ["prompt"]
    assert found[0].rest == {"kind": "preference"}
    assert data_uses({"rows": 3}) is None
    assert data_uses({}) is None


def test_what_was_chosen_stands_beside_the_default(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r")
    changed = [Changed("method.beta", 0.5, 0.1), Changed("data.mine", "<b>", has_default=False), Changed("x", 1, None)]
    text = Page(write_report(path, changed).read_text()).text
    assert re.search(r"method.beta\s*0.5\s*0.1\s*data.mine\s*<b>\s*none\s*x\s*1\s*not set", text)
    assert "Nothing but model, data and method was chosen" in Page(write_report(path, []).read_text()).text


@pytest.mark.parametrize(
    ("event", "details", "told"),
    [
        ("interrupted", {"signal": 15, "step": 7}, "stopped by SIGTERM after step 7"),
        ("failed", {"code": "PL402", "what": "the loss is not finite"}, "failed: [PL402] the loss is not finite"),
    ],
)
def test_a_run_that_did_not_finish_says_why_and_what_to_do(
    tmp_path: Path, event: str, details: dict[str, Any], told: str
) -> None:
    path = make_run(tmp_path / "r", complete=False)
    with RunDir.open(path, "resume", read_config(path)) as run:
        facts = jsonl.loads((path / "environment.json").read_text())
        facts |= {"argv": ["/bin/plaudit", "dpo", "--data", "my pairs.jsonl"], "working_directory": os.getcwd()}
        (path / "environment.json").write_text(jsonl.dumps(facts))
        run.log_event(event, **details)
        words = " ".join(Page(write_report(path).read_text()).text.split())  # the process has not ended yet
    assert told in words
    command = f"cd {shlex.quote(os.getcwd())} && plaudit dpo --data 'my pairs.jsonl'"
    what = "Mend it, and go on" if event == "failed" else "Go on with it"
    assert f"{what}: {command} Model" in words, "it can be given from anywhere"


class TestWhenItIsWritten:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return make_run(tmp_path / "r", complete=False)

    def written(self, run: Path) -> bool:
        there = (run / "report.html").exists()
        (run / "report.html").unlink(missing_ok=True)
        return there

    def test_behind_each_evaluation_and_at_the_end(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "_SHARE", math.inf)
        writer = ReportWriter(run, list, pytest.fail)
        writer.on_step(1, 9, {})
        writer.on_samples(1, [])  # of a rollout batch
        assert not self.written(run)
        writer.on_eval(2, {})
        assert not self.written(run), "its samples and alerts are still to come"
        writer.on_samples(2, [])
        assert self.written(run)
        writer.on_step(3, 9, {})
        assert not self.written(run)
        writer.on_eval(4, {})
        writer.on_step(5, 9, {})
        assert self.written(run), "not every evaluation has samples"
        writer.on_finish({})
        assert self.written(run)
        writer.close()
        assert not self.written(run), "it ends once"

    def test_an_end_by_an_error_too(self, run: Path) -> None:
        ReportWriter(run, list, pytest.fail).close()
        assert self.written(run)

    def test_it_takes_a_small_share_of_the_time(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])

        def slow(path: Path, choices: Any) -> None:
            clock[0] += 2.0
            times.append(clock[0])

        times: list[float] = []
        monkeypatch.setattr(report, "write_report", slow)
        writer = ReportWriter(run, list, pytest.fail)
        for _ in range(100):
            clock[0] += 1.0
            writer.on_eval(1, {})
            writer.on_samples(1, [])
        assert times == [103, 145, 187]  # every 40 seconds and what it takes

    def test_a_run_does_not_end_for_it(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[str] = []
        (run / "report.html").write_text("the old one")

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        writer = ReportWriter(run, list, said.append)
        writer.on_eval(1, {})
        writer.on_samples(1, [])
        assert said == ["report.html was not written: cannot write: No space left on device"]
        assert (run / "report.html").read_text() == "the old one"
        with pytest.raises(RunError, match="PL505"):
            write_report(run)


def test_a_reward_model_is_measured_and_no_partner_for_a_chat(tmp_path: Path) -> None:
    path = make_run(tmp_path / "r", steps=2)
    (path / "model").mkdir()
    jsonl.write_atomically(path / "model" / "plaudit.json", '{"kind": "reward"}')
    page = write_report(path).read_text(encoding="utf-8")
    assert f"plaudit evaluate reward {path} HELD_OUT_PAIRS.jsonl" in page
    assert f"plaudit ppo --reward {path} …" in page
    assert "plaudit chat" not in page
    jsonl.write_atomically(path / "model" / "plaudit.json", "{}")
    assert f"plaudit chat {path}" in write_report(path).read_text(encoding="utf-8")


def test_rows_of_the_plan_can_be_told_apart_and_names_of_variables_stay(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", {}) as run:
        run.write_plan({"packed tokens": "  9 a step   90 an epoch"}, 3)
        run.add_environment({"variables": {"OMP_NUM_THREADS": "1"}})
    page = write_report(tmp_path / "r").read_text(encoding="utf-8")
    assert "<dd>9 a step · 90 an epoch</dd>" in page
    assert "<dt>OMP_NUM_THREADS</dt>" in page


def test_an_answer_of_white_space_says_so(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", {}) as run:
        for step, text in enumerate((" \n" * 600, "")):
            run.log_samples(step, [{"prompt": "Why?", "completion": text}])
    page = write_report(tmp_path / "r").read_text(encoding="utf-8")
    assert "(white space, 1,200 characters)" in page
    assert "(empty)" in page


def test_rows_that_are_held_out_are_not_said_to_be_trained_on(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", {}) as run:
        run.write_data_report({"train": {"rows": 64, "groups": 64, "dropped": 0, "held_out": 5, "files": []}})
    text = " ".join(write_report(tmp_path / "r").read_text(encoding="utf-8").split())
    assert "64 rows read, 64 groups kept, none dropped; 5 of them held out (data.eval_fraction)." in text


class TestAxes:
    @pytest.mark.parametrize("values", [(0.08, 0.88), (-0.4, 0.4), (-0.91, -0.11)])
    def test_an_axis_has_two_labels_that_say_what_they_mark(self, values: tuple[float, float]) -> None:
        ticks = charts.chart("step_seconds", curve(*values), []).y_ticks
        assert len(ticks) >= 2
        low, high = float(ticks[0].text), float(ticks[1].text)
        pad = (values[1] - values[0]) * 0.06
        for tick, value in ((ticks[0], low), (ticks[1], high)):
            assert tick.at == pytest.approx(
                100 * (values[1] + pad - value) / (values[1] - values[0] + 2 * pad), abs=0.1
            )

    def test_a_share_of_nothing_is_not_drawn_above_negative_shares(self) -> None:
        drawn = charts.chart("rewards/error_rate", curve(0, 0, 0), [])
        assert [tick.text for tick in drawn.y_ticks] == ["0.0", "0.5", "1.0"]

    @pytest.mark.parametrize("value", [0.6931471805599453, -14139708.742100634, 1e-300])
    def test_what_differs_in_its_last_digit_is_drawn_as_one_value(self, value: float) -> None:
        drawn = charts.chart("step_seconds", curve(value, math.nextafter(value, math.inf)), [])
        labels = [tick.text for tick in drawn.y_ticks]
        assert len(set(labels)) == len(labels) >= 2
