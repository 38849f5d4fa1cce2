"""The warm processes that other tests rely on: ready at once, and a command in one is the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm


def write_what_is_there(file: Path) -> None:
    file.write_text(" ".join(sys.modules), encoding="utf-8")


def write_variables(file: Path) -> None:
    file.write_text(json.dumps(dict(os.environ)), encoding="utf-8")


def fail(words: str) -> None:
    raise ValueError(words)


def test_everything_is_imported_before_the_work_begins(tmp_path: Path) -> None:
    """Otherwise nothing would fail, and everything would be slow."""
    warm.run_all([warm.Program(write_what_is_there, (tmp_path / "there",), tmp_path / "printed")], timeout=60)
    there = (tmp_path / "there").read_text(encoding="utf-8").split()
    assert {"torch", "transformers", "peft", "plaudit.train.session", "tests.preloaded"} <= set(there)


def test_variables_are_those_of_the_start_and_none_is_left_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lives as long as the tests: a variable that one of them has set is nothing to the next."""
    for value in ("first", "second", None):
        if value is None:
            monkeypatch.delenv("OF_A_TEST")
        else:
            monkeypatch.setenv("OF_A_TEST", value)
        own = {"OF_A_PROGRAM": "own"} if value == "first" else {}
        warm.run_all([warm.Program(write_variables, (tmp_path / "there",), tmp_path / "printed", own)], timeout=60)
        there = json.loads((tmp_path / "there").read_text(encoding="utf-8"))
        assert there == {**os.environ, **own}


def test_a_failure_is_told(tmp_path: Path) -> None:
    programs = [
        warm.Program(fail, ("out of tune",), tmp_path / "first"),
        warm.Program(write_what_is_there, (tmp_path / "there",), tmp_path / "second"),
    ]
    with pytest.raises(AssertionError, match=r"\[1, 0\][\s\S]*Traceback[\s\S]*out of tune"):
        warm.run_all(programs, timeout=60)


def test_a_command_has_its_arguments_place_variables_files_and_status(warm_plaudit: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "a a", "answer": "a a"}\n', encoding="utf-8")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [warm_plaudit, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=60
        )

    scored = run("score", "rows.jsonl", "--reward", "exact")
    assert (scored.returncode, '"score": 1' in scored.stdout) == (0, True), scored.stderr
    assert "reward   answers" in scored.stderr
    mistaken = run("score", "rows.jsonl", "--reward", "exakt")
    assert (mistaken.returncode, mistaken.stdout, "did you mean exact?" in mistaken.stderr) == (2, "", True)
    narrow, wide = (run("--help", COLUMNS=columns).stdout.splitlines() for columns in ("50", "78"))
    assert max(map(len, narrow)) <= 50 < max(map(len, wide)) <= 78


def test_a_command_reads_its_input_and_dies_of_its_signals(warm_plaudit: Path, tiny_model_dir: Path) -> None:
    command = [warm_plaudit, "chat", tiny_model_dir, "--max-new-tokens", "3"]
    done = subprocess.run(command, input="hello\n/exit\n", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        [warm_plaudit, "serve", tiny_model_dir, "--port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "serving at" not in (line := process.stderr.readline()):
            assert line
        process.kill()  # the program, which can hand nothing on; its command does not outlive it
        deadline = time.monotonic() + 30
        process.stderr.read()  # until the last one that writes into it is gone
        assert time.monotonic() < deadline
    assert process.returncode == -signal.SIGKILL
