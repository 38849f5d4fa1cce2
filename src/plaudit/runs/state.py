"""Whether a run goes on, and if not, how it ended: from its ledger, its lock and COMPLETE."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plaudit.errors import CRASHED, FINISHED, HALTED, SIGNALLED, USER_ERROR
from plaudit.runs import ledger
from plaudit.runs.lock import is_locked, owner
from plaudit.runs.rundir import COMPLETE_NAME

Phase = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands.

    Attributes:
        phase: running; finished: it came to its end; stopped: a signal or watch.stop ended it in order, and the same
            command goes on; failed: an error ended it, or it was killed.
        reason: why it is no longer running, in words; empty where there is nothing to say.
        exit_status: what its command ended with; None while it runs. Of a process that was killed nobody knows more
            than that: 1.
    """

    phase: Phase
    reason: str = ""
    exit_status: int | None = None

    @property
    def words(self) -> str:
        """Phase and reason, for people."""
        return f"{self.phase}: {self.reason}" if self.reason else self.phase


def run_state(path: Path, *, told: bool = False) -> RunState:
    """Where the run in a directory stands. Reads three small files at most, and needs no write access.

    Args:
        told: take an end at its word that the ledger tells of, also while the process still closes up.
    """
    if (path / COMPLETE_NAME).exists():
        return RunState("finished", exit_status=FINISHED)
    held = is_locked(path)
    last = ledger.last_event(path / ledger.LEDGER_NAME)
    ended = _ended(last)
    if held and not (told and ended):
        # Between its last word and its end a process writes the report, and one that goes on has not said so yet.
        return RunState("running", "about to end" if ended else "")
    return ended or _killed(path, last)


def _ended(last: Mapping[str, Any]) -> RunState | None:
    """The end that the last event of a ledger tells of; None where it tells of none."""
    event = last.get("event")
    if event == "interrupted":
        number = last.get("signal")
        number = number if isinstance(number, int) else signal.SIGTERM
        return RunState("stopped", f"by {signal_name(number)}{_after(last)}", SIGNALLED + number)
    if event == "stopped":
        return RunState("stopped", f"by {last.get('code')} at step {last.get('step')} (watch.stop)", HALTED)
    if event == "failed":
        code = last.get("code")
        what = str(last.get("what", "an error")).splitlines()[0]
        return RunState("failed", f"[{code}] {what}" if code else what, USER_ERROR if code else CRASHED)
    return None


def _after(event: Mapping[str, Any]) -> str:
    step = event.get("step")
    return f" after step {step}" if isinstance(step, int) and step else ""


def _killed(path: Path, last: Mapping[str, Any]) -> RunState:
    told = f"; its last word was {str(last['event'])!r}" if "event" in last else ""
    writer = owner(path)
    if writer is not None and not writer.is_here:
        return RunState("failed", f"no process writes it, as far as can be seen from here ({writer.host} did)", CRASHED)
    return RunState("failed", f"its process is gone (killed, out of memory, or the power failed){told}", CRASHED)


def signal_name(number: int) -> str:
    """SIGTERM, or the number where there is no such signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
