"""`plaudit score`: any reward on rows, resumable, with a table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.config.schema import SourceConfig
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


def _line(function: str) -> str:
    """The line of the function's file that raises."""
    file = Path(function.rpartition(":")[0])
    raising = next(n for n, text in enumerate(file.read_text("utf-8").splitlines(), 1) if "cannot read it" in text)
    return f"{file.name}:{raising}"


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
    assert found[1]["score_error"] == f"exception: worth: ValueError: cannot read it ({_line(function)})"
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
    # A call of the run that was left may have been on its way.
    assert set(calls(tmp_path)) == {str(i) for i in range(done, 300)}
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


@pytest.mark.parametrize(
    ("row", "columns", "says"),
    [
        ({"prompt": "q", "completion": 7}, {}, "completion is int, must be text or a list of messages"),
        ({"prompt": 7, "completion": "a"}, {}, "prompt is int"),
        ({"prompt": "q", "completion": None}, {}, "completion is missing (null)"),
        ({"prompt": "q", "completion": [{"role": "x", "content": "y"}]}, {}, "completion message 1: role is 'x'"),
        ({"prompt": "q", "completions": ["a", [{"role": "x"}]]}, {}, "answer 2 of completions message 1: role is"),
        ({"q": "q", "a": 7}, {"prompt": "q", "completion": "a"}, "a is int"),
        ({"q": "", "a": "7"}, {"prompt": "q", "completion": "a"}, "q is empty"),
    ],
)
def test_the_column_of_what_is_wrong_is_named(
    row: dict[str, Any], columns: dict[str, str], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="PL204") as refused:
        plaudit.score(SourceConfig(path=str(file), columns=columns), "repetition")
    assert f"rows.jsonl:1  {says}" in str(refused.value)


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


@pytest.mark.parametrize("name", ["o.csv", "o.Parquet", "o.json", "o.jsonl.gz", "o.csv.gz"])
def test_a_file_that_promises_another_form_is_refused_and_not_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PL102.* written as JSONL(.|\n)*name it o\.jsonl"):
        plaudit.score(rows_of("a"), "repetition", output=tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["o", "o.jsonl", "o.ndjson", "o.2"])
def test_other_names_are_the_users_choice(name: str, tmp_path: Path) -> None:
    assert len(list(plaudit.score(rows_of("a"), "repetition", output=tmp_path / name))) == 1


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
    pytest.importorskip("reasoning_gym")
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
    said = f"exception: worth: ValueError: cannot read it ({_line(function)})"
    assert [r["score_error"] for r in read(output)] == [said] * 3


def test_rows_that_failed_are_scored_again_by_the_same_command(tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.touch()
    file = tmp_path / "service_of_this_test.py"
    file.write_text(
        "from pathlib import Path\n\n\n"
        "def ask(completion):\n"
        f"    if completion == '7' and Path({str(down)!r}).exists():\n"
        "        raise ConnectionError('down')\n"
        "    return float(completion)\n"
    )
    data = write(tmp_path / "data.jsonl", rows_of(*map(str, range(60))))
    output = tmp_path / "out.jsonl"
    list(plaudit.score(data, f"{file}:ask", output=output))
    assert read(output)[7]["score"] is None
    down.unlink()
    scored = plaudit.score(data, f"{file}:ask", output=output)
    assert [row["score"] for row in scored] == [7]
    assert [row["score"] for row in read(output)] == list(range(60))
    assert "score_error" not in read(output)[7]
    assert len(scored.summary.total) == 60


def test_a_changed_function_does_not_go_on(tmp_path: Path) -> None:
    file = tmp_path / "changes_of_this_test.py"
    file.write_text("def f(completion):\n    return 1.0\n")
    data, output = write(tmp_path / "data.jsonl", rows_of("a", "b")), tmp_path / "out.jsonl"
    list(plaudit.score(data, f"{file}:f", output=output))
    file.write_text("def f(completion):\n    return -7.0\n")
    with pytest.raises(ConfigError, match="scores of other rewards"):
        plaudit.score(data, f"{file}:f", output=output)


def test_overwriting_begins_with_the_first_row(function: str, tmp_path: Path) -> None:
    data, output = write(tmp_path / "data.jsonl", rows_of("1", "2")), tmp_path / "out.jsonl"
    list(plaudit.score(data, function, output=output))
    before = output.read_text()
    with pytest.raises(PlauditError, match="PL709"):
        plaudit.score(data, "exact", output=output, overwrite=True)
    plaudit.score(data, function, output=output, overwrite=True)  # never iterated over
    assert output.read_text() == before


def test_iterating_twice_writes_once(function: str, tmp_path: Path) -> None:
    data, output = write(tmp_path / "data.jsonl", rows_of("1", "2")), tmp_path / "out.jsonl"
    scored = plaudit.score(data, function, output=output)
    assert len(list(scored)) == 2
    assert list(scored) == []
    assert len(read(output)) == 2
    assert scored.summary.total == [1, 2]


def test_two_processes_do_not_write_one_file(function: str, tmp_path: Path) -> None:
    data, output = write(tmp_path / "data.jsonl", rows_of("1", "2")), tmp_path / "out.jsonl"
    first = plaudit.score(data, function, output=output)
    with pytest.raises(ConfigError, match="another process writes the file"):
        plaudit.score(data, function, output=output)
    list(first)
    assert list(plaudit.score(data, function, output=output)) == []


def test_a_pair_with_several_rejected_answers(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "good", "rejected": ["bad one", "bad bad"], "answer": "good"}
    data, output = write(tmp_path / "data.jsonl", [pair] * 3), tmp_path / "out.jsonl"
    scored = plaudit.score(data, "exact", output=output)
    for row in scored:
        assert (row["chosen_score"], row["rejected_score"]) == (1, [0, 0])
        assert len(row["score_parts"]) == 3
    assert scored.summary.total == [1, 0, 0] * 3
    again = plaudit.score(data, "exact", output=output)
    assert list(again) == []
    assert again.summary.total == [1, 0, 0] * 3


def test_a_reference_in_a_column_that_sampling_writes_is_read() -> None:
    rows = [{"prompt": "p", "completion": "a", "sample": s} for s in ("a", "b", "a")]
    assert [r["score"] for r in plaudit.score(rows, "exact:column=sample")] == [1, 0, 1]


def test_half_a_surrogate_pair_is_no_obstacle(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "p", "completion": "a\\ud800"}\n')
    list(plaudit.score(data, "repetition", output=tmp_path / "out.jsonl"))
    assert read(tmp_path / "out.jsonl")[0]["completion"] == "a\ud800"


def test_functions_and_paths_are_given_as_they_are(tmp_path: Path) -> None:
    def long(completion: str) -> float:
        return float(len(completion))

    (tmp_path / "r.yaml").write_text("rewards:\n  - repetition\n")
    [row] = plaudit.score(rows_of("abc"), [long, tmp_path / "r.yaml"])
    assert row["score_parts"] == {"long": 3, "repetition": 1}
    [row] = plaudit.score(rows_of("abc"), long)
    assert row["score"] == 3


SLOW = """
import sys, time


def slow(completion):
    time.sleep(0.1)
    return 1.0


def hang(completion):
    time.sleep(3600)


def leave(completion):
    sys.exit(0)
"""


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow_of_this_test.py").write_text(SLOW)
    write(tmp_path / "data.jsonl", rows_of(*["a"] * 400))
    command = [
        sys.executable,
        "-m",
        "plaudit",
        "score",
        "data.jsonl",
        "-r",
        "slow_of_this_test:slow",
        "-o",
        "out.jsonl",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        output = tmp_path / "out.jsonl"
        deadline = time.monotonic() + 60
        while (not output.exists() or not output.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    done = len(read(output))
    assert 0 < done < 400
    assert f"{done} of 400 rows are in out.jsonl: the same command goes on" in said


def test_a_function_that_never_returns_does_not_keep_the_command_alive(tmp_path: Path) -> None:
    (tmp_path / "slow_of_this_test.py").write_text(SLOW)
    write(tmp_path / "data.jsonl", rows_of("a", "b"))
    done = run("score", "data.jsonl", "-r", "slow_of_this_test:hang:timeout=0.2", "--retries", "0", cwd=tmp_path)
    assert "the function took too long" in done.stderr
    assert done.returncode == 2


def test_a_function_that_leaves_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "slow_of_this_test.py").write_text(SLOW)
    write(tmp_path / "data.jsonl", rows_of("a", "b"))
    done = run("score", "data.jsonl", "-r", "slow_of_this_test:leave", cwd=tmp_path)
    assert "SystemExit" in done.stderr
    assert done.returncode == 2


def test_an_answer_that_is_none_is_named_or_dropped_and_counted() -> None:
    rows = [{"prompt": "q", "completions": ["a", "b"]}, {"prompt": "q", "completions": ["a", None]}]
    with pytest.raises(DataError, match="PL204"):
        plaudit.score(rows, "repetition")
    scored = plaudit.score(rows, "repetition", invalid="drop")
    assert [row["scores"] for row in scored] == [[1, 1]]
    assert "1 rows could not be used and are left out" in scored.summary.notes
