"""`plaudit score`: any reward on rows, resumable, with a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.errors import ConfigError, DataError, PlauditError
from plaudit.rewards.summary import Line, Summary

FUNCTION = """
from pathlib import Path

calls = Path(__file__).with_name("calls.txt")


def worth(completion):
    with calls.open("a") as file:
        file.write(completion + "\\n")
    if completion == "stop":
        raise KeyboardInterrupt
    if completion == "bad":
        raise ValueError("cannot read it")
    return float(completion)
"""


@pytest.fixture
def function(tmp_path: Path) -> str:
    file = tmp_path / f"worth_{tmp_path.name}.py".replace("-", "_")
    file.write_text(FUNCTION)
    return f"{file}:worth"


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls.txt").read_text().split("\n")[:-1]


def rows_of(*completions: str, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "completion": c, **more} for i, c in enumerate(completions)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_get_score_parts_and_notes() -> None:
    scored = plaudit.score(rows_of("Paris", "", answer="Paris"), ["exact", "repetition:weight=0.5"])
    first, second = list(scored)
    assert (first["score"], second["score"]) == (1.5, 0.5)
    assert first["score_parts"] == {"exact": 1, "repetition": 1}
    assert "score_note" not in first
    assert second["score_note"] == "exact: read '', expected 'Paris'"
    assert scored.summary.histogram == [("0.5", 1), ("1.5", 1)]
    assert [line.name for line in scored.summary.lines] == ["score", "exact", "repetition"]


def test_every_shape_of_row() -> None:
    pair = {"prompt": "q", "chosen": "a b", "rejected": "a a"}
    several = {"prompt": "q", "completions": ["a b", "a a", "a a a a"]}
    ranked = {"prompt": "q", "completions": ["a b", "a a"], "ranks": [1, 2]}
    reward = "repetition:ngram=1"
    [found] = plaudit.score([pair], reward)
    assert (found["chosen_score"], found["rejected_score"]) == (1, 0.5)
    assert found["score_parts"] == [{"repetition": 1}, {"repetition": 0.5}]
    [found] = plaudit.score([several], reward)
    assert found["scores"] == [1, 0.5, 0.25]
    [found] = plaudit.score([ranked], reward)
    assert found["judge_scores"] == [1, 0.5]


def test_chats_and_lengths_of_generated_rows(tmp_path: Path) -> None:
    chat = {
        "prompt": [{"role": "user", "content": "Say B"}],
        "completion": [{"role": "assistant", "content": "<think>A</think>B"}],
        "answer": "B",
        "tokens": 7,
        "finish_reason": "stop",
    }
    [row] = plaudit.score([chat], ["choice", "length:most=7"])
    assert row["score"] == 2
    assert row["score_parts"]["length/tokens"] == 7


def test_a_failure_is_null_and_says_why(function: str, tmp_path: Path) -> None:
    scored = plaudit.score(rows_of("1", "bad", "3"), function, max_reward_error_fraction=0.5)
    found = list(scored)
    assert [r["score"] for r in found] == [1, None, 3]
    assert found[1]["score_error"] == "exception: worth: ValueError: cannot read it"
    assert calls(tmp_path).count("bad") == 3  # two retries
    assert scored.summary.total == [1, 3]
    assert dict(scored.summary.failed) == {"exception": 1}
    assert any("1 answers have no score (exception 1)" in note for note in scored.summary.notes)


def test_it_goes_on_where_it_was_stopped(function: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", rows_of(*map(str, range(300))))
    output = tmp_path / "scored.jsonl"
    whole = list(plaudit.score(data, function, output=tmp_path / "whole.jsonl"))
    (tmp_path / "calls.txt").unlink()
    for row in plaudit.score(data, function, output=output):
        if row["prompt"] == "q150":
            break
    with output.open("a") as file:
        file.write('{"prompt": "half a li')
    done = len(read_whole(output))
    assert 150 < done < 300
    (tmp_path / "calls.txt").unlink()
    scored = plaudit.score(data, function, output=output)
    rest = list(scored)
    assert len(rest) == 300 - done
    assert calls(tmp_path) == [str(i) for i in range(done, 300)]
    assert read(output) == whole
    assert scored.summary.total == [float(i) for i in range(300)]
    assert scored.summary.notes[0] == f"{done} of 300 rows were there already"


def read_whole(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_another_command_does_not_go_on(function: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", rows_of("1"))
    output = tmp_path / "scored.jsonl"
    list(plaudit.score(data, function, output=output))
    with pytest.raises(ConfigError, match="scores of other rewards"):
        plaudit.score(data, "repetition", output=output)
    write(data, rows_of("2"))
    with pytest.raises(ConfigError, match="scores of other rows"):
        plaudit.score(data, function, output=output)
    list(plaudit.score(data, function, output=output, overwrite=True))
    assert read(output)[0]["score"] == 2
    with pytest.raises(ConfigError, match="nothing says what it holds"):
        plaudit.score(data, function, output=write(tmp_path / "other.jsonl", rows_of("3")))
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="the output is the data itself"):
            plaudit.score(data, function, output=data, overwrite=overwrite)
    assert read(data) == rows_of("2")


def test_a_stopped_run_of_several_answers_counts_what_was_there(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": "a b", "rejected": "a a"} for i in range(3)]
    data = write(tmp_path / "data.jsonl", rows)
    output = tmp_path / "scored.jsonl"
    list(plaudit.score(data, "repetition:ngram=1", output=output))
    scored = plaudit.score(data, "repetition:ngram=1", output=output)
    assert list(scored) == []
    assert scored.summary.total == [1, 0.5] * 3
    assert scored.summary.parts == {"repetition": [1, 0.5] * 3}


def test_a_column_that_no_row_has_is_noticed_before_anything_is_scored() -> None:
    with pytest.raises(PlauditError, match="PL709") as caught:
        plaudit.score(rows_of("a", gold="a"), "exact")
    assert "gold" in str(caught.value)
    rows = [*rows_of("a", answer="a"), *rows_of("a")]
    assert [r["score"] for r in plaudit.score(rows, "exact")] == [1, None]


def test_scores_are_never_overwritten() -> None:
    for column in ("score", "score_parts", "score_error"):
        with pytest.raises(ConfigError, match="never overwritten"):
            plaudit.score(rows_of("a", **{column: 1}), "repetition")


def test_rows_that_cannot_be_used() -> None:
    rows: list[dict[str, Any]] = [*rows_of("a"), {"prompt": "q", "completion": None}]
    with pytest.raises(DataError, match="PL204"):
        plaudit.score(rows, "repetition")
    scored = plaudit.score(rows, "repetition", invalid="drop")
    assert len(list(scored)) == 1
    assert any("1 rows could not be used" in note for note in scored.summary.notes)


def test_equal_answers_are_scored_once(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a b", "sample": i} for i in range(200)]
    scored = plaudit.score(rows, "repetition")
    list(scored)
    assert any("results were known already" in note for note in scored.summary.notes)


def test_the_summary_by_hand() -> None:
    line = Line.of("x", [1.0, 2.0, 3.0, 6.0])
    assert (line.mean, line.least, line.most) == (3, 1, 6)
    assert line.std == pytest.approx(3.5**0.5)
    summary = Summary()
    for i in range(101):
        summary.take(i / 10, {}, None)
    assert [n for _, n in summary.histogram] == [10] * 9 + [11]
    assert summary.histogram[0][0] == "0 to 1"
    assert Summary().lines == []


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plaudit", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def test_the_command(tmp_path: Path, function: str) -> None:
    data = write(tmp_path / "data.jsonl", rows_of("1", "2", "2"))
    done = run("score", str(data), "--reward", function, "-o", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [r["score"] for r in read(tmp_path / "out.jsonl")] == [1, 2, 2]
    assert "1.667" in done.stderr
    assert "2  2  ████" in done.stderr
    again = run("score", str(data), "--reward", function, cwd=tmp_path)
    assert [json.loads(line)["score"] for line in again.stdout.splitlines()] == [1, 2, 2]


def test_the_command_with_what_is_wrong(tmp_path: Path, function: str) -> None:
    data = write(tmp_path / "data.jsonl", rows_of("1", *["bad"] * 20))
    done = run("score", str(data), "--reward", "mth", cwd=tmp_path)
    assert (done.returncode, "did you mean math?" in done.stderr) == (2, True)
    done = run("score", "missing.jsonl", "--reward", "repetition", cwd=tmp_path)
    assert (done.returncode, "missing.jsonl" in done.stderr) == (2, True)
    done = run("score", str(data), "--reward", function, "-o", "out.jsonl", cwd=tmp_path)
    assert done.returncode != 0
    assert "PL706" in done.stderr
    assert "cannot read it" in done.stderr
    done = run("score", str(data), "--reward", function, "-o", "no/such/folder/out.jsonl", cwd=tmp_path)
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)


def test_the_list_and_the_explanations(tmp_path: Path) -> None:
    listed = run("rewards", cwd=tmp_path).stdout
    for kind in ("math", "code", "judge", "function", "reasoning_gym"):
        assert f"\n{kind} " in "\n" + listed
    shown = run("rewards", "show", "length", cwd=tmp_path).stdout
    assert "slack: a whole number, default 0" in shown
    assert "otherwise" in run("rewards", "show", "part", cwd=tmp_path).stdout
    assert "temperature" in run("rewards", "show", "par", cwd=tmp_path).stdout
    wrong = run("rewards", "show", "lenght", cwd=tmp_path)
    assert (wrong.returncode, "did you mean length?" in wrong.stderr) == (2, True)


def test_tasks_are_made_and_scored(tmp_path: Path) -> None:
    assert "leg_counting" in run("rewards", "tasks", cwd=tmp_path).stdout.split()
    made = run("rewards", "tasks", "leg_counting", "--size", "3", "-o", "tasks.jsonl", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    rows = [{**r, "completion": f"<answer>{r['answer']}</answer>"} for r in read(tmp_path / "tasks.jsonl")]
    rows[0]["completion"] = "<answer>0</answer>"
    write(tmp_path / "answers.jsonl", rows)
    done = run("score", "answers.jsonl", "-r", "reasoning_gym", cwd=tmp_path)
    assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == [0, 1, 1], done.stderr


def test_a_file_without_any_score_is_an_error(function: str, tmp_path: Path) -> None:
    """Three answers are too few for a share; that all of them failed is still no success."""
    output = tmp_path / "out.jsonl"
    with pytest.raises(PlauditError, match="none of the 3 answers has a score") as caught:
        list(plaudit.score(rows_of("bad", "bad", "bad"), function, output=output))
    assert caught.value.code == "PL706"
    assert [r["score_error"] for r in read(output)] == ["exception: worth: ValueError: cannot read it"] * 3
