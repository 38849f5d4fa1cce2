"""Following a run that another process writes, and what is shown of it."""

from __future__ import annotations

import io
import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from plaudit.errors import RunError
from plaudit.runs import jsonl
from plaudit.runs.alerts import Alert
from plaudit.runs.follow import Follower, Tail
from plaudit.runs.interface import watch_run
from plaudit.runs.rundir import RunDir
from plaudit.runs.sparkline import sparkline
from plaudit.runs.watch_view import WatchView
from plaudit.runs.watching import Watch

CONFIG: dict[str, Any] = {"method": {"name": "dpo"}, "model": {"path": "tiny"}}


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


class TestTail:
    def test_a_line_counts_when_its_end_is_written(self, tmp_path: Path) -> None:
        tail = Tail(tmp_path / "f")
        assert tail.read() == (0, [])
        append(tmp_path / "f", '{"step": 1}\n{"ste')
        assert tail.read() == (0, [{"step": 1}])
        assert tail.read() == (1, [])
        append(tmp_path / "f", 'p": 2, "t": "ü\\n"}')
        assert tail.read() == (1, [])
        append(tmp_path / "f", "\n")
        assert tail.read() == (1, [{"step": 2, "t": "ü\n"}])
        tail.close()

    def test_a_half_line_that_is_cut_off_was_never_told(self, tmp_path: Path) -> None:
        tail = Tail(tmp_path / "f")
        append(tmp_path / "f", '{"step": 1}\n{"step": 22222')
        assert tail.read() == (0, [{"step": 1}])
        jsonl.repair(tmp_path / "f")
        append(tmp_path / "f", '{"step": 3}\n')
        assert tail.read() == (1, [{"step": 3}])
        tail.close()

    def test_lines_that_a_resumed_run_takes_back(self, tmp_path: Path) -> None:
        file = tmp_path / "f"
        tail = Tail(file)
        for step in range(1, 6):
            append(file, f'{{"step": {step}}}\n')
        assert len(tail.read()[1]) == 5
        jsonl.keep_lines(file, lambda line: line["step"] <= 3)
        assert tail.read() == (3, [])
        append(file, '{"step": 4, "again": true}\n')
        assert tail.read() == (3, [{"step": 4, "again": True}])
        # The same between two looks: it is longer than before, and yet another file.
        jsonl.keep_lines(file, lambda line: line["step"] <= 1)
        for step in range(2, 9):
            append(file, f'{{"step": {step}, "third": true}}\n')
        held, fresh = tail.read()
        assert (held, [line["step"] for line in fresh]) == (1, [2, 3, 4, 5, 6, 7, 8])
        tail.close()

    def test_an_equal_file_in_its_place_is_no_news(self, tmp_path: Path) -> None:
        file = tmp_path / "f"
        tail = Tail(file)
        append(file, '{"step": 1}\n')
        tail.read()
        jsonl.write_atomically(file, file.read_text())
        assert tail.read() == (1, [])
        tail.close()

    def test_a_damaged_line_is_an_error_with_its_number(self, tmp_path: Path) -> None:
        append(tmp_path / "f", '{"step": 1}\n')
        tail = Tail(tmp_path / "f")
        tail.read()
        append(tmp_path / "f", "no json\n")
        with pytest.raises(RunError, match=r"PL504(.|\n)*f:2"):
            tail.read()
        tail.close()


class TestFollower:
    def test_from_nothing_to_the_end(self, tmp_path: Path) -> None:
        follower = Follower(tmp_path / "r")
        assert follower.look().state is None
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.write_plan({"model": "tiny"}, 5)
            run.log_metrics(1, {"loss": 1.0})
            run.log_samples(1, [{"prompt": "p", "completion": "c"}])
            run.log_alert(Alert("warn", "x", "m", "a", 1))
            news = follower.look()
            assert news.plan == {"total_steps": 5, "plan": {"model": "tiny"}, "facts": {}}
            assert [kind for kind, _ in news.lines] == ["metrics", "samples", "alerts"]
            assert [e["event"] for e in news.events] == ["started"]
            assert not news.ended
            assert follower.look().plan is None
            run.log_metrics(2, {"loss": 0.5})
            run.mark_complete({"steps": 2})
        news = follower.look()
        assert news.ended
        assert [line["step"] for _, line in news.lines] == [2]
        follower.close()

    def test_a_resumed_run_goes_back(self, tmp_path: Path) -> None:
        follower = Follower(tmp_path / "r")
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            for step in range(1, 6):
                run.log_metrics(step, {"loss": 1.0})
        assert follower.look().rewound is None
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.truncate_after(2)
            run.log_metrics(3, {"loss": 2.0})
            news = follower.look()
        assert news.rewound == 2
        assert [line["loss"] for _, line in news.lines] == [2.0]
        follower.close()

    def test_files_that_are_taken_back_between_two_looks_do_not_take_metrics_with_them(self, tmp_path: Path) -> None:
        """A resumed run replaces one file behind the other. What was told of the metrics is not told again."""
        follower = Follower(tmp_path / "r")
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            for step in range(1, 10):
                run.log_metrics(step, {"loss": 1.0})
            for step in (2, 9):
                run.log_samples(step, [{"prompt": "p"}])
        follower.look()
        jsonl.keep_lines(tmp_path / "r" / "metrics.jsonl", lambda line: line["step"] <= 6)
        assert follower.look().rewound == 6
        jsonl.keep_lines(tmp_path / "r" / "samples.jsonl", lambda line: line["step"] <= 6)
        news = follower.look()
        assert (news.rewound, news.lines) == (None, [])
        follower.close()


class Writer(threading.Thread):
    """Carries out a run beside the test, step by step with small pauses."""

    def __init__(self, path: Path, work: Callable[[RunDir], None], delay: float = 0.0) -> None:
        super().__init__()
        self.path, self.work, self.delay = path, work, delay
        self.start()

    def run(self) -> None:
        time.sleep(self.delay)
        with RunDir.open(self.path, "resume", CONFIG) as run:
            self.work(run)


def train(first: int, last: int, *, done: bool) -> Callable[[RunDir], None]:
    def work(run: RunDir) -> None:
        run.write_plan({"method": "DPO (dpo)", "model": "tiny"}, 6)
        run.truncate_after(first - 1)
        for step in range(first, last + 1):
            text = jsonl.dumps({"step": step, "loss": 1.0 / step, "step_seconds": 0.1})
            append(run.path / "metrics.jsonl", text[:9])
            time.sleep(0.03)
            append(run.path / "metrics.jsonl", text[9:] + "\n")
        if done:
            run.mark_complete({"steps": last})
        else:
            run.log_event("interrupted", signal=15, step=last)

    return work


def steps_in(text: str) -> list[int]:
    return [int(line.split()[0][5:]) for line in text.splitlines() if line.startswith("step=")]


class TestWatch:
    def test_a_pipe_gets_a_line_for_each_step_and_how_it_ended(self, tmp_path: Path) -> None:
        """The run starts later than the watching, and its lines are caught half-written."""
        out = io.StringIO()
        writer = Writer(tmp_path / "r", train(1, 6, done=True), delay=0.1)
        state = Watch(tmp_path / "r", out, look=0.01).follow()
        writer.join()
        text = out.getvalue()
        assert (state.phase, state.exit_status) == ("finished", 0)
        assert text.startswith('note text="waiting for a run in')
        assert text.count("waiting for a run") == 1
        assert 'plan model="tiny"' in text
        assert steps_in(text) == [1, 2, 3, 4, 5, 6]
        assert "step=3 total=6 loss=0.333333" in text
        assert text.splitlines()[-1].startswith('note text="finished; plaudit runs show ')

    def test_it_stays_for_a_run_that_is_gone_on_with(self, tmp_path: Path) -> None:
        out = io.StringIO()
        first = Writer(tmp_path / "r", train(1, 4, done=False))
        first.join()
        second = Writer(tmp_path / "r", train(3, 6, done=True), delay=0.15)
        state = Watch(tmp_path / "r", out, wait=True, look=0.01).follow()
        second.join()
        text = out.getvalue()
        assert state.phase == "finished"
        assert steps_in(text) == [1, 2, 3, 4, 3, 4, 5, 6]
        assert text.count("stopped: by SIGTERM after step 4; waiting for somebody to go on with it") == 1
        assert text.count("the run has gone back to step 2 and goes on from there") == 1
        assert text.count("a process goes on with the run") == 1

    def test_without_waiting_it_ends_with_the_run(self, tmp_path: Path) -> None:
        Writer(tmp_path / "r", train(1, 2, done=False)).join()
        out = io.StringIO()
        state = Watch(tmp_path / "r", out, look=0.01).follow()
        assert state.exit_status == 143
        assert "stopped: by SIGTERM after step 2; the same command goes on with it" in out.getvalue()

    def test_alerts_evaluations_samples_and_notes_are_told(self, tmp_path: Path) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.log_event("note", text="the parity probe agrees")
            run.log_metrics(1, {"loss": 1.0})
            run.log_metrics(1, {"eval/loss": 2.0})
            run.log_samples(1, [{"prompt": "p", "completion": "c"}])
            run.log_alert(Alert("warn", "flat", "it is flat", "do this", 1))
            run.mark_complete({})
        out = io.StringIO()
        Watch(tmp_path / "r", out, look=0.01).follow()
        lines = out.getvalue().splitlines()
        assert lines[:5] == [
            'note text="the parity probe agrees"',
            "step=1 loss=1",
            "eval step=1 eval/loss=2",
            'sample step=1 prompt="p" completion="c"',
            'alert level=warn code=flat step=1 message="it is flat" advice="do this"',
        ]

    def test_time_left_comes_from_the_log_until_steps_come_in(self, tmp_path: Path) -> None:
        """Read in one go, a hundred logged steps are not a hundred steps per millisecond."""
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.write_plan({}, 1000)
            for step in range(10, 501, 10):
                run.log_metrics(step, {"loss": 1.0, "step_seconds": 2.0})
            run.log_event("interrupted", signal=15, step=500)
        out = io.StringIO()
        Watch(tmp_path / "r", out, look=0.01).follow()
        (last,) = [line for line in out.getvalue().splitlines() if line.startswith("step=500 ")]
        assert last.endswith("eta=16m40s")  # 500 steps of 2 s

    def test_on_a_terminal_there_is_a_picture(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RunDir.open(tmp_path / "r", "resume", CONFIG) as run:
            run.write_plan({"method": "DPO (dpo)", "model": "tiny"}, 60)
            for step in range(1, 41):
                run.log_metrics(step, {"loss": 1 - step / 50, "rewards/margins": step / 40})
            run.log_samples(40, [{"prompt": "Why?", "completion": "\x1b[2Jbecause", "reward": 0.5}])
            run.log_alert(Alert("warn", "flat", "it is flat", "do this", 20))
            run.log_event("interrupted", signal=15, step=40)
        out = _Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.chdir(tmp_path)  # a line with a long path is broken
        state = Watch(Path("r"), out, look=0.01).follow()
        assert state.phase == "stopped"
        text = out.getvalue()
        assert "DPO (dpo)  tiny" in text
        assert "40" in text
        assert "67 %" in text
        for curve in ("█▇▇▆", "▁▁▁▂"):
            assert curve[0] * 2 in text
        assert "from 0.98, better" in text
        assert "warn at step 20: " in text
        assert "→ do this" in text
        assert "Why?" in text
        assert "\x1b[2J" not in text
        assert "stops it" in text


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestView:
    def picture(self, *tell: Callable[[WatchView], None], width: int = 100) -> str:
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=True, color_system=None)
        view = WatchView(console, "runs/x", "leave", time.monotonic)
        for call in tell:
            call(view)
        with view:
            view.show("running")
        return out.getvalue()

    def test_before_the_first_step(self) -> None:
        assert "no step has been logged yet" in self.picture()

    def test_without_a_total_there_is_no_time_left(self) -> None:
        text = self.picture(lambda v: v.on_step(7, 0, {"loss": 1.0}))
        assert "step 7" in text
        assert "%" not in text

    def test_what_was_taken_back_is_forgotten(self) -> None:
        text = self.picture(
            lambda v: [v.on_step(s, 9, {"loss": float(s)}) for s in range(1, 9)],  # type: ignore[func-returns-value]
            lambda v: v.on_samples(8, [{"prompt": "taken back"}]),
            lambda v: v.rewind(2),
        )
        assert "▁█" in text
        assert "▃" not in text
        assert "taken back" not in text

    def test_it_fits_a_narrow_terminal(self) -> None:
        many = dict.fromkeys(("loss", "rewards/margins", "rewards/accuracies", "grad_norm", "tokens_per_second"), 1.0)
        text = self.picture(lambda v: v.on_step(7, 9, many), width=60)
        lines = re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", text).splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 60


class TestSparkline:
    def test_a_rising_curve_rises(self) -> None:
        assert sparkline([(s, float(s)) for s in range(8)], 8) == "▁▂▃▄▅▆▇█"

    def test_means_over_stretches_of_steps_not_of_points(self) -> None:
        points = [(0, 0.0), (1, 0.0), (2, 0.0), (99, 8.0)]
        assert sparkline(points, 4) == "▁▁▁█"

    def test_flat_empty_single_and_not_finite(self) -> None:
        assert sparkline([(1, 2.0), (2, 2.0)], 9) == "▄▄"
        assert sparkline([], 9) == ""
        assert sparkline([(5, 1.0)], 9) == "▄"
        assert sparkline([(1, 0.0), (2, math.nan), (3, 1.0)], 9) == "▁×█"
        assert sparkline([(1, math.inf)], 9) == "×"


def test_a_folder_with_something_else_is_not_waited_for(tmp_path: Path) -> None:
    """A model's folder, say: no run can start in it."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="something else than a run") as refused:
        watch_run(tmp_path, io.StringIO())
    assert refused.value.code == "PL501"
