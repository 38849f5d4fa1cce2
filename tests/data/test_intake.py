"""A run's own data options reach the rows: the conversion, and what the method reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plaudit.config.schema import DataConfig, ModelConfig
from plaudit.errors import DataError
from plaudit.methods import find
from plaudit.models.load import load_outline
from plaudit.train.intake import Intake, take_in
from tests.conftest import write_jsonl

PAIR = {"prompt": "Which colour is the sky?", "chosen": " blue", "rejected": " green"}
LIKED = {"prompt": "What?", "completion": " cats", "label": True}


def taken(model: Path, method: str, **data: Any) -> Intake:
    outline = load_outline(ModelConfig(path=str(model)))
    return take_in(DataConfig(**data), find(method)(), outline, None, None)


def test_what_the_method_reads_decides_what_the_report_calls_unused(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = str(write_jsonl(tmp_path / "pairs.jsonl", [PAIR | {"preference": 0.8, "margin": 2}]))
    assert find("dpo").reads == {"preference"}
    notes = taken(tiny_model_dir, "dpo", train=rows).train.report.files[0].notes
    assert {"soft_label", "margin_unused"} <= set(notes)
    assert "preference_unused" not in notes


def test_conversions_reach_training_and_held_out_rows(tiny_model_dir: Path, tmp_path: Path) -> None:
    pairs = str(write_jsonl(tmp_path / "pairs.jsonl", [PAIR]))
    both = str(write_jsonl(tmp_path / "feedback.jsonl", [LIKED, LIKED | {"completion": " dogs", "label": False}]))
    intake = taken(tiny_model_dir, "dpo", train=pairs, eval=both, convert="feedback_to_pairs", pairs_per_prompt=3)
    assert intake.held_out is not None
    assert [c.text for c in intake.held_out.groups[0].completions] == [" cats", " dogs"]
    assert [c.text for c in intake.train.groups[0].completions] == [" blue", " green"]
    assert "eval   feedback_to_pairs: 2 in, 1 out" in intake.lines()


@pytest.mark.parametrize(
    ("convert", "words"),
    [("feedback_to_pairs", "no source has feedback rows"), ("pairs_to_feedback", "the method takes preference data")],
)
def test_a_conversion_that_cannot_work_is_refused(
    tiny_model_dir: Path, tmp_path: Path, convert: str, words: str
) -> None:
    rows = str(write_jsonl(tmp_path / "pairs.jsonl", [PAIR]))
    with pytest.raises(DataError, match="PL212") as error:
        taken(tiny_model_dir, "dpo", train=rows, convert=convert)
    assert words in str(error.value)
