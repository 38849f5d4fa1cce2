"""Signals: which of them end a run in order, and what becomes of a terminal that is gone."""

from __future__ import annotations

import os
import pty
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaudit.config.load import resolve
from plaudit.runs.ledger import last_event
from plaudit.runs.rundir import RunDir
from plaudit.train import running
from plaudit.train.interrupt import Interrupted, StopRequest, leaving_in_order, let_go_of_terminal
from plaudit.train.parallel import World

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As in a terminal: tests that are started with nohup, or in the background, inherit signals that are ignored."""
    inherited = {s: signal.getsignal(s) for s in ALL}
    before = {s: signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL for s in ALL}
    for s, handler in before.items():
        signal.signal(s, handler)
    yield
    after = {s: signal.getsignal(s) for s in ALL}
    for s, found in inherited.items():
        signal.signal(s, found)
    assert after == before, "what was caught was given back"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_outside_of_the_steps_a_signal_raises(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted) as stopped, leaving_in_order():
        signal.raise_signal(signum)
    assert (stopped.value.signum, stopped.value.step) == (signum, 0)


@pytest.mark.parametrize("signum", ALL)
def test_within_the_steps_the_first_is_remembered_and_the_second_kills(signum: signal.Signals) -> None:
    with leaving_in_order():
        with StopRequest().catching() as stop:
            signal.raise_signal(signum)
            assert stop.signum == signum
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        for s in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(s, signal.SIG_DFL)


def test_an_ignored_hangup_stays_ignored() -> None:
    """nohup plaudit …"""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with leaving_in_order(), StopRequest().catching() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signum == 0
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_catch_nothing() -> None:
    seen = []

    def work() -> None:
        with leaving_in_order(), StopRequest().catching():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_terminal_that_is_gone_takes_no_run_with_it() -> None:
    """Every write to it fails; a living one, a file and a pipe are left alone."""
    child = os.fork()
    if child == 0:
        gone, dead = pty.openpty()
        kept, living = pty.openpty()
        os.dup2(dead, 1)
        os.dup2(living, 2)
        os.close(gone)
        try:
            os.write(1, b"x")
            os._exit(1)  # it should have failed
        except OSError:
            pass
        let_go_of_terminal()
        os.write(1, b"x")
        os.write(2, b"y")
        os._exit(0 if os.read(kept, 1) == b"y" else 2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_signal_leaves_the_record_of_a_halted_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it the last event, the next start would train on against watch.stop."""
    rest = [f"run.dir={tmp_path / 'r'}", "model.path=tiny", "data.train=pairs.jsonl", "watch.stop=[margins_flat]"]
    resolved = resolve("dpo", overrides=rest, files_exist=False)
    with RunDir.open(tmp_path / "r", "resume", resolved.as_dict()) as run:
        run.log_event("stopped", code="margins_flat", step=3, message="halted")

    class Signalled(World):
        def from_main(self, value: Any) -> Any:
            if isinstance(value, dict):
                signal.raise_signal(signal.SIGTERM)
            return value

    monkeypatch.setattr(running, "start_world", Signalled)
    with pytest.raises(Interrupted):
        running.run_training(resolved)
    assert last_event(tmp_path / "r" / "ledger.jsonl")["event"] == "stopped"
