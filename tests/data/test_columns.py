"""Row conventions people already have become records as they are; what is not understood is explained."""

from __future__ import annotations

from typing import Any

import pytest

from plaudit.data.columns import Columns
from plaudit.data.records import (
    AnyRecord,
    CompletionRecord,
    FeedbackRecord,
    PreferenceRecord,
    PromptRecord,
    RankingRecord,
)
from plaudit.data.turns import Message, RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind


def records(
    kind: DataKind, row: dict[str, Any], columns: dict[str, str] | None = None, has_template: bool = True
) -> list[AnyRecord]:
    reader = Columns(kind, columns or {}, has_template=has_template, file="rows.jsonl")
    reader.check([(1, row)])
    return reader.records(row)


def flat(turns: Any) -> Any:
    """Messages as 'role: content' strings."""
    if isinstance(turns, list) and turns and isinstance(turns[0], Message):
        return [f"{m.role}: {m.content}" for m in turns]
    return turns


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
B = {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
Q = ["user: q"]

COMPLETIONS: list[tuple[str, dict[str, Any], tuple[Any, Any, Any]]] = [
    ("TRL text", {"prompt": "q", "completion": "a"}, ("q", "a", None)),
    ("TRL chat", {"prompt": [U], "completion": [A]}, (Q, ["assistant: a"], None)),
    ("chat prompt, text answer", {"prompt": [U], "completion": "a"}, (Q, ["assistant: a"], None)),
    ("messages", {"messages": [U, A]}, (None, None, ["user: q", "assistant: a"])),
    ("content parts", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]},
     (None, None, ["user: q", "assistant: a"])),
    ("ShareGPT", {"conversations": [HUMAN, GPT]}, (None, None, ["user: q", "assistant: a"])),
    ("ShareGPT with system", {"conversations": [HUMAN, GPT], "system": "s"},
     (None, None, ["system: s", "user: q", "assistant: a"])),
    ("OpenAI keys in conversations", {"conversations": [U, A]}, (None, None, ["user: q", "assistant: a"])),
    ("Alpaca", {"instruction": "q", "input": "", "output": "a"}, (Q, ["assistant: a"], None)),
    ("Alpaca with input", {"instruction": "q", "input": "i", "output": "a"},
     (["user: q\n\ni"], ["assistant: a"], None)),
    ("Alpaca with history", {"instruction": "q", "output": "a", "system": "s", "history": [["x", "y"]]},
     (["system: s", "user: x", "assistant: y", "user: q"], ["assistant: a"], None)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), [c[1:] for c in COMPLETIONS], ids=[c[0] for c in COMPLETIONS])
def test_completion_conventions(row: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    (record,) = records("completion", row)
    assert isinstance(record, CompletionRecord)
    assert (flat(record.prompt), flat(record.completion), flat(record.messages)) == expected


def test_alpaca_without_a_template_is_alpacas_own_text() -> None:
    (record,) = records("completion", {"instruction": "q", "input": "i", "output": "a"}, has_template=False)
    assert isinstance(record, CompletionRecord)
    assert str(record.prompt).endswith("### Instruction:\nq\n\n### Input:\ni\n\n### Response:\n")
    assert record.completion == "a"


def test_sharegpt_function_calls_become_tool_calls() -> None:
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 1}}'}
    row = {"conversations": [HUMAN, call, {"from": "observation", "value": "2"}, GPT], "tools": '[{"name": "add"}]'}
    (record,) = records("completion", row)
    assert isinstance(record, CompletionRecord)
    assert isinstance(record.messages, list)
    assert record.messages[1].tool_calls == [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]
    assert record.messages[2].role == "tool"
    assert record.tools == [{"name": "add"}]


PREFERENCES: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"prompt": [U], "chosen": [A], "rejected": [B]}),
    ("UltraFeedback-binarized", {"prompt": "q", "chosen": [U, A], "rejected": [U, B], "score_chosen": 8.0}),
    ("prompt list repeated in the answers", {"prompt": [U], "chosen": [U, A], "rejected": [U, B]}),
    ("text prompt, chat answers", {"prompt": "q", "chosen": [A], "rejected": [B]}),
    ("implicit prompt", {"chosen": [U, A], "rejected": [U, B]}),
    ("LLaMA-Factory ShareGPT", {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "b"}}),
    ("messages", {"messages": [U], "chosen": A, "rejected": B}),
    ("Alpaca", {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}),
    ("Alpaca with a list in output", {"instruction": "q", "input": "", "output": ["a", "b"]}),
]


@pytest.mark.parametrize("row", [p[1] for p in PREFERENCES], ids=[p[0] for p in PREFERENCES])
def test_preference_conventions(row: dict[str, Any]) -> None:
    (record,) = records("preference", row)
    assert isinstance(record, PreferenceRecord)
    assert flat(record.prompt) == Q
    assert flat(record.chosen) == ["assistant: a"]
    assert flat(record.rejected) == ["assistant: b"]
    assert record.extras.get("score_chosen") == row.get("score_chosen")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("\n\nHuman: hi\n\nAssistant: I do", "\n\nHuman: hi\n\nAssistant: I do not",
         ("\n\nHuman: hi\n\nAssistant:", " I do", " I do not")),
        ("Sky color? Green grass", "Sky color? Great!", ("Sky color?", " Green grass", " Great!")),
        ("One two three", "One two  four", ("One two", " three", "  four")),
    ],
)  # fmt: skip
def test_implicit_text_prompts_never_tear_a_word(chosen: str, rejected: str, expected: tuple[str, str, str]) -> None:
    (record,) = records("preference", {"chosen": chosen, "rejected": rejected})
    assert isinstance(record, PreferenceRecord)
    assert (record.prompt, record.chosen, record.rejected) == expected
    assert record.implicit_prompt


def test_several_rejected_answers_are_several_pairs() -> None:
    found = records("preference", {"prompt": "q", "chosen": "a", "rejected": ["b", "c"]})
    assert [(r.chosen, r.rejected) for r in found if isinstance(r, PreferenceRecord)] == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [2, 1, 3]},
        {"prompt": "q", "responses": ["a", "b", "c"], "scores": [0.5, 0.9, 0.1]},
        {"prompt": "q", "answers": [
            {"answer": t, "rank": r} for t, r in zip("abc", (2, 1, 3), strict=True)]},
        {"instruction": "q", "completions": [
            {"response": t, "overall_score": s} for t, s in zip("abc", (5, 9, 1), strict=True)]},
    ],
)  # fmt: skip
def test_ranking_conventions(row: dict[str, Any]) -> None:
    (record,) = records("ranking", row, has_template=True)
    assert isinstance(record, RankingRecord)
    assert [i for _, i in record.ranked()] == [1, 0, 2]


@pytest.mark.parametrize("label", [True, 1, "true", "1"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [U], "completion": [A], "label": ...},
        {"messages": [U, A], "label": ...},
        {"conversations": [HUMAN, GPT], "kto_tag": ...},
        {"instruction": "q", "output": "a", "kto_tag": ...},
    ],
)
def test_feedback_conventions(row: dict[str, Any], label: Any) -> None:
    (record,) = records("feedback", {k: label if v is ... else v for k, v in row.items()})
    assert isinstance(record, FeedbackRecord)
    assert (flat(record.prompt), flat(record.completion), record.label) == (Q, ["assistant: a"], True)


@pytest.mark.parametrize(
    "row", [{"prompt": [U]}, {"messages": [U]}, {"conversations": [HUMAN]}, {"instruction": "q", "input": ""}]
)
def test_prompt_conventions_keep_verifier_fields(row: dict[str, Any]) -> None:
    (record,) = records("prompt", row | {"answer": "4", "tests": ["t"]})
    assert isinstance(record, PromptRecord)
    assert flat(record.prompt) == Q
    assert record.extras == {"answer": "4", "tests": ["t"]}


def test_the_users_map_comes_first() -> None:
    row = {"prompt": "not this", "question": "q", "best": "a", "worst": "b", "who": "x"}
    columns = {"prompt": "question", "chosen": "best", "rejected": "worst", "annotator": "who"}
    (record,) = records("preference", row, columns)
    assert isinstance(record, PreferenceRecord)
    assert (record.prompt, record.chosen, record.rejected, record.annotator) == ("q", "a", "b", "x")
    sft = records("completion", {"prompt": "q", "chosen": "a", "rejected": "b", "text": "t"}, {"completion": "chosen"})
    assert isinstance(sft[0], CompletionRecord)
    assert sft[0].completion == "a"


UNKNOWN: list[tuple[DataKind, dict[str, Any], dict[str, str], list[str]]] = [
    ("preference", {"question": "q", "best": "a", "worst": "b"}, {},
     ["found:    question, best, worst", "expected: preference data needs prompt + chosen + rejected",
      "columns: {prompt: question, chosen: best, rejected: worst}", '"rejected": "5"']),
    ("preference", {"prompt": "q", "chosen": "a"}, {}, ["closest:  prompt + chosen, but rejected is missing"]),
    ("preference", {"prompt": "q", "completion": "a", "label": True}, {}, ["these look like feedback rows"]),
    ("completion", {"prompt": "q", "responce": "a"}, {}, ["columns: {completion: responce}"]),
    ("completion", {"colour": 1}, {}, ["found:    colour", "columns: {<field>: <column>}"]),
    ("completion", {}, {}, ["found:    none"]),
    ("feedback", {"prompt": "q", "response": "a", "thumbs_up": True}, {},
     ["columns: {completion: response, label: thumbs_up}"]),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosn": "chosen"}, ["did you mean 'chosen'?"]),
    ("preference", {"prompt": "q", "best": "a", "rejected": "b"}, {"chosen": "bets"}, ["did you mean 'best'?"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "columns", "parts"), UNKNOWN)
def test_unknown_columns_are_explained(
    kind: DataKind, row: dict[str, Any], columns: dict[str, str], parts: list[str]
) -> None:
    with pytest.raises(DataError, match="PL203") as error:
        records(kind, row, columns)
    for part in ["rows.jsonl", *parts]:
        assert part in str(error.value)


BAD: list[tuple[DataKind, dict[str, Any], str, str]] = [
    ("preference", {"prompt": "q", "chosen": "", "rejected": "b"}, "empty", "chosen is empty"),
    ("preference", {"prompt": "q", "chosen": " \n", "rejected": "b"}, "empty", "chosen is empty"),
    ("preference", {"prompt": "q", "chosen": None, "rejected": "b"}, "missing", "chosen is missing"),
    ("preference", {"prompt": None, "chosen": "a", "rejected": "b"}, "missing", "prompt is missing"),
    ("preference", {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty", "prompt is empty"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "a "}, "identical", "are the same"),
    ("preference", {"prompt": "q", "chosen": 5, "rejected": "a"}, "wrong_type", "chosen is int"),
    ("preference", {"prompt": "q", "chosen": [U, A], "rejected": [{"role": "user", "content": "z"}, B]}, "wrong_type",
     "the prompt is not its beginning"),
    ("preference", {"chosen": [U, A], "rejected": [U, A]}, "identical", "are the same"),
    ("preference", {"chosen": [U, A], "rejected": [{"role": "user", "content": "z"}, B]}, "missing",
     "different prompts"),
    ("preference", {"chosen": "one", "rejected": "two"}, "missing", "share no beginning"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "big"}, "wrong_type", "margin is 'big'"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "images": ["x"]}, "wrong_type", "only text"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": []}, "empty", "rejected"),
    ("completion", {"text": ""}, "empty", "text is empty"),
    ("completion", {"text": None}, "missing", "text is missing"),
    ("completion", {"prompt": "q", "completion": None}, "missing", "completion is missing"),
    ("completion", {"messages": [U]}, "empty", "no assistant turn"),
    ("completion", {"messages": []}, "empty", "no assistant turn"),
    ("completion", {"messages": [U, {"role": "robot", "content": "a"}]}, "wrong_type", "message 2: role is 'robot'"),
    ("completion", {"messages": [U, {"role": "assistant", "content": None}]}, "missing",
     "message 2 (assistant) has no"),
    ("completion", {"messages": [U, {"role": "assistant", "content": [{"type": "image"}]}]}, "wrong_type",
     "type image"),
    ("completion", {"conversations": [{"from": "martian", "value": "q"}]}, "wrong_type", "from='martian'"),
    ("completion", {"prompt": "q", "completion": "a", "weight": -1}, "wrong_type", "weight"),
    ("completion", {"prompt": "q", "completion": "a", "tools": "{"}, "wrong_type", "tools is not valid JSON"),
    ("feedback", {"prompt": "q", "completion": "a", "label": None}, "missing", "label is missing"),
    ("feedback", {"prompt": "q", "completion": "a", "label": "good"}, "wrong_type", "label is 'good'"),
    ("ranking", {"prompt": "q", "completions": ["a"], "ranks": [1]}, "no_signal", "at least two"),
    ("ranking", {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 1]}, "no_signal", "tied"),
    ("ranking", {"prompt": "q", "completions": ["a", "b"], "ranks": [1]}, "wrong_type", "1 entries for 2"),
    ("ranking", {"prompt": "q", "completions": ["a", "b"], "scores": [1, float("nan")]}, "wrong_type", "nan"),
    ("ranking", {"prompt": "q", "completions": ["a", "a"], "ranks": [1, 2]}, "identical", "answers 1 and 2"),
    ("prompt", {"messages": [U, A]}, "wrong_type", "ends with an assistant turn"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row", "reason", "part"), BAD)
def test_bad_values_are_problems_with_a_reason(kind: DataKind, row: dict[str, Any], reason: str, part: str) -> None:
    with pytest.raises(RowProblem) as problem:
        records(kind, row)
    assert problem.value.reason == reason
    assert part in problem.value.detail


def test_a_row_with_other_columns_than_its_file_is_a_problem_of_the_row() -> None:
    good: dict[str, Any] = {"prompt": "q", "chosen": "a", "rejected": "b"}
    reader = Columns("preference", {}, has_template=True, file="rows.jsonl")
    reader.check([(1, {"prompt": "q"}), (2, good)])
    with pytest.raises(RowProblem, match="has the columns prompt; preference data needs"):
        reader.records({"prompt": "q"})
