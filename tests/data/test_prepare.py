"""The whole way: what other tools pass over in silence is an error here, or is counted and reported."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.config.schema import SourceConfig
from plaudit.data.prepare import PreparedData, prepare
from plaudit.data.render import Renderer
from plaudit.errors import DataError
from plaudit.types import DataKind
from tests.data.conftest import make_tokenizer

PAIR = {"prompt": "What is the capital of France?", "chosen": " Paris.", "rejected": " I do not know"}
LONG = " the capital" * 50


def run(
    rows: list[dict[str, Any]], kind: DataKind = "preference", template: str = "chatml", **options: Any
) -> PreparedData:
    return prepare(rows, kind, Renderer(make_tokenizer(template)), **options)


def pairs(n: int) -> list[dict[str, Any]]:
    return [PAIR | {"prompt": f"What is {i}?"} for i in range(n)]


def as_file(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


# Each line of the table of what TRL 1.16 does with bad input, as far as it is about data:
# (what, kind, options, rows, the code, the row named, words of the message)
BAD_INPUT: list[tuple[str, DataKind, dict[str, Any], list[dict[str, Any]], str, int, list[str]]] = [
    ("empty chosen", "preference", {}, [PAIR, PAIR | {"chosen": ""}], "PL204", 2,
     ["1 of 2 rows", "chosen is empty", "data.invalid: drop"]),
    ("chosen is null", "preference", {}, [PAIR, PAIR | {"chosen": None}], "PL204", 2, ["chosen is missing (null)"]),
    ("no rejected column", "preference", {}, [{"prompt": "q", "chosen": "a"}], "PL203", 1,
     ["rejected is missing", "found:    prompt, chosen", '"rejected": "5"']),
    ("one row without rejected", "preference", {}, [PAIR, {"prompt": "q", "chosen": "a"}], "PL204", 2,
     ["has the columns prompt, chosen"]),
    ("chosen == rejected", "preference", {}, [PAIR | {"rejected": PAIR["chosen"]}], "PL204", 1, ["are the same"]),
    ("prompts over max_length", "preference", {"max_length": 60}, [PAIR, PAIR | {"prompt": LONG}], "PL205", 2,
     ["max_length is 60", "data.overlong: drop | truncate_prompt | truncate_completion"]),
    ("most rows too long, dropped", "preference", {"max_length": 60, "overlong": "drop"},
     [PAIR] * 2 + [PAIR | {"prompt": LONG}] * 6, "PL206", 3,
     ["6 of 8 rows (75.0%)", "max_drop_fraction = 0.05", "longer than max_length"]),
    ("all rows too long, dropped", "preference", {"max_length": 60, "overlong": "drop"},
     [PAIR | {"prompt": LONG}] * 3, "PL207", 1, ["no row is left of 3", "longer than max_length"]),
    ("answers cut to the same token", "preference",
     {"max_length": 31, "overlong": "truncate_completion", "max_drop_fraction": 1.0},
     [PAIR | {"prompt": "a" * 30, "chosen": "the capital", "rejected": "the question"}], "PL207", 1,
     ["the same once cut"]),
    ("messages without a template", "preference", {"template": "none"},
     [{"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}], "PL208", 0, ["chat_template"]),
    ("ranking that ranks nothing", "ranking", {}, [{"prompt": "q", "completions": ["a", "b"], "ranks": [1, 1]}],
     "PL204", 1, ["tied"]),
    ("feedback with one label", "feedback", {}, [{"prompt": "q", "completion": "a", "label": True}] * 2, "PL211", 0,
     ["all 2 rows are desirable", "data.invalid: drop"]),
    ("label is null", "feedback", {}, [{"prompt": "q", "completion": "a", "label": None}], "PL204", 1,
     ["label is missing (null)"]),
    ("empty text", "completion", {}, [{"text": "fine"}, {"text": " "}], "PL204", 2, ["text is empty"]),
    ("no text column", "completion", {}, [{"txt": "hello"}], "PL203", 1, ["columns: {text: txt}"]),
    ("text is null", "completion", {}, [{"text": "fine"}, {"text": None}], "PL204", 2, ["text is missing (null)"]),
    ("wrong type", "completion", {}, [{"prompt": "q", "completion": ["x"]}], "PL204", 1, ["role and content"]),
    ("no rows", "completion", {}, [], "PL207", 0, ["has no rows"]),
    ("both sorts of bad rows", "preference", {"max_length": 60}, [PAIR | {"prompt": LONG}, PAIR | {"chosen": ""}],
     "PL200", 1, ["2 of 2 rows", "data.invalid: drop", "data.overlong"]),
    ("no answers to truncate", "prompt", {"overlong": "truncate_completion"}, [{"prompt": "q"}], "PL212", 0,
     ["data.overlong"]),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT, ids=[c[0] for c in BAD_INPUT])
def test_bad_input_is_a_clear_error(tmp_path: Path, case: tuple[Any, ...]) -> None:
    _, kind, options, rows, code, row, words = case
    options = dict(options)
    path = as_file(tmp_path, rows)
    renderer = Renderer(make_tokenizer(options.pop("template", "chatml")))
    with pytest.raises(DataError) as error:
        prepare([SourceConfig(path=path)], kind, renderer, **options)
    message = str(error.value)
    assert error.value.code == code
    assert "mend:" in message
    if row:
        assert f"{path}:{row}" in message or f"({path}: rows {row}" in message
    for word in words:
        assert word in message


def test_ten_bad_rows_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    rows = [PAIR | {"chosen": ""} if i % 2 else PAIR for i in range(50)]
    path = as_file(tmp_path, rows)
    with pytest.raises(DataError) as error:
        prepare(path, "preference", Renderer(make_tokenizer()))
    message = str(error.value)
    assert "25 of 50 rows" in message
    assert message.count(f"  {path}:") == 10
    assert "and 15 more" in message


def test_invalid_drop_counts_every_reason() -> None:
    bad = [{"chosen": ""}, {"chosen": None}, {"rejected": PAIR["chosen"]}, {"prompt": 5}]
    data = run([*pairs(4), *[PAIR | b for b in bad]], invalid="drop", max_drop_fraction=0.5)
    file = data.report.files[0]
    assert {k: (a.count, a.rows) for k, a in file.dropped.items()} == {
        "empty": (1, [5]), "missing": (1, [6]), "identical": (1, [7]), "wrong_type": (1, [8]),
    }  # fmt: skip
    assert (data.report.rows, data.report.groups, data.report.dropped) == (8, 4, 4)
    with pytest.raises(DataError, match="PL206"):
        run([*pairs(4), *[PAIR | b for b in bad]], invalid="drop", max_drop_fraction=0.49)


def test_feedback_of_one_label_can_be_allowed_and_is_counted() -> None:
    data = run([{"prompt": "q", "completion": "a", "label": 1}], kind="feedback", invalid="drop")
    assert data.report.labels == {"desirable": 1, "undesirable": 0}


def test_truncate_prompt_takes_the_oldest_tokens_and_keeps_bos_and_answers() -> None:
    renderer = Renderer(make_tokenizer("none", bos=True))
    rows = [PAIR | {"prompt": "start" + LONG + " end"}]
    whole = prepare(rows, "preference", renderer).groups[0]
    cut = prepare(rows, "preference", renderer, max_length=40, overlong="truncate_prompt")
    group = cut.groups[0]
    longest = max(len(c.token_ids) for c in whole.completions)
    assert len(group.prompt_ids) + longest == 40
    assert group.prompt_ids[0] == renderer.tokenizer.bos_token_id
    np.testing.assert_array_equal(group.prompt_ids[1:], whole.prompt_ids[-(40 - longest - 1) :])
    for a, b in zip(group.completions, whole.completions, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
    assert cut.report.files[0].truncated["prompt cut at its start"].rows == [1]


def test_truncate_prompt_drops_what_does_not_fit_without_a_prompt() -> None:
    rows = [*pairs(2), PAIR | {"chosen": LONG}]
    data = run(rows, max_length=40, overlong="truncate_prompt", max_drop_fraction=0.5)
    assert data.report.files[0].dropped["completion_overlong"].rows == [3]


def test_a_row_counts_once_however_many_of_its_pairs_are_dropped() -> None:
    rows = [*pairs(1), PAIR | {"rejected": [LONG, LONG + "s", "fits"]}]
    report = run(rows, max_length=60, overlong="drop", max_drop_fraction=0.5).report
    assert report.files[0].dropped["overlong"].rows == [2]
    assert (report.dropped, report.groups) == (1, 2)


def test_truncate_completion_loses_the_end_and_says_so() -> None:
    renderer = Renderer(make_tokenizer("none"))
    data = prepare([PAIR | {"chosen": LONG}], "preference", renderer, max_length=40, overlong="truncate_completion")
    chosen, rejected = data.groups[0].completions
    assert len(data.groups[0].prompt_ids) + len(chosen.token_ids) == 40
    assert chosen.finish_reason == "length"
    assert rejected.token_ids[-1] == renderer.tokenizer.eos_token_id
    assert [k for k in data.report.files[0].truncated if "end-of-turn token is lost" in k]
    with pytest.raises(DataError, match="the prompt alone fills"):
        run([PAIR | {"prompt": LONG}], max_length=40, overlong="truncate_completion")


def test_truncation_that_leaves_nothing_trained_drops_the_row() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0},
             {"role": "user", "content": LONG}, {"role": "assistant", "content": "a"}]  # fmt: skip
    options: dict[str, Any] = {"kind": "completion", "max_length": 40, "max_drop_fraction": 1.0}
    with pytest.raises(DataError, match="the prompt alone fills"):
        run([{"messages": turns}], overlong="truncate_completion", **options)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=6),
    max_length=st.integers(2, 80),
    policy=st.sampled_from(["drop", "truncate_prompt", "truncate_completion"]),
)
def test_no_policy_lets_a_long_row_through_and_every_row_is_accounted_for(
    lengths: list[tuple[int, int, int]], max_length: int, policy: Any
) -> None:
    rows = [{"prompt": "q" * p, "chosen": "é" * c, "rejected": "ü" * r} for p, c, r in lengths]
    rows.append({"prompt": "q", "chosen": "", "rejected": "a"})
    try:
        data = run(rows, "preference", "none", max_length=max_length, overlong=policy, invalid="drop",
                   max_drop_fraction=1.0)  # fmt: skip
    except DataError:
        assert all(p + max(c, r) * 2 + 1 > max_length for p, c, r in lengths)
        return
    assert len(data.groups) + data.report.dropped == len(rows)
    for group in data.groups:
        assert len(group.prompt_ids) >= 1
        for c in group.completions:
            assert len(group.prompt_ids) + len(c.token_ids) <= max_length
            assert c.action_mask.any()


def test_several_sources_keep_their_sizes_weights_and_names(tmp_path: Path) -> None:
    first = SourceConfig(path=as_file(tmp_path, pairs(3)), weight=0.5)
    data = prepare([first, pairs(2)], "preference", Renderer(make_tokenizer()))
    assert (data.source_sizes, data.source_weights) == ([3, 2], [0.5, 1.0])
    assert str(data.groups[2].source) == f"{first.path}:3"
    assert str(data.groups[3].source) == "<rows 2>:1"
    assert data.report.duplicates == 2
    assert data.report.files[1].duplicates.rows == [1, 2]


def test_split_keeps_sources_apart() -> None:
    rows = [PAIR | {"prompt": f"What is {i}?"} for i in range(100)]
    train, held_out = prepare([rows, rows[:50]], "preference", Renderer(make_tokenizer())).split(0.3)
    assert train.source_sizes[0] + held_out.source_sizes[0] == 100
    assert train.source_sizes[1] + held_out.source_sizes[1] == 50
    assert sum(train.source_sizes) == len(train.groups)
    assert {g.prompt_text for g in train.groups}.isdisjoint({g.prompt_text for g in held_out.groups})


def test_the_report_says_everything() -> None:
    rows = [{"chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no", "who": i}
            for i in range(3)]  # fmt: skip
    rows.append({"prompt": "q", "chosen": "a", "rejected": ["b", "c"]})
    report = run(rows).report
    file = report.files[0]
    assert file.conventions == {"chosen + rejected (implicit prompt)": 3, "prompt + chosen + rejected": 1}
    assert file.extras == {"who": 3}
    assert {k: a.count for k, a in file.notes.items()} == {"plain_text": 5, "implicit_prompt": 3, "many_rejected": 1}
    as_json = json.loads(json.dumps(report.as_dict()))
    assert (as_json["rows"], as_json["groups"], as_json["duplicates"]) == (4, 5, 2)
    assert as_json["meaning"]["implicit_prompt"].startswith("no prompt column")
    lines = "\n".join(report.summary_lines())
    for part in ("4 rows -> 5 preference groups, 0 dropped", "not trained on: who", "no prompt", "2 groups repeat"):
        assert part in lines
    assert report.prompt_tokens.max >= report.prompt_tokens.median > 0


def test_rewritten_history_is_in_the_report() -> None:
    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    data = run([{"messages": turns}], kind="completion", template="thinking")
    assert len(data.groups) == 2
    assert data.report.files[0].notes["history_rewritten"].rows == [1]


def test_trained_tokens_are_counted_with_the_prompts_of_sequences() -> None:
    row = {"prompt": "hello", "completion": " there"}
    answer = run([row], kind="completion", template="none").report
    whole = run([row], kind="completion", template="none", train_on="sequence")
    assert answer.trained_tokens == len(whole.groups[0].completions[0].token_ids)
    assert whole.report.trained_tokens == answer.trained_tokens + len(whole.groups[0].prompt_ids) - 1


def test_ten_thousand_short_pairs_take_seconds() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": f"What is the capital of {i}?"}], "chosen": "It is Paris, I think",
         "rejected": f"I do not know about {i}"} for i in range(10_000)
    ]  # fmt: skip
    start = time.perf_counter()
    data = run(rows)
    seconds = time.perf_counter() - start
    assert len(data.groups) == 10_000
    assert seconds < 60, f"{10_000 / seconds:.0f} rows/s"
