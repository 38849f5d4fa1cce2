"""Pairs, rankings and feedback into each other: what is made, what is left out, in training and in files."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.cli import main
from plaudit.config.load import resolve
from plaudit.config.schema import SourceConfig
from plaudit.data.conventions import CONVERSION_OF
from plaudit.data.convert import KINDS, Conversion, require_effect
from plaudit.data.convert_file import as_row, convert_rows
from plaudit.data.prepare import PreparedData, prepare
from plaudit.data.recordset import read_records
from plaudit.data.render import Renderer
from plaudit.errors import ConfigError, DataError
from plaudit.types import DataKind
from tests.data.conftest import make_tokenizer

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def liked(prompt: str, completion: str, label: bool = True, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label} | more


def ranking(ranks: list[float], name: str = "ranks", **more: Any) -> dict[str, Any]:
    return {"prompt": "q", "completions": list("abcdefghi"[: len(ranks)]), name: ranks} | more


def made(
    rows: list[dict[str, Any]], to: Any, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, Any]]]:
    """(rows, reason → (count, first rows))."""
    result = convert_rows(rows, to, **options)
    return result.rows, {reason: (found.count, found.rows) for reason, found in result.report.left_out.items()}


# ---------------------------------------------------------------- what is made


def test_pairs_become_feedback_with_everything_they_said() -> None:
    said = {"margin": 2, "votes": [3, 1], "annotator": "a7", "strength": "clear", "source": "web", "weight": 2}
    rows, left_out = made([PAIR | said], "feedback")
    kept = said | {"preference": 0.75}
    assert rows == [liked("q", "a") | kept, liked("q", "b", False) | kept]
    assert left_out == {}


def test_a_tied_pair_likes_neither_answer() -> None:
    rows, left_out = made([PAIR | {"votes": [2, 2]}, PAIR], "feedback")
    assert rows == [liked("q", "a"), liked("q", "b", False)]
    assert left_out == {"tie": (1, [1])}


def test_pairs_become_rankings_of_two() -> None:
    rows, _ = made([PAIR | {"margin": 2, "lang": "en"}, PAIR | {"preference": 0.5}], "ranking")
    assert rows[0] == {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 2], "margin": 2, "lang": "en"}
    assert rows[1] == {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 1], "preference": 0.5}


def test_feedback_becomes_every_pair_of_a_prompt_in_rounds() -> None:
    rows = [liked("q", "a"), liked("q", "x", False), liked("q", "b"), liked("q", "y", False), liked("q", "c")]
    found, left_out = made(rows, "preference")
    assert [r["chosen"] + r["rejected"] for r in found] == ["ax", "by", "cx", "ay", "bx", "cy"]
    assert left_out == {}
    found, left_out = made(rows, "preference", pairs_per_prompt=2)
    assert [r["chosen"] + r["rejected"] for r in found] == ["ax", "by"]
    assert left_out == {"limit": (4, [1])}


def test_the_default_limit_is_all_pairs_of_nine_answers() -> None:
    nine, left_out = made([ranking(list(range(1, 10)))], "preference")
    assert (len(nine), left_out) == (36, {})
    rows = [liked("q", f"good {i}") for i in range(6)] + [liked("q", f"bad {i}", False) for i in range(7)]
    found, left_out = made(rows, "preference")
    assert (len(found), left_out) == (36, {"limit": (6, [1])})


def test_what_feedback_cannot_say_is_counted_with_its_rows() -> None:
    rows = [
        liked("q", "a"), liked("q", "x", False), liked("q", "a "), liked("q", "z"), liked("q", "z", False),
        liked("only liked", "a"), liked("only disliked", "a", False), liked("q ", "v", False),
    ]  # fmt: skip
    found, left_out = made(rows, "preference")
    assert found == [PAIR | {"rejected": "x"}]
    assert left_out == {"repeat": (1, [3]), "contradictory": (2, [4, 5]), "one_label": (3, [6, 7, 8])}


def test_prompts_with_other_tools_are_other_prompts() -> None:
    chat = [{"role": "user", "content": "q"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [{"prompt": chat, "completion": "a", "label": True, "tools": tools},
            {"prompt": chat, "completion": "b", "label": False}]  # fmt: skip
    with pytest.raises(DataError, match="PL207") as error:
        convert_rows(rows, "preference")
    assert "left out 2: rows whose prompt has liked answers only" in str(error.value)
    (pair,), _ = made([rows[0], rows[1] | {"tools": tools}], "preference")
    assert pair["tools"] == tools


def test_what_two_rows_say_differently_is_kept_under_two_names() -> None:
    rows = [liked("q", "a", lang="en", source="web", annotator="x", margin=2, weight=3),
            liked("q", "b", False, lang="de", source="web", annotator="x", margin=2, note="bad")]  # fmt: skip
    (pair,), _ = made(rows, "preference")
    assert pair == PAIR | {
        "source": "web", "annotator": "x", "weight": 2.0, "lang_chosen": "en", "lang_rejected": "de",
        "note_rejected": "bad", "margin_chosen": 2, "margin_rejected": 2,
    }  # fmt: skip
    record = read_records([pair], "preference", has_template=True).records[0]
    assert (record.margin, record.annotator, record.weight) == (None, "x", 2.0)


@pytest.mark.parametrize("votes", [[3, 1], 17])
def test_votes_on_two_rows_do_not_become_votes_on_their_pair(votes: Any) -> None:
    rows = [liked("q", "a", votes=votes), liked("q", "b", False, votes=votes)]
    (pair,), _ = made(rows, "preference")
    assert (pair["votes_of_chosen"], pair["votes_of_rejected"]) == (votes, votes)
    assert read_records([pair], "preference", has_template=True).records[0].preference is None


def test_feedback_becomes_one_ranking_per_prompt() -> None:
    rows = [liked("q", "b", False, by=1), liked("q", "a", by=2), liked("q", "c", False, by=3), liked("p", "a")]
    found, left_out = made(rows, "ranking")
    assert found == [{"prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 2], "by_each": [2, 1, 3]}]
    assert left_out == {"one_label": (1, [4])}


def test_rankings_become_pairs_best_against_worst_first() -> None:
    found, left_out = made([ranking([2, 1, 3, 3])], "preference")
    assert [r["chosen"] + r["rejected"] for r in found] == ["bd", "bc", "ad", "ba", "ac"]
    assert left_out == {"tie": (1, [1])}
    assert found[0] == {"prompt": "q", "chosen": "b", "rejected": "d", "rank_chosen": 1.0, "rank_rejected": 3.0}
    (best_worst,), left_out = made([ranking([2, 1, 3, 4])], "preference", pairs_per_prompt=1)
    assert (best_worst["chosen"], best_worst["rejected"]) == ("b", "d")
    assert left_out == {"limit": (5, [1])}


def test_a_difference_of_scores_is_no_margin() -> None:
    (pair,), _ = made([ranking([1.0, 9.0], "scores", source="web")], "preference")
    assert pair == {"prompt": "q", "chosen": "b", "rejected": "a", "score_chosen": 9.0, "score_rejected": 1.0,
                    "source": "web"}  # fmt: skip


def test_a_ranking_of_two_keeps_its_judgement_as_a_pair() -> None:
    (pair,), _ = made([ranking([2, 1], margin=2, preference=0.9, annotator="x")], "preference")
    assert pair == {"prompt": "q", "chosen": "b", "rejected": "a", "margin": 2, "preference": 0.9, "annotator": "x"}


def test_rankings_become_feedback_best_against_worst_or_by_a_threshold() -> None:
    found, left_out = made([ranking([2, 1, 3, 3])], "feedback")
    assert [(r["completion"], r["label"], r["rank"]) for r in found] == [
        ("b", True, 1),
        ("c", False, 3),
        ("d", False, 3),
    ]
    assert left_out == {"between": (1, [1])}
    scored = [ranking([5, 9, 1], "scores")]
    found, left_out = made(scored, "feedback", feedback_threshold=5)
    assert [(r["completion"], r["label"], r["score"]) for r in found] == [
        ("b", True, 9),
        ("a", True, 5),
        ("c", False, 1),
    ]
    assert left_out == {}
    assert [r["label"] for r in made(scored, "feedback", feedback_threshold=10)[0]] == [False] * 3


def test_a_column_of_the_same_name_is_not_lost() -> None:
    (first, *_), _ = made([ranking([5, 9, 1], "scores", score="mine")], "feedback")
    assert (first["score"], first["score_before"]) == (9.0, "mine")
    (first, _), _ = made([PAIR | {"label": "train"}], "feedback")
    assert (first["label"], first["label_before"]) == (True, "train")


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([PAIR | {"margin": 1.5, "votes": [3, 1], "annotator": "x", "id": 7, "weight": 2}], "preference"),
        ([{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "mood": "good"}],
           "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
           "tools": [{"name": "f"}]}], "preference"),
        ([ranking([1, 2, 2], id=7)], "ranking"),
        ([ranking([0.5, 2.5, 2.5], "scores", chat_template_kwargs={"x": 1})], "ranking"),
        ([ranking([2, 1], preference=0.9, strength="weak")], "ranking"),
        ([liked("q", "a", False, id=7)], "feedback"),
    ],
)  # fmt: skip
def test_a_written_row_reads_as_the_same_record(rows: list[dict[str, Any]], kind: DataKind) -> None:
    (record,) = read_records(rows, kind, has_template=True).records
    row = json.loads(json.dumps(as_row(record)))
    (again,) = read_records([row], kind, has_template=True).records
    assert {**dict(again), "implicit_prompt": None} == {**dict(record), "implicit_prompt": None}


# ---------------------------------------------------------------- in training


def run(sources: Any, kind: DataKind, name: str, **options: Any) -> PreparedData:
    conversion = Conversion(name, **options)
    assert conversion.to_kind == kind
    return prepare(sources, kind, Renderer(make_tokenizer("chatml")), convert=conversion)


def test_converted_groups_know_their_rows_and_the_report_says_what_happened() -> None:
    rows = [liked("q", "a"), liked("q", "b", False), liked("p", "a")]
    data = run(rows, "preference", "feedback_to_pairs")
    (group,) = data.groups
    assert ([c.text for c in group.completions], str(group.source)) == (["a", "b"], "<rows>:1")
    converted = data.report.files[0].converted
    assert converted is not None
    assert (converted.records_in, converted.records_out) == (3, 1)
    lines = data.report.summary_lines()
    assert "  feedback_to_pairs: 3 in, 1 out" in lines
    assert any(line.startswith("    left out 1: rows whose prompt has") and "row 3" in line for line in lines)
    assert data.report.as_dict()["files"][0]["converted"]["left_out"]["one_label"]["count"] == 1
    assert data.report.dropped == 0


def test_sources_of_the_methods_own_kind_stay_as_they_are() -> None:
    alpaca = [{"instruction": "q", "output": "a", "kto_tag": True}]
    data = run([[PAIR], [liked("p", "a")], alpaca], "feedback", "pairs_to_feedback")
    assert data.source_sizes == [2, 1, 1]
    assert [f.converted is not None for f in data.report.files] == [True, False, False]
    assert data.report.labels == {"desirable": 3, "undesirable": 1}


def test_bad_rows_are_found_before_they_are_converted() -> None:
    with pytest.raises(DataError, match="PL204") as error:
        run([PAIR, PAIR | {"rejected": "a"}], "feedback", "pairs_to_feedback")
    assert "<rows>:2  chosen and rejected are the same" in str(error.value)


def test_a_conversion_that_leaves_nothing_is_an_error_with_the_reasons() -> None:
    with pytest.raises(DataError, match="PL207") as error:
        run([liked("q", "a"), liked("p", "a")], "preference", "feedback_to_pairs")
    assert "left out 2: rows whose prompt has liked answers only" in str(error.value)


def test_a_threshold_needs_scores() -> None:
    with pytest.raises(DataError, match="PL212") as error:
        run([ranking([1, 2, 3])], "feedback", "ranking_to_feedback", feedback_threshold=1.0)
    assert "<rows>:1" in str(error.value)


def test_a_conversion_without_effect_is_an_error() -> None:
    conversion = Conversion("feedback_to_pairs")
    data = prepare([PAIR], "preference", Renderer(make_tokenizer()), convert=conversion)
    with pytest.raises(DataError, match="PL212") as error:
        require_effect(conversion, [data.report])
    assert "no source has feedback rows" in str(error.value)
    other = run([liked("q", "a"), liked("q", "b", False)], "preference", "feedback_to_pairs")
    require_effect(conversion, [data.report, other.report])
    require_effect(None, [data.report])


def test_a_conversion_into_another_kind_than_the_methods_is_an_error() -> None:
    assert Conversion.wanted(None, None, None, "preference") is None
    found = Conversion.wanted("ranking_to_pairs", None, None, "preference")
    assert found == Conversion("ranking_to_pairs", 36, None)
    for kind, words in (("preference", "use feedback_to_pairs or ranking_to_pairs"), ("completion", "remove it")):
        with pytest.raises(DataError, match="PL212") as error:
            Conversion.wanted("pairs_to_feedback", None, None, kind)  # type: ignore[arg-type]
        assert words in str(error.value)


ROWS: dict[str, dict[str, Any]] = {"preference": PAIR, "feedback": liked("q", "a"), "ranking": ranking([1, 2, 3])}


@pytest.mark.parametrize(("kinds", "name"), CONVERSION_OF.items(), ids=CONVERSION_OF.values())
def test_rows_of_the_wrong_kind_name_their_conversion(kinds: tuple[DataKind, DataKind], name: str) -> None:
    rows, needed = kinds
    assert KINDS[name] == kinds
    with pytest.raises(DataError, match="PL203") as error:
        prepare([ROWS[rows]], needed, Renderer(make_tokenizer()))
    for part in (f"these look like {rows} rows", f"data.convert: {name}", f"plaudit convert IN OUT --to {needed}"):
        assert part in str(error.value)


def test_options_without_effect_are_refused_at_once() -> None:
    given = {"model": "m", "data": "pairs.jsonl", "pairs_per_prompt": 2, "feedback_threshold": 0.5}
    with pytest.raises(ConfigError, match="PL100") as error:
        resolve("dpo", overrides=given, files_exist=False)
    for part in ("data.pairs_per_prompt", "data.feedback_threshold", "add data.convert: ranking_to_feedback"):
        assert part in str(error.value)
    resolved = resolve("dpo", overrides=given | {"convert": "ranking_to_pairs", "feedback_threshold": None},
                       files_exist=False)  # fmt: skip
    assert (resolved.run.data.convert, resolved.run.data.pairs_per_prompt) == ("ranking_to_pairs", 2)


# ---------------------------------------------------------------- files


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `plaudit convert` in a temporary directory: (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["plaudit", "convert", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def read_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_the_command_writes_rows_and_says_what_was_left_out(command: Any) -> None:
    write("in.jsonl", PAIR | {"lang": "en"}, PAIR | {"votes": [1, 1]})
    status, out, err = command("in.jsonl", "out.jsonl", "--to", "feedback")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "in.jsonl: 2 rows (prompt + chosen + rejected; other columns: lang)",
        "pairs_to_feedback: 2 in, 2 out",
        "  left out 1: ties: neither answer is better (row 2)",
        "wrote out.jsonl",
    ]
    assert read_lines("out.jsonl") == [liked("q", "a", lang="en"), liked("q", "b", False, lang="en")]
    assert sorted(p.name for p in Path().iterdir()) == ["in.jsonl", "out.jsonl"]


def test_rows_on_stdout_are_alone_there(command: Any) -> None:
    write("in.jsonl", PAIR)
    status, out, err = command("in.jsonl", "-", "--to", "ranking")
    assert status == 0
    assert [json.loads(line)["ranks"] for line in out.splitlines()] == [[1, 2]]
    assert "pairs_to_ranking: 1 in, 1 out" in err


def test_options_of_the_command(command: Any) -> None:
    write("in.jsonl", {"question": "q", "completions": ["a", "b", "c"], "scores": [3, 1, 2]}, {"question": "q"})
    options = ["--column", "prompt=question", "--invalid", "drop", "--from", "ranking"]
    status, out, _ = command("in.jsonl", "pairs.jsonl", "--to", "preference", "--pairs-per-prompt", "1", *options)
    assert status == 0
    assert "other columns than the rest of the file" in out
    assert [(r["chosen"], r["rejected"]) for r in read_lines("pairs.jsonl")] == [("a", "b")]
    status, _, _ = command("in.jsonl", "fb.jsonl", "--to", "feedback", "--feedback-threshold", "2", *options)
    assert status == 0
    assert [r["label"] for r in read_lines("fb.jsonl")] == [True, True, False]


ASKED = [{"role": "user", "content": "q"}]


def answered(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("row", "spoken"),
    [
        ({"prompt": "q", "completion": "a", "id": 7}, {"messages": [*ASKED, answered("a")], "id": 7}),
        (PAIR, {"prompt": ASKED, "chosen": [answered(PAIR["chosen"])], "rejected": [answered(PAIR["rejected"])]}),
        (liked("q", "a"), {"prompt": ASKED, "completion": [answered("a")], "label": True}),
        ({"prompt": "q", "answer": "a"}, {"prompt": ASKED, "answer": "a"}),
        (
            {"prompt": "q", "completions": ["a", "b"], "ranks": [1, 2]},
            {"prompt": ASKED, "completions": [[answered("a")], [answered("b")]], "ranks": [1, 2]},
        ),
    ],
    ids=["completion", "preference", "feedback", "prompt", "ranking"],
)
def test_texts_become_messages(command: Any, row: dict[str, Any], spoken: dict[str, Any]) -> None:
    write("in.jsonl", row)
    status, out, _ = command("in.jsonl", "out.jsonl", "--to", "messages")
    assert (status, "text to messages: 1 in, 1 out" in out) == (0, True)
    assert read_lines("out.jsonl") == [spoken]
    assert "PL212" in command("out.jsonl", "again.jsonl", "--to", "messages")[2]


def test_plain_text_has_nobody_who_speaks(command: Any) -> None:
    write("in.jsonl", {"prompt": "q", "completion": "a"}, {"text": "once"})
    status, out, _ = command("in.jsonl", "out.jsonl", "--to", "messages")
    assert (status, "left out 1: plain text without a prompt (row 2)" in out) == (0, True)


WRONG: list[tuple[list[str], str, str]] = [
    (["pairs.jsonl", "new.jsonl", "--to", "messages", "--pairs-per-prompt", "1"], "PL212", "pairs_per_prompt"),
    (["pairs.jsonl", "new.jsonl", "--to", "messages", "--from", "pears"], "PL102", "'pears'"),
    (["fb.jsonl", "new.jsonl", "--to", "feedback"], "PL212", "feedback rows already"),
    (["pairs.jsonl", "new.jsonl", "--to", "preference"], "PL212", "preference rows already"),
    (["pairs.jsonl", "new.jsonl", "--to", "preference", "--from", "preference"], "PL212", "already"),
    (["missing.jsonl", "new.jsonl", "--to", "feedback"], "PL201", "no such file"),
    (["other.jsonl", "new.jsonl", "--to", "feedback"], "PL203", "found: a"),
    (["empty.jsonl", "new.jsonl", "--to", "feedback"], "PL203", "no rows"),
    (["both.jsonl", "new.jsonl", "--to", "ranking"], "PL203", "--from preference"),
    (["pairs.jsonl", "fb.jsonl", "--to", "feedback"], "PL102", "exists already"),
    (["pairs.jsonl", "pairs.jsonl", "--to", "feedback"], "PL102", "exists already"),
    (["pairs.jsonl", "new.csv", "--to", "feedback"], "PL102", "name it new.jsonl"),
    (["pairs.jsonl", "no/new.jsonl", "--to", "feedback"], "PL102", "no such folder"),
    (["pairs.jsonl", "new.jsonl", "--to", "pears"], "PL102", "'pears'"),
    (["pairs.jsonl", "new.jsonl", "--to", "feedback", "--from", "pears"], "PL102", "'pears'"),
    (["pairs.jsonl", "new.jsonl", "--to", "feedback", "--invalid", "ignore"], "PL102", "'ignore'"),
    (["pairs.jsonl", "new.jsonl", "--to", "feedback", "--column", "prompt"], "PL102", "FIELD=COLUMN"),
    (["pairs.jsonl", "new.jsonl", "--to", "feedback", "--feedback-threshold", "1"], "PL212", "feedback_threshold"),
    (["pairs.jsonl", "new.jsonl", "--to", "feedback", "--pairs-per-prompt", "1"], "PL212", "pairs_per_prompt"),
    (["bad.jsonl", "new.jsonl", "--to", "feedback"], "PL204", "--invalid drop"),
    (["fb.jsonl", "new.jsonl", "--to", "preference"], "PL207", "left out 1"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_wrong_uses_are_explained_and_write_nothing(command: Any, arguments: list[str], code: str, words: str) -> None:
    write("pairs.jsonl", PAIR)
    write("fb.jsonl", liked("q", "a"))
    write("bad.jsonl", PAIR, PAIR | {"chosen": ""})
    write("both.jsonl", PAIR | liked("q", "a"))
    write("other.jsonl", {"a": 1})
    write("empty.jsonl")
    before = {p.name: p.read_bytes() for p in Path().iterdir()}
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"[{code}]")
    assert words in err
    assert {p.name: p.read_bytes() for p in Path().iterdir()} == before


def test_the_same_from_python(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    day = datetime.date(2024, 2, 29)
    result = plaudit.convert([PAIR | {"day": day}], output, to="feedback")
    assert result.rows[0]["day"] == day
    assert read_lines(str(output))[0]["day"] == "2024-02-29"
    with pytest.raises(ConfigError, match="rows in memory"):
        plaudit.convert([PAIR], to="feedback", columns={"prompt": "q"})
    source = SourceConfig(path=str(output))
    assert [r.label for r in read_records(source, "feedback", has_template=True).records] == [True, False]
