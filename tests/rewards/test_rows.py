"""Rows of every kind with answers, and their scores beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plaudit.config.schema import SourceConfig
from plaudit.errors import ConfigError, DataError
from plaudit.rewards.models.model import RewardModel
from plaudit.rewards.rows import comparisons, read_answers, score_rows

PAIR, RANKED = ("chosen_score", "rejected_score"), ("judge_scores",)
USER, ASSISTANT = {"role": "user", "content": "Sky?"}, {"role": "assistant", "content": "Blue."}

KINDS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "pair": ({"prompt": "Sky?", "chosen": "Blue.", "rejected": "No."}, "preference", ["Blue.", "No."]),
    "pair, conversations": (
        {"chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "No."}]}, "preference", None,
    ),
    "ranking": ({"prompt": "Sky?", "completions": ["No.", "Blue."], "ranks": [2, 1]}, "ranking", ["No.", "Blue."]),
    "rated": (
        {"prompt": "Sky?", "responses": [{"text": "No.", "score": 1}, {"text": "Blue.", "score": 9}]}, "ranking",
        ["No.", "Blue."],
    ),
    "list": ({"prompt": "Sky?", "completions": ["Blue.", "Blue.", "No."]}, "answers", ["Blue.", "Blue.", "No."]),
    "completion": ({"prompt": "Sky?", "completion": "Blue."}, "completion", ["Blue."]),
    "feedback": ({"prompt": "Sky?", "completion": "Blue.", "label": True}, "completion", ["Blue."]),
    "messages": ({"messages": [USER, ASSISTANT]}, "completion", None),
    "Alpaca": ({"instruction": "Sky?", "output": "Blue."}, "completion", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised(kind: str) -> None:
    row, shape, answers = KINDS[kind]
    found = read_answers([row], has_template=True)
    assert found.rows[0].shape == shape
    assert found.rows[0].row == row  # kept as it was
    if answers is not None:
        assert found.items == [("Sky?", answers)]
    else:
        prompt, texts = found.items[0]
        assert prompt[-1].content == "Sky?"  # type: ignore[union-attr]
        assert next(t if isinstance(t, str) else t[-1].content for t in texts) == "Blue."


def test_scores_are_put_beside_the_rows(foreign_dir: Path) -> None:
    model = RewardModel.load(foreign_dir)
    good, bad = model.score([("Sky?", ["Blue.", "No."])])[0]
    wanted: dict[str, dict[str, Any]] = {
        "pair": {"chosen_score": good, "rejected_score": bad},
        "ranking": {"judge_scores": [bad, good]},
        "list": {"scores": [good, good, bad]},
        "feedback": {"score": good},
    }
    for kind, scores in wanted.items():
        row = KINDS[kind][0]
        [(found, values)] = score_rows(model, read_answers([row], has_template=True).rows)
        written = found.with_scores(values)
        assert written == {**row, **{k: pytest.approx(v, abs=1e-5) for k, v in scores.items()}}


def test_several_rejected_answers_are_scored_each(foreign_dir: Path) -> None:
    row = {"prompt": "Sky?", "chosen": "Blue.", "rejected": ["No.", "Green."]}
    model = RewardModel.load(foreign_dir)
    [(found, values)] = score_rows(model, read_answers([row], has_template=True).rows)
    scores = model.score([("Sky?", ["Blue.", "No.", "Green."])])[0]
    written = found.with_scores(values)
    assert written["chosen_score"] == pytest.approx(scores[0], abs=1e-5)
    assert written["rejected_score"] == pytest.approx(scores[1:], abs=1e-5)


def test_scores_are_never_overwritten(foreign_dir: Path) -> None:
    rows = read_answers([{"prompt": "Sky?", "completion": "Blue.", "score": 3}], has_template=True).rows
    with pytest.raises(ConfigError, match="'score' already") as caught:
        list(score_rows(RewardModel.load(foreign_dir), rows))
    assert caught.value.code == "PL102"


def test_order_survives_many_rows(foreign_dir: Path) -> None:
    rows = [{"prompt": f"Thing {i}?", "completions": ["Blue."] * (i % 3 + 1)} for i in range(600)]
    found = read_answers(rows, has_template=True)
    assert found.answers == 1200
    scored = list(score_rows(RewardModel.load(foreign_dir), found.rows))
    assert [row.row["prompt"] for row, _ in scored] == [r["prompt"] for r in rows]
    assert [len(values[0]) for _, values in scored] == [i % 3 + 1 for i in range(600)]


@pytest.mark.parametrize(
    ("row", "code", "what"),
    [
        ({"messages": [USER]}, "PL204", "no assistant turn"),
        ({"messages": [USER, ASSISTANT, USER]}, "PL204", "does not end with an answer"),
        ({"text": "The sky is blue."}, "PL204", "plain text without a prompt"),
        ({"prompt": "Sky?", "completions": []}, "PL204", "list of answers"),
        ({"prompt": "", "completions": ["Blue."]}, "PL204", "prompt is empty"),
        ({**KINDS["pair"][0], "tools": [{"type": "function"}]}, "PL204", "has tools"),
        ({**KINDS["feedback"][0], "chat_template_kwargs": {"thinking": True}}, "PL204", "has chat_template_kwargs"),
        ({"a": 1}, "PL203", "not those of completion data"),
    ],
)
def test_rows_without_an_answer(row: dict[str, Any], code: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        read_answers([row], has_template=True)
    assert caught.value.code == code
    assert "<rows>:1" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "row", "answers", "where"),
    [
        ({"prompt": "q", "completion": "a"}, {"q": "Sky?", "a": "Blue."}, ["Blue."], ("score",)),
        ({"prompt": "q", "completion": "a"}, {"q": "Sky?", "a": ""}, [""], ("score",)),
        ({"prompt": "q", "chosen": "yes"}, {"q": "Sky?", "yes": "Blue.", "rejected": "No."}, ["Blue.", "No."], PAIR),
        ({"completions": "said"}, {"prompt": "Sky?", "said": ["Blue.", "No."]}, ["Blue.", "No."], ("scores",)),
        (
            {"completions": "said"},
            {"prompt": "Sky?", "said": ["Blue.", "No."], "ranks": [1, 2]},
            ["Blue.", "No."],
            RANKED,
        ),
    ],
)
def test_columns_by_other_names(
    columns: dict[str, str], row: dict[str, Any], answers: list[str], where: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    (found,) = read_answers(SourceConfig(path=str(file), columns=columns), has_template=True, as_given=True).rows
    assert found.items == [("Sky?", answers)]
    assert found.row == row
    assert found.columns == where


@pytest.mark.parametrize("columns", [{"prompt": "questoin"}, {"promtp": "question"}])
def test_a_column_or_field_that_is_not_there(columns: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Sky?", "completion": "Blue."}', encoding="utf-8")
    with pytest.raises(DataError, match=r"did you mean|question") as caught:
        read_answers(SourceConfig(path=str(file), columns=columns), has_template=True, as_given=True)
    assert caught.value.code == "PL203"


def test_columns_by_other_names_in_the_commands(
    foreign_dir: Path, tmp_path: Path, call_plaudit: Callable[..., Any]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"q": "Sky?", "yes": "Blue.", "no": "No."}\n' * 2, encoding="utf-8")
    named = ("--column", "prompt=q", "--column", "chosen=yes", "--column", "rejected=no")
    for command in (
        ("score", file, "--reward", "length:most=9,unit=words"),
        ("reward-model", "score", foreign_dir, file),
        ("evaluate", "reward", foreign_dir, file, "--output", tmp_path / "evaluation"),
    ):
        assert call_plaudit(*command).status == 2
        ended = call_plaudit(*command, *named)
        assert ended.status == 0, ended.err
    assert len(list(tmp_path.glob("evaluation/*.html"))) == 1


def test_rows_can_be_left_out_and_are_counted() -> None:
    rows = [{"prompt": "Sky?", "completion": "Blue."}, {"prompt": "Sky?", "completion": ""}]
    found = read_answers(rows, has_template=True, invalid="drop")
    assert (len(found.rows), found.dropped) == (1, 1)
    with pytest.raises(DataError, match="no row is left") as caught:
        read_answers(rows[1:], has_template=True, invalid="drop")
    assert caught.value.code == "PL207"


def test_comparisons_of_pairs_and_rankings() -> None:
    [(item, pairs)] = comparisons([KINDS["pair"][0]], has_template=True)
    assert (item, pairs) == (("Sky?", ["Blue.", "No."]), [(0, 1)])
    row = {"prompt": "Sky?", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 2, 3]}
    [(_, pairs)] = comparisons([row], has_template=True)
    assert sorted(pairs) == [(0, 3), (1, 0), (1, 2), (1, 3), (2, 3)]  # a and c are tied
    with pytest.raises(DataError, match="has tools") as caught:
        comparisons([{**row, "tools": [{"type": "function"}]}], has_template=True)
    assert (caught.value.code, caught.value.where) == ("PL204", "<rows>:1")
