"""Follow the files of a run while another process writes them.

A line counts when its end is written. A resumed run replaces its files by ones without the lines that it will write
again; a reader is told from which line on they differ. Nothing is written, and no lock is taken for longer than a look.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from plaudit.runs import jsonl, ledger
from plaudit.runs import rundir as names
from plaudit.runs.jsonl import Line
from plaudit.runs.state import RunState, run_state

_MOST = 1 << 24
"""Bytes that are read of a file in one go."""


class Tail:
    """The lines of a file that grows, and is now and then replaced by a shorter one.

    The file is kept open, so that one that takes its place cannot look like it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._offset = 0
        self._seen: list[bytes] = []
        """a hash of each line, to find where a replaced file differs"""

    def read(self) -> tuple[int, list[Line]]:
        """What is new.

        Returns:
            How many of the lines read so far still hold, and the lines behind those.

        Raises:
            RunError: PL504, a complete line is no JSON object.
        """
        held = len(self._seen)
        if self._replaced():
            held = self._reopen()
        fresh = list(self._complete())
        self._seen += [_hash(raw) for raw in fresh]
        return held, [jsonl.parse(self.path, held + n, raw) for n, raw in enumerate(fresh, start=1)]

    def _replaced(self) -> bool:
        try:
            now = os.stat(self.path)
        except OSError:
            return self._stream is not None and bool(self._seen)
        if self._stream is None:
            return True
        mine = os.fstat(self._stream.fileno())
        return (mine.st_ino, mine.st_dev) != (now.st_ino, now.st_dev) or now.st_size < self._offset

    def _reopen(self) -> int:
        """Open the file that is there now; returns how many lines it has in common with the old one."""
        before, self._seen, self._offset = self._seen, [], 0
        self.close()
        try:
            self._stream = open(self.path, "rb")  # noqa: SIM115  # it is followed
        except OSError:
            return 0
        position = 0
        for raw in self._complete():
            if len(self._seen) == len(before) or _hash(raw) != before[len(self._seen)]:
                break
            self._seen.append(_hash(raw))
            position += len(raw)
        self._offset = position
        return len(self._seen)

    def _complete(self) -> Iterator[bytes]:
        while self._stream is not None:
            self._stream.seek(self._offset)
            block = self._stream.read(_MOST)
            end = block.rfind(b"\n") + 1
            if not end:
                return
            self._offset += end
            yield from block[:end].splitlines(keepends=True)
            if len(block) < _MOST:
                return

    def close(self) -> None:
        """Let the file go."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=8).digest()


@dataclass(slots=True)
class News:
    """What has happened since the last look.

    Attributes:
        state: where the run stands; None while there is none.
        plan: the plan, where it has been written (anew).
        rewound: the step up to which what was told still holds, where a resumed run has taken metrics back.
        lines: (kind, line) in the order of their steps; kind is metrics, samples or alerts.
        events: the new lines of the ledger.
    """

    state: RunState | None = None
    plan: dict[str, Any] | None = None
    rewound: int | None = None
    lines: list[tuple[str, Line]] = field(default_factory=list)
    events: list[Line] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nobody writes the run any more."""
        return self.state is not None and self.state.phase != "running"


class Follower:
    """Looks again and again at a run that another process writes. The directory need not be there yet."""

    _KINDS = {"metrics": names.METRICS_NAME, "samples": names.SAMPLES_NAME, "alerts": names.ALERTS_NAME}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tails = {kind: Tail(path / name) for kind, name in self._KINDS.items()}
        self._ledger = Tail(path / ledger.LEDGER_NAME)
        self._told: dict[str, list[int]] = {kind: [] for kind in self._KINDS}
        """the step of every line that was told and holds"""
        self._plan: tuple[float, int] | None = None

    def look(self) -> News:
        """What is new.

        Raises:
            RunError: PL504, a file is damaged.
        """
        if not (self.path / names.CONFIG_NAME).exists():
            return News()
        # First the state: what a process has written before its end is then read behind it.
        news = News(state=run_state(self.path), plan=self._read_plan(), events=self._ledger.read()[1])
        for kind, tail in self._tails.items():
            held, fresh = tail.read()
            told = self._told[kind]
            if held < len(told):
                if kind == "metrics":  # the others go back with them, and say less well to where: they have fewer lines
                    news.rewound = told[held - 1] if held else 0
                del told[held:]
            told += [_step(line) for line in fresh]
            news.lines += [(kind, line) for line in fresh]
        order = {kind: place for place, kind in enumerate(self._KINDS)}
        news.lines.sort(key=lambda pair: (_step(pair[1]), order[pair[0]]))
        return news

    def _read_plan(self) -> dict[str, Any] | None:
        file = self.path / names.PLAN_NAME
        try:
            found = file.stat()
        except OSError:
            return None
        mark = (found.st_mtime, found.st_ino)
        if mark == self._plan:
            return None
        self._plan = mark
        return names.read_json(file)

    def close(self) -> None:
        """Let the files go."""
        for tail in (*self._tails.values(), self._ledger):
            tail.close()


def _step(line: Line) -> int:
    step = line.get("step", 0)
    return step if isinstance(step, int) else 0
