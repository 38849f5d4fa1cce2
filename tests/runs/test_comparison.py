"""Runs side by side: differences, last values, the page with their curves."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import ConfigError, RunError
from plaudit.runs import charts
from plaudit.runs.comparison import MOST, compare_runs, write_comparison
from plaudit.runs.rundir import RunDir
from tests.runs.synthetic_run import HOSTILE, make_run


def small(path: Path, values: dict[str, float], **config: Any) -> Path:
    base: dict[str, Any] = {"method": {"name": "dpo", "beta": 0.1}, "model": {"path": "tiny"}, "lora": None}
    with RunDir.open(path, "resume", {**base, "run": {"dir": str(path)}, **config}) as run:
        run.log_metrics(1, values)
    return path


def test_what_differs_and_what_is_best(tmp_path: Path) -> None:
    a = small(tmp_path / "a", {"loss": 0.5, "rewards/margins": 1.0, "grad_norm": 3.0})
    b = small(
        tmp_path / "b",
        {"loss": 0.4, "rewards/margins": 0.5, "grad_norm": 1.0, "eval/loss": math.nan},
        method={"name": "dpo", "beta": 0.2},
        lora={"r": 4, "alpha": 8.0},
    )
    found = compare_runs([a, b])
    assert [(row.key, row.values) for row in found.differences] == [
        ("method.beta", ["0.1", "0.2"]),
        ("lora", ["null", '{"r": 4, "alpha": 8.0}']),
    ]
    assert {row.name: (row.texts, row.best) for row in found.metrics} == {
        "loss": (["0.5", "0.4"], [1]),
        "eval/loss": (["–", "NaN"], []),
        "rewards/margins": (["1", "0.5"], [0]),
        "grad_norm": (["3", "1"], []),  # neither is better
    }
    assert [run.label for run in found.runs] == ["a", "b"]
    assert found.notes == []


def test_three_runs_that_share_a_name_and_little_else(tmp_path: Path) -> None:
    paths = [small(tmp_path / f / "run", {"loss": 0.5}) for f in "xy"]
    with RunDir.open(tmp_path / "z" / "run", "resume", {"method": {"name": "kto"}, "model": {"path": "tiny"}}) as run:
        run.log_metrics(9, {"loss": 0.5})
        paths.append(run.path)
    found = compare_runs(paths)
    assert [run.label for run in found.runs] == ["x/run", "y/run", "z/run"]
    assert ("lora", ["null", "null", "–"]) in [(row.key, row.values) for row in found.differences]
    assert [row.best for row in found.metrics] == [[]], "equal values: none is best"
    assert any("different steps" in note for note in found.notes)
    assert any("methods differ" in note for note in found.notes)
    assert found.as_dict()["metrics"]["loss"] == {"x/run": 0.5, "y/run": 0.5, "z/run": 0.5}


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a = small(tmp_path / "a", {"loss": 0.5})
    (tmp_path / "same").symlink_to(a)
    for paths in ([a], [a, tmp_path / "same"]):
        with pytest.raises(ConfigError, match="PL102"):
            compare_runs(paths)
    with pytest.raises(RunError, match="PL501"):
        compare_runs([a, tmp_path])
    many = compare_runs([small(tmp_path / f"r{i}", {"loss": 0.5}) for i in range(MOST + 1)])
    with pytest.raises(ConfigError, match=r"PL102.*8 runs apart"):
        write_comparison(many, tmp_path / "page.html")


def test_the_page_has_every_curve_with_its_meaning_and_needs_nothing_else(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "first"), make_run(tmp_path / "second", steps=200, complete=False)]
    page = write_comparison(compare_runs(runs), tmp_path / "page.html").read_text(encoding="utf-8")
    charts_of = dict(re.findall(r"<h4>(loss|eval/<wbr>loss)</h4>(.*?)</figure>", page, re.S))
    for chart in charts_of.values():
        assert 'class="key run-1"' in chart
        assert 'class="key run-2"' in chart
        assert "The objective that is minimised" in chart
        assert chart.count('"label":"first"') == chart.count('"label":"second"') == 1
    assert charts_of["loss"].count("<path") == 3  # the longer one is noisy: measured and smoothed
    assert charts_of["eval/<wbr>loss"].count('class="dot run-1"') == 4
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "<script>document" not in page
    assert HOSTILE not in page
    assert "report.js" not in page


def test_an_overlay_spans_all_its_runs() -> None:
    drawn = charts.overlay("loss", [("run-1", "a", [(1, 0.0), (10, 1.0)]), ("run-2", "b", [(5, 3.0)])])
    assert (drawn.first_step, drawn.last_step) == (1, 10)
    first, second = drawn.lines
    assert first.path.startswith("M0 ")
    assert re.fullmatch(r"M444 \d+", second.path)
    assert [(d.style, round(d.x, 1)) for d in drawn.dots] == [("run-2", 44.4)], "a single point is marked"
    assert drawn.latest == [("run-1", "1"), ("run-2", "3")]
