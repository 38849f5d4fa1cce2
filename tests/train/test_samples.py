"""What evaluations show of held-out pairs, and the report that is written behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.errors import PlauditError
from plaudit.runs import jsonl
from plaudit.runs.observer import SilentObserver
from tests.conftest import write_jsonl


class Reader(SilentObserver):
    """Keeps what the report says when a later step is logged."""

    def __init__(self, run: Path) -> None:
        self.page = run / "report.html"
        self.pages: dict[int, str] = {}

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        if self.page.exists():
            self.pages[step] = self.page.read_text(encoding="utf-8")


def test_margins_of_the_shown_pairs_are_those_of_the_evaluation(
    preference_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    reader = Reader(run)
    options: dict[str, Any] = {
        "data.eval_fraction": 0.25, "eval.every": 2, "log.every": 1, "log.samples": 9, "method.beta": 0.5,
    }  # fmt: skip
    plaudit.train(
        "dpo", model=str(tiny_model_dir), data=str(preference_file), lora=True, max_steps=4, groups_per_step=4,
        learning_rate=1e-2, output_dir=str(run), observers=(reader,), **options,
    )  # fmt: skip
    rows = jsonl.read_lines(run / "samples.jsonl")
    evaluated = {line["step"]: line for line in jsonl.read_lines(run / "metrics.jsonl") if "eval/loss" in line}
    assert list(evaluated) == [0, 2, 4]
    shown = {step: [row for row in rows if row["step"] == step] for step in evaluated}
    start = [row["margin"] for row in shown[0]]
    for step, metrics in evaluated.items():
        assert [row["chosen"] for row in shown[step]] == [row["chosen"] for row in shown[0]]
        assert all(isinstance(row["completion"], str) for row in shown[step])
        means = {k: sum(row[k] for row in shown[step]) / len(start) for k in ("logps/chosen", "logps/rejected")}
        assert means["logps/chosen"] == pytest.approx(metrics["eval/logps/chosen"], abs=1e-3)
        assert means["logps/rejected"] == pytest.approx(metrics["eval/logps/rejected"], abs=1e-3)
        moved = [row["margin"] - first for row, first in zip(shown[step], start, strict=True)]
        assert 0.5 * sum(moved) / len(moved) == pytest.approx(metrics["eval/rewards/margins"], abs=1e-3)
    assert 1 in reader.pages, "it is written behind the first evaluation"
    assert "logps/<wbr>rejected" in reader.pages[1]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "step 4" in page
    counted = json.loads((run / "data_report.json").read_text(encoding="utf-8"))["train"]
    assert 0 < counted["held_out"] == len(shown[0]) < counted["groups"]
    assert '<td class="name mono">method.beta</td><td class="wide">0.5</td><td class="soft wide">0.1</td>' in page


def test_a_run_that_fails_leaves_a_report_that_says_so(tiny_model_dir: Path, tmp_path: Path) -> None:
    same = write_jsonl(tmp_path / "same.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "a"}])
    with pytest.raises(PlauditError, match="PL204"):
        plaudit.train(
            "dpo", model=str(tiny_model_dir), data=str(same), lora=True, output_dir=str(tmp_path / "r"), observers=()
        )
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert '<strong class="badge">failed</strong><span>: [PL204] 1 of 1 rows cannot be used' in page
