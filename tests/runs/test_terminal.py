from __future__ import annotations

import io
import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from plaudit.runs.alerts import Alert
from plaudit.runs.eta import Eta, duration
from plaudit.runs.observer import Observers, Recorder, SilentObserver
from plaudit.runs.plan import InWords
from plaudit.runs.rundir import RunDir
from plaudit.runs.terminal import PlainTerminal, RichTerminal, terminal

ALERT = Alert("warn", "margins_flat", "margins [flat]", "raise beta", 20)


def drive(observer: SilentObserver | Observers) -> None:
    observer.on_start(
        {
            "model": "tiny [0.1M]",
            "steps": 40,
            "learning rate": 2e-5,
            "data": {"groups": 7},
            "sinks": (),
            "weights": InWords("  1,200, 7 trained", parameters=1200, trained=7),
        }
    )
    for step in (10, 20):
        metrics = {"loss": 0.6 / step, "rewards/margins": 0.1, "logps/chosen": -3.0, "tokens_per_second": 812.0}
        observer.on_step(step, 40, metrics)
    observer.on_eval(20, {"eval/loss": 0.5, "eval/extra": math.nan})
    observer.on_samples(
        20, [{"prompt": "Why?\nSo?", "completion": "[bold]Because[/bold] é" + "x" * 700, "reward": 0.25}]
    )
    observer.on_alert(ALERT)
    observer.on_message("resumed at step 10")
    observer.on_finish({"loss": 0.03})
    observer.close()
    observer.close()


def test_the_end_shows_facts_and_headline_metrics_only() -> None:
    stream = io.StringIO()
    summary = {"steps": 3, "best_metric": None, "loss": 0.5, "step_seconds": 2.0, "eval/rewards/margins": 0.25}
    PlainTerminal(stream).on_finish({**summary, "eval/logps/chosen": -3.0, "model": "runs/x/model"})
    shown = [line.split(" ")[1].partition("=")[0] for line in stream.getvalue().splitlines()]
    assert shown == ["steps", "loss", "eval/rewards/margins", "model"]


def test_plain_lines_can_be_parsed() -> None:
    stream = io.StringIO()
    drive(PlainTerminal(stream))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert text.endswith("\n")
    steps = [line for line in text.splitlines() if line.startswith("step=")]
    assert len(steps) == 2
    pairs = dict(pair.split("=", 1) for pair in steps[1].split(" "))
    assert pairs["step"] == "20"
    assert pairs["total"] == "40"
    assert float(pairs["loss"]) == pytest.approx(0.03)
    assert "eta" in pairs
    assert "logps/chosen" not in pairs
    sample = next(line for line in text.splitlines() if line.startswith("sample "))
    assert '"Why?\\nSo?"' in sample
    assert "…" in sample
    alert = next(line for line in text.splitlines() if line.startswith("alert "))
    fields = dict(part.split("=", 1) for part in shlex.split(alert)[1:])
    assert fields == {
        "level": "warn",
        "code": "margins_flat",
        "step": "20",
        "message": ALERT.message,
        "advice": ALERT.advice,
    }
    for row in ("data.groups=7", "sinks=[]", "learning_rate=2e-05", 'model="tiny [0.1M]"', "parameters=1200 trained=7"):
        assert f"\nplan {row}\n" in f"\n{text}"
    assert 'note text="resumed at step 10"' in text


def test_plain_shows_all_metrics_when_none_is_a_headline() -> None:
    stream = io.StringIO()
    PlainTerminal(stream).on_step(1, 2, {"own/thing": 3.0})
    assert stream.getvalue() == "step=1 total=2 own/thing=3\n"


def test_a_terminal_gets_the_live_view() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system="standard", _environ={"TERM": "xterm"})
    drive(RichTerminal(console))
    text = stream.getvalue()
    for part in (
        "Plan",
        "tiny [0.1M]",
        "1,200, 7 trained",
        "[bold]Because[/bold]",
        "20",
        "margins [flat]",
        "→ raise beta",
        "left",
        "Done",
    ):
        assert part in text
    assert "characters)" in text
    assert "\x1b[33mwarn" in text  # alerts are coloured
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back


def test_the_stream_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(terminal(io.StringIO()), PlainTerminal)
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream:
        observer = terminal(stream)
        assert isinstance(observer, RichTerminal)
        observer.close()
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(terminal(stream), PlainTerminal)
    os.close(ours)


def test_observers_pass_everything_on_in_order_and_record(tmp_path: Path) -> None:
    stream = io.StringIO()
    with RunDir.open(tmp_path / "r", "resume", {"method": {"name": "dpo"}}) as run:
        drive(Observers([Recorder(run), PlainTerminal(stream)]))
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [10, 20, 20]
    assert metrics[1]["logps/chosen"] == -3.0
    assert json.loads((tmp_path / "r" / "samples.jsonl").read_text())["reward"] == 0.25
    assert json.loads((tmp_path / "r" / "alerts.jsonl").read_text())["code"] == "margins_flat"
    assert "step=20" in stream.getvalue()
    events = [json.loads(line) for line in (tmp_path / "r" / "ledger.jsonl").read_text().splitlines()]
    assert [e.get("text") for e in events if e["event"] == "note"] == ["resumed at step 10"]


def test_eta_of_even_steps_is_exact() -> None:
    eta = Eta()
    assert eta.seconds_left(100) is None
    eta.update(1000.0, 3)
    assert eta.seconds_left(100) is None
    eta.update(1002.0, 4)
    assert eta.seconds_left(100) == pytest.approx(192.0)
    eta.update(1010.0, 8)
    assert eta.seconds_left(100) == pytest.approx(184.0)
    assert eta.seconds_left(8) == 0


def test_eta_forgets() -> None:
    eta = Eta()
    now = 0.0
    for step in range(1, 101):
        now += 10.0 if step <= 20 else 1.0
        eta.update(now, step)
    left = eta.seconds_left(200)
    assert left == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (3599, "59m59s"), (7500, "2h05m"), (273_700, "3d04h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- runs that sample answers

ONLINE = {
    "loss": 0.001,
    "reward": 0.4125,
    "reward_std": 0.3,
    "kl": 1.5,
    "entropy": 0.71,
    "policy/clipfrac": 0.1,
    "value/explained_variance": 0.25,
    "completions/mean_length": 143.5,
    "completions/clipped_ratio": 0.02,
    "grad_norm": 0.8,
    "learning_rate": 1e-5,
}
WITHIN_A_BATCH = {"loss": 0.2, "kl": 1.6, "entropy": 0.7, "policy/clipfrac": 0.2, "grad_norm": 0.9}
ROW = {
    "prompt": "<user>\nWhat is 12 + 30?\n",
    "completion": "It is 42.",
    "reward": 0.875,
    "parts": {"math": 1.0, "length": -0.125},
    "note": "math: read 42, expected 42",
    "tokens": 5,
    "finish_reason": "stop",
}


def written(act: Callable[[SilentObserver], None]) -> str:
    stream = io.StringIO()
    act(PlainTerminal(stream))
    return stream.getvalue()


def drawn(act: Callable[[SilentObserver], None]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    observer = RichTerminal(console)
    act(observer)
    observer.close()
    return stream.getvalue()


def two_steps(observer: SilentObserver) -> None:
    observer.on_step(1, 40, ONLINE)
    observer.on_step(2, 40, WITHIN_A_BATCH)


def test_a_run_that_samples_has_a_headline_of_its_own() -> None:
    lines = written(two_steps).splitlines()
    assert lines[0] == (
        "step=1 total=40 reward=0.4125 kl=1.5 entropy=0.71 completions/mean_length=143.5 "
        "completions/clipped_ratio=0.02 value/explained_variance=0.25 grad_norm=0.8"
    )
    assert lines[1].startswith("step=2 total=40 kl=1.6 entropy=0.7 grad_norm=0.9")
    assert "loss" not in lines[1]


def test_the_live_line_keeps_the_last_rewards() -> None:
    last = " ".join(drawn(two_steps).rsplit("step 2/40", 1)[1].split())
    for part in ("reward 0.4125", "kl 1.6", "length 143.5", "cut 0.02", "explained 0.25", "grad 0.9"):
        assert part in last
    assert "loss" not in last


def test_an_evaluation_of_answers_shows_the_headline_and_the_parts() -> None:
    metrics = {
        "eval/completions/mean_length": 9.0,
        "eval/reward": 0.5,
        "eval/reward_std": 0.1,
        "eval/rewards/retried": 0.0,
    }
    one = {"eval/rewards/math/mean": 0.5}
    line = written(lambda o: o.on_eval(3, metrics | one))
    assert line == "eval step=3 eval/reward=0.5 eval/completions/mean_length=9\n"
    line = written(lambda o: o.on_eval(3, metrics | one | {"eval/rewards/length/mean": -0.25}))
    assert line == (
        "eval step=3 eval/reward=0.5 eval/rewards/math/mean=0.5 eval/rewards/length/mean=-0.25 "
        "eval/completions/mean_length=9\n"
    )


def test_an_evaluation_shows_gold_and_who_was_right() -> None:
    metrics = {"eval/reward": 0.5, "eval/gold": 2.0, "eval/gold_gap": 0.1, "eval/avg@4": 0.5, "eval/pass@4": 0.75}
    metrics |= {"eval/tasks/sums/avg@4": 0.5, "eval/completions/mean_length": 9.0}
    assert written(lambda o: o.on_eval(3, metrics)) == (
        "eval step=3 eval/reward=0.5 eval/avg@4=0.5 eval/pass@4=0.75 eval/gold=2 eval/completions/mean_length=9\n"
    )


def test_the_end_of_such_a_run_shows_its_reward_and_no_loss() -> None:
    text = written(lambda o: o.on_finish({"steps": 3, "loss": 0.1, "eval/reward": 0.5, "completions/empty": 0.0}))
    assert text == "summary steps=3\nsummary eval/reward=0.5\n"


def test_a_reward_and_its_parts_can_be_read_from_a_plain_line() -> None:
    line = written(lambda o: o.on_samples(4, [ROW, {"prompt": "p", "completion": "", "reward": None}])).splitlines()
    assert line[0].startswith(
        'sample step=4 prompt="<user>\\nWhat is 12 + 30?\\n" completion="It is 42." reward=0.875 '
    )
    assert 'parts={"math":1,"length":-0.125} note="math: read 42, expected 42" tokens=5 finish_reason="stop"' in line[0]
    assert line[1] == 'sample step=4 prompt="p" completion="" reward=null'


def test_a_sample_is_shown_with_its_reward_and_why() -> None:
    text = drawn(
        lambda o: o.on_samples(4, [ROW, {"prompt": "p", "completion": "\n", "reward": None, "error": "timeout"}])
    )
    lines = [" ".join(line.strip("│ ").split()) for line in text.splitlines()]
    for line in (
        "Samples at step 4",
        "prompt <user>",
        "What is 12 + 30?",
        "completion It is 42.",
        "reward 0.875 (math 1, length -0.125)",
        "note math: read 42, expected 42",
        "tokens 5 finish reason stop",
        "completion (empty)",
        "reward none",
        "error timeout",
    ):
        assert line in lines
    assert text.count("╭") == 2


def test_an_answer_cannot_command_the_terminal() -> None:
    text = drawn(lambda o: o.on_samples(4, [{"prompt": "p", "completion": "\x1b[2Jx\x1b]0;title\x07"}]))
    assert "␛[2Jx␛]0;title" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
