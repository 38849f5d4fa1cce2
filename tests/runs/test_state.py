"""Where a run stands, and what it has left, read from its directory alone."""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import RunError, TrainingError
from plaudit.runs import jsonl
from plaudit.runs.ledger import last_event
from plaudit.runs.lock import LOCK_NAME, RunLock, is_locked, owner
from plaudit.runs.overview import overview
from plaudit.runs.rundir import RunDir
from plaudit.runs.state import RunState, run_state
from plaudit.runs.summary import find_runs, last_values, list_runs, main_metric, summarise

CONFIG: dict[str, Any] = {
    "method": {"name": "dpo"},
    "model": {"path": "tiny"},
    "train": {"max_steps": 9},
    "eval": {"best_metric": "eval/loss"},
}


def run_at(path: Path, *events: tuple[str, dict[str, Any]], steps: int = 3, **config: Any) -> Path:
    """A run that has logged `steps` steps and then the events."""
    with RunDir.open(path, "resume", {**CONFIG, **config}) as run:
        for step in range(1, steps + 1):
            run.log_metrics(step, {"loss": 1 / step, "rewards/margins": step / 10})
        for event, details in events:
            run.log_event(event, **details)
    return path


class TestState:
    def test_running_while_the_lock_is_held(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            assert run_state(run.path) == RunState("running")
            run.log_event("interrupted", signal=15, step=3)
            assert run_state(run.path) == RunState("running", "about to end")
            assert run_state(run.path, told=True) == RunState("stopped", "by SIGTERM after step 3", 143)

    @pytest.mark.parametrize(
        ("event", "details", "expected"),
        [
            ("interrupted", {"signal": 2, "step": 0}, RunState("stopped", "by SIGINT", 130)),
            ("interrupted", {"signal": 1, "step": 7}, RunState("stopped", "by SIGHUP after step 7", 129)),
            ("interrupted", {"signal": 99}, RunState("stopped", "by signal 99", 227)),
            (
                "stopped",
                {"code": "kl_jump", "step": 5},
                RunState("stopped", "by kl_jump at step 5 (watch.stop)", 3),
            ),
            ("failed", {"code": "PL402", "what": "not finite\nmore"}, RunState("failed", "[PL402] not finite", 2)),
            ("failed", {"code": None, "what": "ValueError: x"}, RunState("failed", "ValueError: x", 1)),
        ],
    )
    def test_the_last_event_says_how_it_ended(
        self, tmp_path: Path, event: str, details: dict[str, Any], expected: RunState
    ) -> None:
        path = run_at(tmp_path / "r", ("checkpoint", {}), (event, details), ("pruned", {}), ("note", {"text": "x"}))
        assert run_state(path) == expected

    def test_finished(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.mark_complete({"steps": 3})
            assert run_state(run.path) == RunState("finished", exit_status=0)

    def test_killed_without_a_word(self, tmp_path: Path) -> None:
        state = run_state(run_at(tmp_path / "r", ("checkpoint", {"step": 2})))
        assert (state.phase, state.exit_status) == ("failed", 1)
        assert "its process is gone" in state.reason
        assert "'checkpoint'" in state.reason

    def test_a_run_of_another_machine_is_not_called_dead(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r")
        (path / LOCK_NAME).write_text("process 4 on elsewhere\n")
        assert "as far as can be seen from here (elsewhere did)" in run_state(path).reason

    def test_an_alert_that_stopped_a_run_still_holds_behind_a_pruning(self, tmp_path: Path) -> None:
        path = run_at(
            tmp_path / "r", ("stopped", {"code": "kl_jump", "step": 3}), ("pruned", {}), watch={"stop": ["kl_jump"]}
        )
        with RunDir.open(path, "resume", {**CONFIG, "watch": {"stop": ["kl_jump"]}}) as run:
            assert run.halted is not None
            assert run.halted["code"] == "kl_jump"

    @pytest.mark.parametrize(
        ("error", "event"),
        [
            (TrainingError("PL402", "not finite"), {"event": "failed", "code": "PL402", "what": "not finite"}),
            (ValueError("x"), {"event": "failed", "code": None, "what": "ValueError: x"}),
            (KeyboardInterrupt(), {"event": "interrupted", "signal": signal.SIGINT, "step": 0}),
        ],
    )
    def test_what_ended_a_run_is_recorded_unless_it_was_complete(
        self, tmp_path: Path, error: BaseException, event: dict[str, Any]
    ) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.log_failure(error)
            last = last_event(run.path / "ledger.jsonl")
            assert {k: last[k] for k in event} == event
            run.mark_complete({})
            run.log_failure(error)
            assert last_event(run.path / "ledger.jsonl")["event"] == "completed"


class TestOwner:
    def test_who_holds_the_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert owner(tmp_path) is None
        lock = RunLock(tmp_path)
        found = owner(tmp_path)
        assert found is not None
        assert (found.pid, found.host, found.launcher) == (os.getpid(), socket.gethostname(), None)
        assert found.is_here
        lock.release()
        monkeypatch.setenv("PLAUDIT_LAUNCHER", "77")
        lock = RunLock(tmp_path)
        assert owner(tmp_path).launcher == 77  # type: ignore[union-attr]
        with pytest.raises(RunError, match=rf"process {os.getpid()} on \S+ \(started by process 77\)"):
            RunLock(tmp_path)
        lock.release()

    def test_a_look_at_the_lock_keeps_no_run_from_starting(self, tmp_path: Path) -> None:
        """`is_locked` holds a shared lock for a moment; whoever starts then must not be told that the run is taken."""
        import fcntl
        import threading

        (tmp_path / LOCK_NAME).touch()
        looking = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, os.close, [looking]).start()
        lock = RunLock(tmp_path)
        assert is_locked(tmp_path)
        assert owner(tmp_path).pid == os.getpid()  # type: ignore[union-attr]
        lock.release()
        assert not is_locked(tmp_path)


class TestClaim:
    def test_new_directories_are_given_once(self, tmp_path: Path) -> None:
        first, second = (RunDir.claim(tmp_path / "r", "new") for _ in range(2))
        assert (first.name, second.name) == ("r", "r-2")
        with RunDir.open(tmp_path / "r", "new", CONFIG) as other:
            assert other.path.name == "r-3"
        with RunDir.open(first, "resume", CONFIG) as run:
            assert run.path == first
            assert not run.resumed

    def test_what_open_refuses_is_refused(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG), pytest.raises(RunError, match="PL503"):
            RunDir.claim(tmp_path / "r", "resume")
        with pytest.raises(RunError, match=r"PL501.*already holds a run"):
            RunDir.claim(tmp_path / "r", "fail")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.tex").touch()
        with pytest.raises(RunError, match=r"PL501.*holds no run"):
            RunDir.claim(tmp_path / "other", "resume")


class TestSummary:
    def test_a_run_in_a_line(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r", ("interrupted", {"signal": 15, "step": 3}))
        jsonl.append_line(path / "metrics.jsonl", jsonl.dumps({"step": 3, "eval/rewards/margins": 0.25}))
        found = summarise(path)
        assert (found.method, found.model, found.state.phase) == ("dpo", "tiny", "stopped")
        assert (found.step, found.total_steps, found.loss) == (3, 9, 1 / 3)
        assert (found.metric, found.metric_value) == ("eval/rewards/margins", 0.25)
        assert found.bytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        assert found.started is not None
        assert abs((datetime.now(UTC) - found.started).total_seconds()) < 60
        assert found.as_dict()["state"] == "stopped"
        jsonl.dumps(found.as_dict())

    def test_the_plan_knows_the_steps_better_than_the_configuration(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r")
        with RunDir.open(path, "resume", CONFIG) as run:
            run.write_plan({"model": "tiny", "learning rate": 1e-5, "odd": [Path("x")]}, 40)
        assert summarise(path).total_steps == 40

    def test_runs_are_found_at_any_depth_and_nothing_else(self, tmp_path: Path) -> None:
        for name in ("b", "a/deep/run", ".hidden/run", "a/deep/run/inside"):
            run_at(tmp_path / name)
        (tmp_path / "no-run").mkdir()
        (tmp_path / "no-run" / "config.yaml").write_text("model: x\n")
        (tmp_path / "link").symlink_to(tmp_path / "b")
        assert [str(p.relative_to(tmp_path)) for p in find_runs(tmp_path)] == ["a/deep/run", "b"]
        assert [run.name for run in list_runs(tmp_path)] == ["a/deep/run", "b"]
        assert [run.name for run in list_runs(tmp_path / "b")] == ["b"]
        with pytest.raises(RunError, match="PL501"):
            list_runs(tmp_path / "gone")

    def test_a_damaged_run_is_listed_with_what_is_wrong(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r")
        (path / "config.yaml").write_text("{")
        (path / "metrics.jsonl").write_text("no json\n")
        (found,) = list_runs(tmp_path)
        assert "[PL504]" in found.state.reason
        assert (found.method, found.step) == ("?", None)

    def test_last_values_are_read_from_the_end_back_to_an_evaluation(self, tmp_path: Path) -> None:
        file = tmp_path / "metrics.jsonl"
        lines = [{"step": 0, "eval/loss": 9.0}] + [{"step": s, "loss": 1.0, "x": "y" * 100} for s in range(1, 3000)]
        lines = [{k: v for k, v in line.items() if k != "x"} | {f"pad{i}": 0.0 for i in range(5)} for line in lines]
        file.write_text("".join(jsonl.dumps(line) + "\n" for line in lines) + '{"step": 5000, "lo')
        assert file.stat().st_size > 1 << 16
        found = last_values(file)
        assert found["loss"] == (2999, 1.0)
        assert found["eval/loss"] == (0, 9.0)

    @pytest.mark.parametrize(
        ("logged", "best", "expected"),
        [
            (["loss", "rewards/margins", "eval/rewards/accuracies"], "eval/loss", "eval/rewards/accuracies"),
            (["loss", "reward", "rewards/margins"], None, "reward"),
            (["loss", "eval/gold", "reward"], "eval/gold", "eval/gold"),
            (["loss", "eval/loss"], "eval/loss", "eval/loss"),
            (["loss", "grad_norm"], None, None),
        ],
    )
    def test_the_main_metric(self, logged: list[str], best: str | None, expected: str | None) -> None:
        assert main_metric(dict.fromkeys(logged), {"eval": {"best_metric": best}}) == expected

    def test_time_between_two_parts_does_not_count(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r")
        start = datetime(2026, 1, 1, tzinfo=UTC)
        told = [(0, "started"), (60, "checkpoint"), (5000, "resumed"), (5030, "interrupted"), (9000, "pruned")]
        (path / "ledger.jsonl").write_text(
            "".join(
                jsonl.dumps({"time": (start + timedelta(seconds=s)).isoformat(), "event": e, "signal": 15}) + "\n"
                for s, e in told
            )
        )
        assert summarise(path).seconds == 90


class TestOverview:
    def test_everything_of_a_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        path = run_at(tmp_path / "r", ("interrupted", {"signal": 15, "step": 3}))
        environment = jsonl.loads((path / "environment.json").read_text())
        environment |= {"argv": ["/bin/plaudit", "dpo", "--data", "my pairs.jsonl"], "working_directory": "/elsewhere"}
        (path / "environment.json").write_text(jsonl.dumps(environment))
        for name in ("model", "best", "kl-4", "checkpoints/step-00000002", "checkpoints/step-00000003"):
            (path / name).mkdir()
            (path / name / "weights").write_bytes(b"x" * 10)
        (path / "checkpoints" / "step-00000003" / "progress.json").write_text('{"best_step": 2}')
        file = {"path": "a", "dropped": {"no_signal": ["a:1", "a:2"]}, "truncated": {"prompt": {"count": 4}}}
        (path / "data_report.json").write_text(jsonl.dumps({"train": {"rows": 1200, "files": [file]}}))
        found = overview(path)
        assert [(f.name, size) for f, size in found.models] == [("model", 10), ("best", 10), ("kl-4", 10)]
        assert [c.step for c in found.checkpoints] == [2, 3]
        assert found.best_step == 2
        assert found.data == ["train: 1,200 rows", "train: dropped: 2 no_signal", "train: truncated: 4 prompt"]
        assert found.go_on[0] == ("go on with it", "cd /elsewhere && plaudit dpo --data 'my pairs.jsonl'")
        assert [row.name for row in found.metrics] == ["loss", "rewards/margins"]
        jsonl.dumps(found.as_dict())

    def test_a_running_one_is_watched_or_stopped(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            assert [what for what, _ in overview(run.path).go_on] == ["watch it", "stop it"]
            assert overview(run.path).summary.seconds < 60

    def test_without_the_command_the_configuration_goes_on(self, tmp_path: Path) -> None:
        path = run_at(tmp_path / "r")
        (what, command), *_ = overview(path).go_on
        assert what == "mend it, and go on"
        assert command == f"plaudit train {path}/config.yaml run.dir={path} run.if_exists=resume"


def test_times_are_utc(tmp_path: Path) -> None:
    """A machine far from Greenwich shows the same ledger as the same moment."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Auckland"
    time.tzset()
    try:
        started = summarise(run_at(tmp_path / "r")).started
        assert started is not None
        assert abs((datetime.now(UTC) - started).total_seconds()) < 60
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()
