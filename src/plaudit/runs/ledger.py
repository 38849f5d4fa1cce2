"""The run's append-only record of events. Each line carries the SHA-256 of the line before it.

The chain shows that no line was changed, removed from the middle or put in between. It cannot show by itself that
lines were cut off the end; therefore `COMPLETE` repeats the hash of the line that completed the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plaudit.runs import jsonl

LEDGER_NAME = "ledger.jsonl"
START = "0" * 64
"""What stands for the hash before the first line."""
ASIDE = frozenset({"note", "pruned"})
"""Events that say nothing about whether the run goes on or how it has ended."""


def line_hash(raw: bytes) -> str:
    """SHA-256 of one line without its newline."""
    return hashlib.sha256(raw.rstrip(b"\n")).hexdigest()


def head(path: Path) -> str:
    """Hash of the last line; `START` when there is none."""
    raw = path.read_bytes().splitlines() if path.exists() else []
    return line_hash(raw[-1]) if raw else START


def last_event(path: Path) -> dict[str, Any]:
    """The last line that says whether the run goes on, unchecked; empty where there is none or the last line cannot be
    read."""
    for raw in reversed(path.read_bytes().splitlines() if path.exists() else []):
        try:
            line = jsonl.loads(raw)
        except ValueError:
            return {}
        if not isinstance(line, dict):
            return {}
        if line.get("event") not in ASIDE:
            return line
    return {}


def read_events(path: Path) -> list[dict[str, Any]]:
    """All lines that can be read, unchecked: for views of a run, which must also show a damaged one."""
    found: list[dict[str, Any]] = []
    for raw in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = jsonl.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def append_event(path: Path, event: str, details: Mapping[str, Any]) -> str:
    """Add one event with the time (UTC), durably, and return the new head.

    Raises:
        RunError: PL505, the file cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    text = jsonl.dumps({"time": now, "event": event, **details, "previous": head(path)})
    jsonl.append_line(path, text, durable=True)
    return head(path)


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """Outcome of `verify_ledger`."""

    problem: str | None
    """What is wrong with the first line that does not fit, or None."""
    head: str
    """Hash of the last line read."""
    events: list[dict[str, Any]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    """Hash of each line, in order."""

    @property
    def ok(self) -> bool:
        return self.problem is None


def verify_ledger(path: Path, *, expected: str | None = None) -> LedgerCheck:
    """Walk the chain; `expected` is a hash that one of the lines must have (the one kept in `COMPLETE`)."""
    events: list[dict[str, Any]] = []
    hashes: list[str] = []
    previous, problem = START, None
    for number, raw in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            line = jsonl.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            problem = problem or f"line {number} is not a JSON object"
            line = {"event": "unreadable"}
        elif line.get("previous") != previous:
            problem = problem or f"line {number} does not follow from line {number - 1}: a line was changed or removed"
        previous = line_hash(raw)
        events.append(line)
        hashes.append(previous)
    if not events:
        problem = "there is no ledger"
    elif problem is None and expected is not None and expected not in hashes:
        problem = "the line that completed the run is missing or was changed"
    return LedgerCheck(problem, previous, events, hashes)
