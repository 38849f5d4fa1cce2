"""`--processes N`: the command as several processes of itself, with one output, one way to stop and one exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plaudit.cli import launch as launch_module
from plaudit.cli.launch import launch, take_processes
from plaudit.errors import ConfigError, TrainingError

ENDLESS = ["--max-steps", "2000", "--groups-per-step", "4", "--checkpoint.every", "100000", "--log.every", "1"]
BROKEN = """
import os, signal
from plaudit.methods.dpo import DPO

class Broken(DPO):
    name = "broken"
    seen = 0

    def loss(self, role, scores, view):
        self.seen += 1
        if self.seen == 3 and os.environ.get("RANK") == "1":
            HOW
        return super().loss(role, scores, view)
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (1, None, [])),
        (["--processes", "3", "x.yaml", "--beta", "1"], (3, "--processes", ["x.yaml", "--beta", "1"])),
        (["a=1", "--gpus=2"], (2, "--gpus", ["a=1"])),
        (["--processes", "1"], (1, "--processes", [])),
    ],
)
def test_the_options_are_taken_out(arguments: list[str], expected: Any) -> None:
    assert take_processes(arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gpus"],
        ["--gpus", "0"],
        ["--gpus", "-1"],
        ["--processes", "two"],
        ["--processes", "2", "--processes", "3"],
        ["--gpus", "2", "--processes", "2"],
    ],
)
def test_no_number_of_processes(arguments: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        take_processes(arguments)
    assert refused.value.code == "PL102"


class Place:
    """A folder with a model and data, where commands are given as in a shell."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        rows = [{"prompt": f"Thing {i}?", "chosen": "It is blue.", "rejected": "No."} for i in range(8)]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        self.environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        self.environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "plaudit", *arguments, "--model", str(self.model), "--data", "pairs.jsonl"]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def steps(self, run: str) -> list[int]:
        file = self.folder / run / "metrics.jsonl"
        return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def place(tmp_path: Path, tiny_model_dir: Path) -> Place:
    return Place(tmp_path, tiny_model_dir)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop_by_ctrl_c(place: Place) -> tuple[list[str], int]:
    """Start a run of two processes with shards and press Ctrl-C after some steps.

    Returns:
        The command, and after which step it was stopped.
    """
    command = ["dpo", "--processes", "2", "--sharding", "fsdp", "--output-dir", "run", *ENDLESS]
    command[command.index("2000")] = "120"
    process = place.start(*command)
    deadline = time.monotonic() + 150
    while len(place.steps("run")) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = children(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, err
    assert err.count("stopped after step") == 1, "one of the two speaks"
    assert "dpo --processes 2 --sharding fsdp --output-dir run" in err
    assert "Traceback" not in err
    assert out.count("step=1 ") == 1
    assert len(started) == 2
    assert not any(map(is_running, started))
    (written,) = (place.folder / "run" / "checkpoints").iterdir()
    assert (written / "state" / ".metadata").exists()
    return command, int(written.name[5:])


def test_stopped_by_ctrl_c(place: Place) -> None:
    _, step = stop_by_ctrl_c(place)
    assert place.steps("run") == list(range(1, step + 1))


@pytest.mark.slow  # that shards go on is tested without the command in test_sharding.py
def test_stopped_by_ctrl_c_and_gone_on_with(place: Place) -> None:
    command, step = stop_by_ctrl_c(place)
    status, out, err = place.run(*command)
    assert (status, err) == (0, "")
    assert f'resumed="after step {step}"' in out
    assert place.steps("run") == list(range(1, 121))
    assert out.count("run directory: ") == 1


@pytest.mark.slow
def test_a_run_to_its_end_speaks_once(place: Place) -> None:
    command = ["sft", "--processes=2", "--output-dir", "run", "--max-steps", "2", "--groups-per-step", "4"]
    (place.folder / "pairs.jsonl").write_text('{"prompt": "a b", "completion": "c d"}\n' * 6, encoding="utf-8")
    status, out, err = place.run(*command)
    assert (status, err) == (0, "")
    assert out.count("run directory: ") == 1
    assert json.loads((place.folder / "run" / "environment.json").read_text())["processes"] == 2
    # An error that both processes have is said once too.
    status, _, err = place.run(*command, "run.if_exists=fail")
    assert (status, err.count("PL501")) == (2, 1)


@pytest.mark.parametrize(
    "how",
    ["os.kill(os.getpid(), signal.SIGKILL)", pytest.param("raise ValueError('out of tune')", marks=pytest.mark.slow)],
)
def test_a_process_that_dies_ends_the_others(how: str, place: Place) -> None:
    (place.folder / "broken.py").write_text(BROKEN.replace("HOW", how), encoding="utf-8")
    process = place.start("train", "--method", "broken.py", "--processes", "2", "--output-dir", "run", *ENDLESS)
    deadline = time.monotonic() + 150
    while not place.steps("run") and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - begun < 60
    if "SIGKILL" in how:
        assert process.returncode == 128 + signal.SIGKILL
        assert err == "process 1 of 2 was ended by signal 9 (SIGKILL); the others were stopped\n"
    else:
        assert process.returncode == 1
        assert err.startswith("process 1 of 2 failed:\n")
        assert err.count("Traceback") == 1
        assert err.rstrip().endswith("ValueError: out of tune")


@pytest.mark.parametrize(
    ("exits", "consequences", "first"),
    [
        ({0: 1, 1: -9}, {0}, 1),  # the first one has seen its connection closed
        ({0: -9, 1: 1}, set(), 0),  # both by themselves: the earlier
        ({0: -15, 1: 1}, set(), 1),  # ended because of the other
        ({0: -6, 1: 1}, set(), 1),  # NCCL's watchdog ends those that wait
        ({0: -15, 1: -15}, set(), 0),
    ],
)
def test_the_failure_that_the_others_come_from_is_told(
    exits: dict[int, int], consequences: set[int], first: int
) -> None:
    failures = {rank: SimpleNamespace(exitcode=code, timestamp=rank, local_rank=rank) for rank, code in exits.items()}
    assert launch_module._first(failures, consequences).local_rank == first


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:3"), True),
        (RuntimeError("NCCL communicator was aborted on rank 1"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of tune"), False),
    ],
)
def test_an_error_that_comes_from_another_process(error: Exception, expected: bool) -> None:
    assert launch_module._came_from_another(error) is expected


@pytest.mark.slow
def test_when_the_command_itself_is_killed_its_processes_write_a_checkpoint_and_leave(place: Place) -> None:
    process = place.start("dpo", "--processes", "2", "--output-dir", "run", *ENDLESS)
    while len(place.steps("run")) < 3 and process.poll() is None:
        time.sleep(0.05)
    started = children(process.pid)
    process.kill()
    process.communicate(timeout=60)  # when the last of them has closed the pipes
    deadline = time.monotonic() + 30
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, started))
    assert len(list((place.folder / "run" / "checkpoints").iterdir())) == 1


def test_a_mistake_is_said_once_before_anything_starts(place: Place) -> None:
    status, out, err = place.run("dpo", "--processes", "2", "--bta", "1")
    assert (status, out) == (2, "")
    assert err.count("[PL100]") == 1


@pytest.mark.parametrize(
    ("processes", "option", "environment", "said"),
    [
        (64, "--gpus", {}, "not 64"),
        (2, "--processes", {"WORLD_SIZE": "2"}, "another launcher has started this process already"),
    ],
)
def test_what_cannot_be_started(
    processes: int, option: str, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said) as refused:
        launch(processes, option)
    assert (refused.value.code, refused.value.where) == ("PL102", option)


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under somebody else's launcher: without an address."""
    from plaudit.train.parallel import start_world

    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="MASTER_ADDR") as refused:
        start_world()
    assert refused.value.code == "PL407"
