"""Figures of whole files: what is dropped and why, lengths, packing, choosing rows, the end of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedModel

import plaudit
from plaudit.errors import ConfigError, DataError, ModelError
from plaudit.inspection.interface import METHOD_OF
from plaudit.inspection.wording import hints
from plaudit.runs.rundir import read_json
from plaudit.train.step import StepRunner
from tests.conftest import write_jsonl
from tests.inspection.conftest import CHATS, PAIRS, TURN, says

BAD = [
    PAIRS[0],
    {"prompt": "Which colour?", "chosen": "It is blue.", "rejected": "It is blue."},
    {"prompt": "Which colour?", "chosen": "", "rejected": "No."},
    {"prompt": "Tell me about cats and dogs, please. " * 12, "chosen": "Cats.", "rejected": "Dogs."},
    PAIRS[1],
    {"prompt": "Which colour?", "chosen": None, "rejected": "No."},
    {"prompt": "Tell me about cats and dogs, please. " * 14, "chosen": "Cats.", "rejected": "Dogs."},
]


def test_the_method_follows_from_the_columns(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "questions.jsonl", [{"prompt": "What?", "answer": "42"}])
    write_jsonl(files / "open.jsonl", [{"messages": [TURN]}])  # a conversation that ends with a question
    for name, method in (
        ("chats", "sft"),
        ("pairs", "dpo"),
        ("feedback", "kto"),
        ("rankings", "reward"),
        ("questions", "grpo"),
        ("open", "grpo"),
    ):
        options = {"max_new_tokens": 4} if method == "grpo" else {}
        found = plaudit.inspect(f"{name}.jsonl", model=tiny_model_dir, **options)
        assert found.by_columns
        assert found.method.name == method == METHOD_OF[found.method.data_kind]
    assert not plaudit.inspect("pairs.jsonl", model=tiny_model_dir, method="ipo").by_columns
    assert plaudit.inspect("pairs.jsonl", model=tiny_model_dir, convert="pairs_to_feedback").method.name == "kto"


def test_drops_are_shown_with_all_rows_though_training_would_stop(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "bad.jsonl", BAD)
    found = plaudit.inspect("bad.jsonl", model=tiny_model_dir, dropped=True)
    assert isinstance(found.problem, DataError)
    with pytest.raises(DataError) as error:
        plaudit.train("dpo", model=str(tiny_model_dir), data="bad.jsonl", lora=True, max_steps=1, observers=())
    assert str(error.value) == str(found.problem)
    assert {(d.reason, d.rows) for d in found.drops} == {
        ("identical", (2,)),
        ("empty", (3,)),
        ("missing", (6,)),
        ("overlong", (4, 7)),
    }
    assert found.dropped + found.report.groups == found.rows == len(BAD)
    assert [row.where for row in found.dropped_rows] == [f"bad.jsonl:{n}" for n in (2, 3, 6, 4, 7)]
    assert found.dropped_rows[0].columns == {k: str(v) for k, v in BAD[1].items()}
    assert "max_length is 256" in found.dropped_rows[-1].detail
    figures = found.as_dict()
    assert figures["trains"] is False
    assert figures["problem"]["code"] == found.problem.code == "PL200"
    assert sum(d["count"] for d in figures["drops"]) == figures["dropped"] == 5


def test_what_is_dropped_is_what_the_run_reports(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "bad.jsonl", BAD)
    options = {"invalid": "drop", "overlong": "drop", "max_drop_fraction": 0.9}
    found = plaudit.inspect("bad.jsonl", model=tiny_model_dir, **options)
    assert found.problem is None
    run = plaudit.train(
        "dpo", model=str(tiny_model_dir), data="bad.jsonl", lora=True, max_steps=1, observers=(), **options
    )
    report = read_json(run.run_dir / "data_report.json")
    assert report is not None
    told = {key: tuple(affected["rows"]) for key, affected in report["train"]["files"][0]["dropped"].items()}
    assert told == {d.reason: d.rows for d in found.drops}
    assert report["train"]["trained_tokens"] == found.tally.trained


def test_lengths_are_those_before_the_limit_and_cuts_are_told(files: Path, tiny_model_dir: Path) -> None:
    free = plaudit.inspect("chats.jsonl", model=tiny_model_dir)
    longest = next(h for h in free.histograms if h.name == "total").lengths.max
    for policy in ("drop", "truncate_completion", "truncate_prompt"):
        cut = plaudit.inspect(
            "chats.jsonl",
            model=tiny_model_dir,
            max_length=longest - 2,
            overlong=policy,
            max_drop_fraction=1,
            longest=True,
        )
        totals = next(h for h in cut.histograms if h.name == "total")
        assert (totals.lengths.max, totals.over, totals.count) == (longest, 1, len(CHATS))
        assert [d.rows for d in cut.drops] == ([(4,)] if policy == "drop" else [])
        example = cut.examples[0]
        if policy == "truncate_completion":
            assert example.branches[0].cut == 2
            assert not example.branches[0].end_trained
            assert not cut.end_is_learned
            assert "chats.jsonl:4" in str(cut.unended)
            assert cut.end_line == "end of answer: trained in 7 of 8 trained turns (<|im_end|>)"
        else:
            assert cut.end_is_learned
            assert cut.unended is None
        if policy == "truncate_prompt":
            assert "the prompt has lost 2 tokens at its start (data.overlong)" in example.remarks


def test_a_tokenizer_without_an_end_is_said(files: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.eos_token, tokenizer.chat_template = None, None
    tokenizer.save_pretrained(tmp_path / "endless")
    found = plaudit.inspect(
        "feedback.jsonl", model={"path": str(tiny_model_dir), "tokenizer": str(tmp_path / "endless")}
    )
    assert found.end_line == "end of answer: trained in 0 of 4 trained turns"
    assert "does not learn there to stop" in str(found.unended)
    assert any("no EOS token" in note.text for note in found.notes)


def test_packing_is_that_of_the_run(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "many.jsonl", PAIRS * 5)
    options = {"groups_per_step": 8, "tokens_per_microbatch": 120, "lora_r": 4}
    found = plaudit.inspect("many.jsonl", model=tiny_model_dir, **options).packing
    assert found is not None
    assert (found.groups, found.steps, found.groups_per_step) == (20, 3, 8)
    assert found.largest <= 120
    assert found.oversize == 0
    computed: list[int] = []
    forward = StepRunner._forward

    def counted(self: StepRunner, role: Any, forest: Any, stream: Any) -> Any:
        computed.append(forest.num_tokens)
        return forward(self, role, forest, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepRunner, "_forward", counted)
        plaudit.train(
            "dpo", model=str(tiny_model_dir), data="many.jsonl", observers=(), reference_cache="off", **options
        )
    assert (sum(computed), len(computed), max(computed)) == (found.unique, found.micro_batches, found.largest)
    alone = sum(len(e.prompt) for e in plaudit.inspect("many.jsonl", model=tiny_model_dir, rows=99).examples)
    assert found.without_sharing == found.unique + alone - 20  # each second answer's prompt, without its last token
    tight = plaudit.inspect("many.jsonl", model=tiny_model_dir, tokens_per_microbatch=30).packing
    assert tight is not None
    assert tight.oversize == tight.micro_batches == 20


def test_weights_and_held_out_rows(files: Path, tiny_model_dir: Path) -> None:
    data = {"train": [{"path": "pairs.jsonl", "weight": 2}, {"path": "more.jsonl", "weight": 0.25}]}
    write_jsonl(files / "more.jsonl", [{**row, "margin": 1.5, "weight": 0.5} for row in PAIRS])
    write_jsonl(files / "held.jsonl", PAIRS[:1])
    found = plaudit.inspect(
        model=tiny_model_dir, data={**data, "eval": "held.jsonl"}, row=["more.jsonl:2", "held.jsonl:1"]
    )
    assert found.packing is not None
    assert found.packing.groups == 2 * 4 + 1
    assert found.tally.ends.stretches == 2 * 8  # every training group once, whatever its weight
    assert [(e.name, e.held_out) for e in found.examples] == [("more.jsonl:2", False), ("held.jsonl:1", True)]
    assert found.examples[0].remarks == ("weight of the row: 0.5", "margin: 1.5")
    assert (found.rows, found.held_out, found.as_dict()["groups"]) == (9, 1, 8)
    split = plaudit.inspect("feedback.jsonl", model=tiny_model_dir, eval_fraction=0.5, rows=99)
    assert 0 < split.held_out < 4
    assert split.held_out == sum(e.held_out for e in split.examples)
    assert split.as_dict()["groups"] == 4 - split.held_out


def test_choosing_rows(files: Path, tiny_model_dir: Path) -> None:
    def names(**choice: Any) -> list[str]:
        found = plaudit.inspect("chats.jsonl", model=tiny_model_dir, **choice)
        return [e.name.removeprefix("chats.jsonl:") for e in found.examples]

    assert names() == ["1", "2", "4"]
    assert names(rows=3) == ["1", "2", "3"]
    assert names(longest=True) == ["4", "3", "2"]
    assert names(longest=True, rows=1) == ["4"]
    assert names(row=[3, "chats.jsonl:2"], rows=1) == ["3", "2", "1"]
    assert names(dropped=True) == []
    with pytest.raises(ConfigError, match=r"PL102.* no row 9") as error:
        names(row=9)
    assert "chats.jsonl has 4 rows" in str(error.value)
    with pytest.raises(ConfigError, match="is no row"):
        names(row="first")


def test_a_row_by_number_that_is_not_used_is_shown_as_it_is(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "bad.jsonl", BAD)
    found = plaudit.inspect("bad.jsonl", model=tiny_model_dir, row=3)
    assert found.examples == []
    assert [(r.where, r.reason) for r in found.dropped_rows] == [("bad.jsonl:3", "empty")]


def test_hints(files: Path, tiny_model_dir: Path) -> None:
    assert list(hints(plaudit.inspect("pairs.jsonl", model=tiny_model_dir))) == []
    plain = list(hints(plaudit.inspect("feedback.jsonl", model=tiny_model_dir)))
    assert len(plain) == 1
    assert plain[0].startswith("4 rows of plain text: the tokenizer has a chat template")


def test_an_end_that_is_not_the_eos_is_said(files: Path, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(files / "other")
    model = {"path": str(tiny_model_dir), "tokenizer": str(files / "other")}
    (hint,) = hints(plaudit.inspect("chats.jsonl", model=model))
    assert hint.startswith("answers end with <|im_end|>, and the tokenizer's EOS is <|endoftext|>")


def test_held_out_rows_that_are_not_used(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "held.jsonl", [PAIRS[1], {"prompt": [TURN], "chosen": [says("")], "rejected": [says("No.")]}])
    write_jsonl(files / "bad.jsonl", BAD)
    options = {"invalid": "drop", "max_drop_fraction": 1, "overlong": "drop", "eval_data": "held.jsonl"}
    found = plaudit.inspect("bad.jsonl", model=tiny_model_dir, row="held.jsonl:2", **options)
    assert [(row.where, row.reason) for row in found.dropped_rows] == [("held.jsonl:2", "empty")]
    assert json.loads(found.dropped_rows[0].columns["chosen"]) == [says("")]
    assert [(d.file, d.rows) for d in found.drops if d.reason == "empty"] == [("bad.jsonl", (3,)), ("held.jsonl", (2,))]
    assert found.dropped == found.report.dropped + 1
    assert (found.held_out, found.groups) == (1, 2)
    totals = next(h for h in found.histograms if h.name == "total")
    assert totals.count == found.groups + 2  # the two that are too long have a length; held-out rows are not counted


def test_answers_that_are_there_already_need_no_room(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "rollouts.jsonl", [{"prompt": "What?", "completion": "42", "reward": 1.0}])
    sampled = plaudit.inspect("prompts.jsonl", model=tiny_model_dir, method="grpo", max_new_tokens=8)
    assert (sampled.reserve, "of which an answer may take 8" in sampled.limit_line) == (8, True)
    replayed = plaudit.inspect("prompts.jsonl", model=tiny_model_dir, method="grpo", rollouts="rollouts.jsonl")
    assert (replayed.reserve, replayed.limit_line) == (0, "256 tokens (the model's positions)")


def test_what_the_method_says_is_about_these_rows(files: Path, tiny_model_dir: Path) -> None:
    found = plaudit.inspect("feedback.jsonl", model=tiny_model_dir, method="kto")
    assert any(line.startswith("kto: 2 desirable rows with weight") for line in found.said)


def test_a_model_that_training_refuses_is_refused(files: Path, tiny_model_dir: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(files / "model")
    for config, code in (
        ("{", "PL301"),
        ('{"model_type": "of_another_time"}', "PL301"),
        ('{"model_type": "t5"}', "PL303"),
    ):
        (files / "model" / "config.json").write_text(config, encoding="utf-8")
        with pytest.raises(ModelError, match=code):
            plaudit.inspect("pairs.jsonl", model="model")


def test_rows_in_memory(tiny_model_dir: Path) -> None:
    rows = [{"prompt": [TURN], "completion": [says("Blue.")]}, {"prompt": [TURN], "completion": [says("")]}]
    found = plaudit.inspect(rows, model=tiny_model_dir, dropped=True)
    assert found.method.name == "sft"
    assert [r.where for r in found.dropped_rows] == ["<rows>:2"]
    assert json.loads(found.dropped_rows[0].columns["completion"]) == [says("")]


def test_a_configuration_file_and_columns_without_a_kind(files: Path, tiny_model_dir: Path) -> None:
    (files / "c.yaml").write_text(f"model: {tiny_model_dir}\ndata: pairs.jsonl\nmethod: {{name: ipo}}\n")
    assert plaudit.inspect(config="c.yaml").method.name == "ipo"
    write_jsonl(files / "odd.jsonl", [{"question": "Why?", "reply": "So."}])
    with pytest.raises(DataError, match="PL203") as error:
        plaudit.inspect("odd.jsonl", model=tiny_model_dir)
    assert "found: question, reply" in str(error.value)
    mapped = {"train": [{"path": "odd.jsonl", "columns": {"prompt": "question", "completion": "reply"}}]}
    assert plaudit.inspect(mapped, model=tiny_model_dir).method.name == "sft"


def test_errors_are_those_of_training(files: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="PL307"):
        plaudit.inspect("pairs.jsonl", model=tiny_model_dir, max_length=300)
    with pytest.raises(ConfigError, match=r"PL100(.|\n)*model"):
        plaudit.inspect("pairs.jsonl")
    with pytest.raises(ConfigError, match="max_length"):
        plaudit.inspect("pairs.jsonl", model=tiny_model_dir, max_lenght=300)
    with pytest.raises(DataError, match="PL207"):
        plaudit.inspect("pairs.jsonl", model=tiny_model_dir, max_length=5, overlong="drop", max_drop_fraction=1)


def test_a_folder_with_a_tokenizer_alone_is_enough_and_no_weights_are_read(files: Path, tiny_model_dir: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(files / "words")
    found = plaudit.inspect("pairs.jsonl", model="words")
    assert found.max_length is None
    assert found.limit_line.startswith("no limit")
    assert found.problem is None
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*given: Any, **options: Any) -> None:
            raise AssertionError("weights were read")

        patch.setattr(PreTrainedModel, "from_pretrained", refuse)
        patch.setattr("plaudit.models.load.read_weights", refuse)
        assert plaudit.inspect("pairs.jsonl", model=tiny_model_dir).max_length == 256
