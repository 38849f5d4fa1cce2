"""Output that nobody reads any more does not end what writes it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
import typer

from plaudit.cli import main
from plaudit.cli.exits import guarded
from plaudit.errors import ConfigError
from plaudit.runs.readers import GONE, outliving_readers

Lost = Callable[[str], TextIO]


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lost]:
    """Makes a standard stream a pipe whose reader has gone."""
    made: list[TextIO] = []

    def lose(name: str) -> TextIO:
        ours, theirs = os.pipe()
        os.close(ours)
        made.append(os.fdopen(theirs, "w", encoding="utf-8"))
        monkeypatch.setattr(sys, name, made[-1])
        return made[-1]

    yield lose
    for stream in made:
        with suppress(BrokenPipeError):
            stream.close()


def test_what_is_written_goes_nowhere_and_stderr_says_so_once(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    output, said = lost("stdout"), io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    with outliving_readers():
        for _ in range(3):
            typer.echo("x" * 100_000)
        sys.stdout.writelines(["a", "b"])
        typer.echo("to be read", err=True)
    assert said.getvalue() == f"{GONE}\nto be read\n"
    assert sys.stdout is output
    assert sys.stderr is said
    output.flush()  # as Python does at its exit


def test_both_may_go(lost: Lost) -> None:
    streams = lost("stdout"), lost("stderr")
    with outliving_readers():
        typer.echo("x")
        typer.echo("x", err=True)
    nowhere = os.stat(os.devnull).st_rdev
    assert [os.fstat(stream.fileno()).st_rdev for stream in streams] == [nowhere, nowhere]


def test_elsewhere_a_lost_reader_still_ends_a_command(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """plaudit config schema | head -1"""
    lost("stdout")
    monkeypatch.setattr(sys, "argv", ["plaudit", "config", "schema"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 141


def test_a_mistake_that_nobody_reads_has_its_exit_status(lost: Lost) -> None:
    lost("stderr")
    with pytest.raises(SystemExit) as stopped, guarded():
        raise ConfigError("PL102", "wrong", mend="right")
    assert stopped.value.code == 2


def test_a_training_survives_its_readers(
    lost: Lost, tiny_model_dir: Path, preference_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plaudit dpo … 2>&1 | head -5"""
    lost("stdout")
    lost("stderr")
    given = ["--model", str(tiny_model_dir), "--data", str(preference_file), "--max-steps", "1", "run.check=off"]
    monkeypatch.setattr(sys, "argv", ["plaudit", "dpo", *given, f"run.dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert (tmp_path / "run" / "COMPLETE").exists()
