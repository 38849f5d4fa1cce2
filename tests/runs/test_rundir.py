from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import RunError
from plaudit.runs import jsonl, ledger
from plaudit.runs.alerts import Alert
from plaudit.runs.lock import is_locked
from plaudit.runs.rundir import RunDir, read_config

CONFIG: dict[str, Any] = {
    "model": {"path": "tiny", "added_tokens": ()},
    "method": {"name": "dpo", "beta": 0.1},
    "data": {"train": [{"path": "a.jsonl", "weight": 1.0}]},
    "train": {"learning_rate": 1e-5, "betas": (0.9, 0.999)},
    "log": {"every": 1},
    "run": {"dir": None},
}


def changed(**sections: Any) -> dict[str, Any]:
    return {**CONFIG, **sections}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fresh_run_has_all_its_parts(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "a" / "run", "resume", CONFIG) as run:
        assert not run.resumed
        assert not run.is_complete
        run.log_metrics(1, {"loss": 0.5, "grad_norm": math.nan})
        run.log_samples(1, [{"prompt": "p", "completion": "c\nd \ud83d\ude00"}])
        run.log_alert(Alert("warn", "x", "m", "a", 1))
        run.log_event("checkpoint", step=1)
        run.write_data_report({"dropped": {"empty": 3}})
        run.add_environment({"device": "cpu"})
        run.mark_complete({"steps": 1})
        assert run.is_complete
        assert run.summary == {"steps": 1}
        path = run.path
    assert lines(path / "metrics.jsonl") == [{"step": 1, "loss": 0.5, "grad_norm": {"$float": "nan"}}]
    assert math.isnan(jsonl.read_lines(path / "metrics.jsonl")[0]["grad_norm"])
    assert lines(path / "alerts.jsonl")[0]["code"] == "x"
    environment = json.loads((path / "environment.json").read_text())
    assert environment["device"] == "cpu"
    assert environment["packages"]["numpy"]
    assert {"python", "platform", "cpu_count", "variables", "git", "argv"} <= environment.keys()
    assert [e["event"] for e in lines(path / "ledger.jsonl")] == ["started", "checkpoint", "completed"]
    assert (path / "checkpoints").is_dir()


def test_the_same_configuration_resumes(tmp_path: Path) -> None:
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        assert run.resumed
        assert run.notes == []
    assert [e["event"] for e in lines(tmp_path / "r" / "ledger.jsonl")] == ["started", "resumed"]


def test_free_keys_may_change_and_are_recorded(tmp_path: Path) -> None:
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()
    with RunDir.open(tmp_path / "r", "resume", changed(log={"every": 5})) as run:
        assert run.notes == ["configuration changed: log.every: was 1, now 5"]
        run.log_metrics(1, {"loss": 1.0})
    assert "every: 5" in (tmp_path / "r" / "config.yaml").read_text()
    with pytest.raises(RunError, match="PL502"):
        RunDir.open(tmp_path / "r", "resume", changed(log={"every": 9}), free_keys=("run.*",))


def test_before_anything_was_computed_the_command_may_be_mended(tmp_path: Path) -> None:
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()  # and then the data has an error, say
    other = changed(method={"name": "dpo", "beta": 0.2})
    with RunDir.open(tmp_path / "r", "resume", other) as run:
        assert run.notes == ["configuration changed: method.beta: was 0.1, now 0.2"]
        assert read_config(run.path)["method"]["beta"] == 0.2
        (run.checkpoints / "step-00000001").mkdir()
    with pytest.raises(RunError, match="PL502"):
        RunDir.open(tmp_path / "r", "resume", CONFIG)


def test_a_section_that_comes_or_goes_is_one_difference(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", changed(lora={"r": 8, "alpha": 16.0})) as run:
        run.log_metrics(1, {"loss": 1.0})
    with pytest.raises(RunError) as caught:
        RunDir.open(tmp_path / "r", "resume", changed(lora=None))
    assert [line for line in str(caught.value).splitlines() if "lora" in line] == [
        f"    lora: was {jsonl.dumps({'r': 8, 'alpha': 16.0})}, now null"
    ]


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(RunError, match=r"PL501\] this is no directory"):
        RunDir.open(tmp_path / "r", "resume", CONFIG)


def test_a_different_configuration_is_refused_with_every_key(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        run.log_metrics(1, {"loss": 1.0})
    other = changed(method={"name": "dpo", "beta": 0.2, "rpo_alpha": 1.0}, data={"train": [{"path": "b.jsonl"}]})
    with pytest.raises(RunError) as caught:
        RunDir.open(tmp_path / "r", "resume", other)
    text = str(caught.value)
    assert caught.value.code == "PL502"
    assert "method.beta: was 0.1, now 0.2" in text
    assert "method.rpo_alpha: was (not set), now 1.0" in text
    assert 'data.train.0.path: was "a.jsonl", now "b.jsonl"' in text
    assert "data.train.0.weight: was 1.0, now (not set)" in text
    assert "run.if_exists=new" in text
    # The refusal changed nothing and gave the lock back.
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()


def test_fail_and_new(tmp_path: Path) -> None:
    RunDir.open(tmp_path / "r", "fail", CONFIG).close()
    with pytest.raises(RunError, match=r"PL501.*already holds a run"):
        RunDir.open(tmp_path / "r", "fail", CONFIG)
    with RunDir.open(tmp_path / "r", "new", CONFIG) as second:
        assert second.path == tmp_path / "r-2"
        with RunDir.open(tmp_path / "r", "new", CONFIG) as third:
            assert third.path == tmp_path / "r-3"


def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"PL501.*holds no run"):
        RunDir.open(tmp_path, "resume", CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="PL505"):
        RunDir.open(tmp_path / "thesis.tex" / "run", "resume", CONFIG)


def test_truncation_after_a_checkpoint(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        for step in range(1, 5):
            run.log_metrics(step, {"loss": 1.0 / step})
            run.log_samples(step, [{"prompt": "p", "completion": "c"}])
            run.log_alert(Alert("info", "x", "m", "a", step))
        run.log_metrics(2, {"eval/loss": 0.4})
        assert run.truncate_after(3) == 3
        assert run.truncate_after(3) == 0
        assert run.truncate_after(2) == 3
        assert lines(run.path / "metrics.jsonl")[-1] == {"step": 2, "eval/loss": 0.4}
        # A checkpoint written before the evaluation of its step: that evaluation is done again.
        assert run.truncate_after(2, evaluated=False) == 2
        assert lines(run.path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
        assert run.truncate_after(-1) == 5


def test_a_half_written_line_is_dropped_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        run.log_metrics(1, {"loss": 1.0})
        run.log_metrics(2, {"loss": 2.0})
    metrics = tmp_path / "r" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-8])
    with (tmp_path / "r" / "ledger.jsonl").open("a") as stream:
        stream.write('{"time": "2026')
    assert jsonl.read_lines(metrics) == [{"step": 1, "loss": 1.0}]
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        assert run.notes == [
            "metrics.jsonl: dropped a half-written last line",
            "ledger.jsonl: dropped a half-written last line",
        ]
        run.log_metrics(2, {"loss": 3.0})
    assert [line["loss"] for line in lines(metrics)] == [1.0, 3.0]
    assert ledger.verify_ledger(tmp_path / "r" / "ledger.jsonl").ok
    metrics.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"PL504") as caught:
        jsonl.read_lines(metrics)
    assert caught.value.where == f"{metrics}:2"


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}')
    assert jsonl.repair(file) == "m.jsonl: ended the last line"
    assert len(lines(file)) == 2


def test_a_lone_surrogate_in_a_sample_is_written(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        run.log_samples(1, [{"prompt": "p", "completion": "broken \ud800 text"}])
    assert jsonl.read_lines(tmp_path / "r" / "samples.jsonl")[0]["completion"] == "broken \ud800 text"


def test_full_disk(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        (run.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunError, match="No space left") as caught:
            run.log_metrics(1, {"loss": 1.0})
    assert caught.value.code == "PL505"
    assert "free some space" in str(caught.value)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory that everybody can read and nobody but root can write, used as somebody else."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "r").mkdir()
        if os.geteuid() != 0:
            (path / "r").chmod(0o555)
            path.chmod(0o555)
            yield path
            path.chmod(0o755)
        else:
            os.seteuid(65534)
            try:
                yield path
            finally:
                os.seteuid(0)


@pytest.mark.parametrize("name", ["r", "not/there"])
def test_a_directory_that_cannot_be_written(unprivileged: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"PL505.*Permission denied") as caught:
        RunDir.open(unprivileged / name, "resume", CONFIG)
    assert "run.dir" in str(caught.value)


WRITER = r"""
import json, os, sys, time
from plaudit.runs.rundir import RunDir, read_config
run = RunDir.open(sys.argv[1], "resume", json.loads(sys.argv[2]))
if len(sys.argv) > 3 and os.fork() == 0:
    os.write(1, f"{os.getpid()}\n".encode())
    os.close(1)
    time.sleep(60)
    os._exit(0)
os.write(1, b"ready\n")
step = 0
while True:
    step += 1
    run.log_metrics(step, {f"m{i}": float(i) for i in range(200)})
    run.log_event("checkpoint", step=step)
"""


def test_two_writers_and_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "r"), json.dumps(CONFIG), "fork"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child: int | None = None
    try:
        words = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        child = int((words - {"ready"}).pop())
        assert is_locked(tmp_path / "r")
        with pytest.raises(RunError, match=rf"PL503.*process {process.pid}"):
            RunDir.open(tmp_path / "r", "resume", CONFIG)
        with RunDir.open(tmp_path / "r", "new", CONFIG) as other:
            assert other.path == tmp_path / "r-2"
        while len(jsonl.read_lines(tmp_path / "r" / "metrics.jsonl")) < 3:
            assert process.poll() is None
        process.kill()
        process.wait()
        # The forked child lives on and must not keep the lock.
        os.kill(child, 0)
        assert not is_locked(tmp_path / "r")
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            assert run.resumed
            steps = [line["step"] for line in jsonl.read_lines(run.path / "metrics.jsonl")]
            assert steps == list(range(1, len(steps) + 1))
            assert ledger.verify_ledger(run.path / "ledger.jsonl").ok
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if child is not None:
            os.kill(child, signal.SIGKILL)


def test_a_complete_run_is_left_alone(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        run.mark_complete({"loss": math.nan})
    before = {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file() and p.name != ".lock"}
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as again:
        assert again.is_complete
        assert math.isnan(again.summary["loss"])
    assert {p.name: p.read_bytes() for p in run.path.iterdir() if p.is_file() and p.name != ".lock"} == before


def test_a_change_of_the_environment_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
        assert len(run.notes) == 1
        assert run.notes[0].startswith("OMP_NUM_THREADS: 1 → 2")
    assert lines(tmp_path / "r" / "ledger.jsonl")[-1]["notes"] == run.notes


def test_secrets_in_the_environment_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    RunDir.open(tmp_path / "r", "resume", CONFIG).close()
    assert "s3cret" not in (tmp_path / "r" / "environment.json").read_text()


class TestLedger:
    def make(self, path: Path) -> Path:
        file = path / "ledger.jsonl"
        for number in range(4):
            ledger.append_event(file, "checkpoint", {"step": number})
        return file

    def test_an_intact_chain(self, tmp_path: Path) -> None:
        file = self.make(tmp_path)
        check = ledger.verify_ledger(file)
        assert check.ok
        assert check.head == ledger.head(file) == check.hashes[-1]
        assert [e["step"] for e in check.events] == [0, 1, 2, 3]

    @pytest.mark.parametrize("victim", [0, 1, 2])
    def test_a_changed_or_removed_line_is_found(self, tmp_path: Path, victim: int) -> None:
        file = self.make(tmp_path)
        original = file.read_text().splitlines()
        edited = [*original]
        edited[victim] = edited[victim].replace('"step": ', '"step": 7')
        file.write_text("\n".join(edited) + "\n")
        problem = ledger.verify_ledger(file).problem
        assert problem is not None
        assert f"line {victim + 2} does not follow" in problem
        file.write_text("\n".join(original[:victim] + original[victim + 1 :]) + "\n")
        assert not ledger.verify_ledger(file).ok

    def test_a_cut_tail_is_found_by_the_hash_in_complete(self, tmp_path: Path) -> None:
        file = self.make(tmp_path)
        head = ledger.head(file)
        assert ledger.verify_ledger(file, expected=head).ok
        file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
        assert ledger.verify_ledger(file).ok  # the chain alone cannot see it
        assert not ledger.verify_ledger(file, expected=head).ok

    def test_no_ledger(self, tmp_path: Path) -> None:
        assert ledger.verify_ledger(tmp_path / "ledger.jsonl").problem == "there is no ledger"
