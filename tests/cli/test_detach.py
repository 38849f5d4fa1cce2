"""A run that survives its terminal, and one that is stopped with it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from plaudit.cli.detach import detach, take_detach
from plaudit.errors import ConfigError, RunError
from plaudit.runs.rundir import RunDir
from plaudit.runs.stopping import wait_for_end
from tests.cli.test_launch import ENDLESS, Place, is_running


@pytest.fixture
def place(tmp_path: Path, tiny_model_dir: Path) -> Place:
    return Place(tmp_path, tiny_model_dir)


def test_the_option_is_taken_out() -> None:
    assert take_detach(["a.yaml", "--detach", "--beta", "1"]) == (True, ["a.yaml", "--beta", "1"])
    assert take_detach(["a.yaml"]) == (False, ["a.yaml"])
    with pytest.raises(ConfigError, match=r"PL102.*takes no value"):
        take_detach(["--detach=yes"])


def test_mistakes_are_said_before_anything_starts(
    tmp_path: Path, tiny_model_dir: Path, preference_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rest = ["--model", str(tiny_model_dir), "--data", str(preference_file), "--output-dir", "run"]
    with pytest.raises(ConfigError, match="PL100"):
        detach("dpo", [*rest, "--bta", "1"])
    with pytest.raises(ConfigError, match="PL102"):
        detach("dpo", [*rest, "--processes", "no"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="another launcher"):
        detach("dpo", rest)
    monkeypatch.delenv("WORLD_SIZE")
    assert not Path("run").exists()
    with RunDir.open("run", "resume", {"method": {"name": "dpo"}}), pytest.raises(RunError, match="PL503"):
        detach("dpo", rest)
    assert not Path("run/console.log").exists()


def test_a_complete_run_is_not_started_again(
    tmp_path: Path,
    tiny_model_dir: Path,
    preference_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with RunDir.open("run", "resume", {}) as run:
        run.mark_complete({})
    assert detach("dpo", ["--model", str(tiny_model_dir), "--data", str(preference_file), "--output-dir", "run"]) == 0
    assert "the run is already complete" in capsys.readouterr().out
    assert not Path("run/console.log").exists()


def test_detached_watched_stopped_and_gone_on_with(place: Place) -> None:
    """The whole life of a detached run, with real processes; the watcher comes before the run."""
    watcher = subprocess.Popen(
        [sys.executable, "-m", "plaudit", "watch", "run"],
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    status, out, err = place.run("dpo", "--output-dir", "run", *ENDLESS, "--detach")
    run = place.folder / "run"
    assert (status, err) == (0, "")
    assert f"run directory: {run}\n" in out
    assert "plaudit watch run\n" in out
    assert "plaudit runs stop run\n" in out
    pid = int(out.split("process: ")[1].split(",")[0])
    assert os.getsid(pid) == pid, "it has a session of its own"
    while len(place.steps("run")) < 3:
        assert is_running(pid)
        time.sleep(0.05)
    stopped = subprocess.run(
        [sys.executable, "-m", "plaudit", "runs", "stop", "run"],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 0, stopped.stderr
    assert f"asked process {pid} to stop" in stopped.stdout
    assert "stopped: by SIGTERM after step " in stopped.stdout
    watched, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 128 + signal.SIGTERM
    told = [int(line.split()[0][5:]) for line in watched.splitlines() if line.startswith("step=")]
    assert told == place.steps("run")
    console = (run / "console.log").read_text()
    assert console.startswith("-- ")
    assert "dpo --output-dir run" in console
    assert "--detach" not in console
    assert console.count("stopped after step") == 1
    assert len(list((run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_one_that_fails_while_it_loads_is_told_here(place: Place) -> None:
    (place.folder / "empty").mkdir()
    place.model = place.folder / "empty"
    status, out, err = place.run("dpo", "--output-dir", "run", "--detach")
    assert status == 2
    assert "[PL301]" in err
    assert "Traceback" not in err
    assert out == f"run directory: {place.folder / 'run'}\n"


@pytest.mark.slow
def test_several_processes_detached_and_stopped(place: Place) -> None:
    status, out, _ = place.run("dpo", "--output-dir", "run", *ENDLESS, "--processes", "2", "--detach")
    assert status == 0
    pid = int(out.split("process: ")[1].split(",")[0])
    started = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    while len(place.steps("run")) < 2:
        assert is_running(pid)
        time.sleep(0.05)
    command = [sys.executable, "-m", "plaudit", "watch", "run", "--stop"]
    done = subprocess.run(command, cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 20
    while any(map(is_running, [pid, *started])) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, [pid, *started]))
    last = json.loads((place.folder / "run" / "ledger.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["signal"]) == ("interrupted", signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("how", ["closed", "nohup"])
def test_a_terminal_that_is_closed_stops_the_run_in_order_unless_it_was_told_to_ignore_that(
    place: Place, processes: int, how: str
) -> None:
    command = [sys.executable, "-m", "plaudit", "dpo", "--model", str(place.model), "--data", "pairs.jsonl"]
    command += ["--output-dir", "run", *ENDLESS, *(["--processes", "2"] if processes > 1 else [])]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        program = ["nohup", *command] if how == "nohup" else command
        os.execvpe(program[0], program, place.environment)
    while len(place.steps("run")) < 3:
        time.sleep(0.02)
        if select.select([terminal], [], [], 0.05)[0]:
            with suppress(OSError):  # under nohup nobody writes there
                os.read(terminal, 4096)
    os.close(terminal)
    if how == "nohup":
        before = len(place.steps("run"))
        while len(place.steps("run")) < before + 5:
            assert is_running(pid)
            time.sleep(0.05)
        os.kill(pid, signal.SIGTERM)
    state = wait_for_end(place.folder / "run", seconds=60)
    _, status = os.waitpid(pid, 0)
    signum = signal.SIGTERM if how == "nohup" else signal.SIGHUP
    assert os.waitstatus_to_exitcode(status) == 128 + signum
    assert (state.phase, state.exit_status) == ("stopped", 128 + signum)
    assert len(list((place.folder / "run" / "checkpoints").iterdir())) == 1
