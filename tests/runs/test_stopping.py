"""Asking a run to stop: the right process, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit.errors import RunError
from plaudit.runs import stopping
from plaudit.runs.interface import stop_run
from plaudit.runs.lock import LOCK_NAME, is_locked
from plaudit.runs.rundir import RunDir
from plaudit.runs.stopping import ask_to_stop, wait_for_end

WRITER = """
import os, signal, sys, time
from plaudit.runs.rundir import RunDir
def end(signum, frame):
    run.log_event("interrupted", signal=signum, step=4)
    run.close()
    sys.exit(143)
signal.signal(signal.SIGTERM, end if "deaf" not in sys.argv else signal.SIG_IGN)
run = RunDir.open(sys.argv[1], "resume", {})
print("stands", flush=True)
while True:
    time.sleep(0.05)
"""
LAUNCHER = """
import os, signal, subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]],
                           env={**os.environ, "PLAUDIT_LAUNCHER": str(os.getpid())})
signal.signal(signal.SIGTERM, lambda *_: (print("handed on", flush=True), process.terminate()))
sys.exit(process.wait())
"""


def start(path: Path, *arguments: str, code: str = WRITER) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code, str(path), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stands\n"
    return process


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(tmp_path / "r")
    yield process
    process.kill()
    process.communicate()


def test_the_writer_is_asked_and_waited_for(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    asked: list[int] = []
    state = stop_run(tmp_path / "r", seconds=30, on_asked=asked.append)
    assert asked == [writer.pid]
    assert (state.phase, state.reason) == ("stopped", "by SIGTERM after step 4")
    assert writer.wait(10) == 143
    assert ask_to_stop(tmp_path / "r") is None, "nobody writes it any more"
    assert stop_run(tmp_path / "r") == state


def test_one_that_does_not_end_in_time(tmp_path: Path) -> None:
    process = start(tmp_path / "r", "deaf")
    try:
        assert stop_run(tmp_path / "r", seconds=0.3).phase == "running"
    finally:
        process.kill()
        process.communicate()
    assert wait_for_end(tmp_path / "r").phase == "failed"


def test_with_several_processes_the_one_that_has_started_them_is_asked(tmp_path: Path) -> None:
    launcher = start(tmp_path / "r", WRITER, code=LAUNCHER)
    asked: list[int] = []
    assert stop_run(tmp_path / "r", seconds=30, on_asked=asked.append).phase == "stopped"
    assert asked == [launcher.pid]
    out, _ = launcher.communicate(timeout=10)
    assert (launcher.returncode, out) == (143, "handed on\n")


def test_a_launcher_that_is_not_its_parent_is_not_believed(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lock = tmp_path / "r" / LOCK_NAME
        lock.write_text(lock.read_text().rstrip() + f" (started by process {bystander.pid})\n")
        asked: list[int] = []
        stop_run(tmp_path / "r", seconds=30, on_asked=asked.append)
        assert asked == [writer.pid]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("process {mine} on elsewhere\n", "written on another machine, elsewhere"),
        ("process {mine} on {here}\n", "is not the one that writes the run"),
        ("garbage", "does not say which process"),
    ],
)
def test_a_process_that_may_be_another_is_never_signalled(
    tmp_path: Path, writer: subprocess.Popen[str], text: str, said: str
) -> None:
    """The number in the lock is that of a living process of this user; a signal would end the tests."""
    text = text.format(mine=os.getpid(), here=os.uname().nodename)
    (tmp_path / "r" / LOCK_NAME).write_text(text)
    with pytest.raises(RunError, match=said) as refused:
        stop_run(tmp_path / "r")
    assert refused.value.code == "PL507"
    assert is_locked(tmp_path / "r")
    assert writer.poll() is None


def test_a_process_of_another_user(
    tmp_path: Path, writer: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, signum: int) -> None:
        assert (pid, signum) == (writer.pid, signal.SIGTERM)
        raise PermissionError

    monkeypatch.setattr(stopping.os, "kill", refuse)
    with pytest.raises(RunError, match=r"PL507.*belongs to another user"):
        ask_to_stop(tmp_path / "r")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="PL501"):
        stop_run(tmp_path)
    RunDir.open(tmp_path / "r", "resume", {}).close()
    assert stop_run(tmp_path / "r").phase == "failed"
