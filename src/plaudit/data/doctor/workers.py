"""Facts of many rows, in several processes where there are many rows and several cores.

A worker is an interpreter of its own that imports this module and nothing of the user's (multiprocessing would import
the user's main module again). Rows go to the workers in turn, and facts come back in the order of the rows. Each worker
has one batch at a time and is read from before it is written to, so neither side can wait for the other for ever.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any

from plaudit.data.doctor.facts import Examiner, Facts
from plaudit.data.doctor.thresholds import LANGUAGE_ROWS
from plaudit.data.readers import NumberedRow
from plaudit.types import DataKind

BATCH = 500
"""Rows that are looked at together."""
FEW = 4000
"""Rows from which it pays to start processes: starting one takes as long as some thousand rows."""
_Found = tuple[list[Facts], Counter[str]]


@dataclass(slots=True)
class Task:
    """What workers have to know."""

    kind: DataKind
    columns: Mapping[str, str]
    file: str
    mend: bool = False
    keep: Collection[str] = ()

    def examiner(self) -> Examiner:
        """An examiner of such rows."""
        return Examiner(self.kind, self.columns, self.file, mend=self.mend, keep=self.keep)


@dataclass(slots=True)
class Looked:
    """What came of all rows.

    Attributes:
        facts: of each row, in the order of the file.
        shapes: recognised row shapes.
    """

    facts: list[Facts] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)

    def take(self, found: _Found) -> None:
        """Add a batch."""
        self.facts += found[0]
        self.shapes += found[1]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def look(rows: Iterable[NumberedRow], task: Task, workers: int | None = None) -> Looked:
    """The facts of all rows.

    Args:
        rows: read one after the other, never held all at once.
        task: what they are.
        workers: processes; None is one per core, and none for one core or few rows.
    """
    stream = iter(rows)
    head = list(islice(stream, FEW))
    wanted = cores() if workers is None else workers
    few = workers is None and len(head) < FEW
    batches = _batches(chain(head, stream))
    del head
    if wanted < 2 or few:
        return _here(batches, task)
    with _Pool(wanted, task) as pool:
        return pool.look(batches)


def _batches(rows: Iterator[NumberedRow]) -> Iterator[list[NumberedRow]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def _here(batches: Iterator[list[NumberedRow]], task: Task) -> Looked:
    looked, sampling = Looked(), _Sampling()
    examiner = task.examiner()
    for batch in batches:
        looked.take((examiner.look(batch, sampling.stride), Counter()))
        sampling.thin(looked.facts)
    looked.shapes = examiner.shapes
    return looked


class _Sampling:
    """Every `stride`-th row is sampled for its language; the stride doubles whenever the samples become too many."""

    def __init__(self) -> None:
        self.stride = 1
        self._next = 2 * LANGUAGE_ROWS

    def thin(self, facts: list[Facts]) -> None:
        """Forget samples once the file has turned out to be twice as long."""
        if len(facts) < self._next:
            return
        self._next *= 2
        self.stride *= 2
        for f in facts:
            if f.sample is not None and f.row % self.stride:
                f.sample = None


class _Pool:
    def __init__(self, size: int, task: Task) -> None:
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
        setting = pickle.dumps(task)
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(size)
        ]
        for process in self._processes:
            _send(_pipe(process.stdin), setting)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                _pipe(pipe).close()
            process.terminate()
            process.wait()

    def look(self, batches: Iterator[list[NumberedRow]]) -> Looked:
        looked, sampling = Looked(), _Sampling()
        busy: deque[subprocess.Popen[bytes]] = deque()
        free = deque(self._processes)
        for batch in batches:
            # Pickled before a worker is waited for: it computes meanwhile.
            data = pickle.dumps((batch, sampling.stride), protocol=pickle.HIGHEST_PROTOCOL)
            if not free:
                looked.take(_receive(busy[0]))
                free.append(busy.popleft())
                sampling.thin(looked.facts)
            _send(_pipe(free[0].stdin), data)
            busy.append(free.popleft())
        for process in busy:
            looked.take(_receive(process))
        sampling.thin(looked.facts)
        for f in looked.facts:  # batches that were on their way with the stride of before
            if f.sample is not None and f.row % sampling.stride:
                f.sample = None
        return looked


_PROGRAM = "import sys; sys.path[:] = {path!r}; from plaudit.data.doctor.workers import main; main()"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "little"))
    pipe.write(data)
    pipe.flush()


def _receive(process: subprocess.Popen[bytes]) -> Any:
    data = _read(_pipe(process.stdout))
    if data is None:
        raise RuntimeError(f"a worker of the doctor ended with status {process.wait()}; its error is above")
    return pickle.loads(data)


def _read(pipe: IO[bytes]) -> bytes | None:
    size = pipe.read(8)
    return pipe.read(int.from_bytes(size, "little")) if len(size) == 8 else None


def main() -> None:
    """A worker: a task, then batches of rows until the pipe is closed."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed by a library must not come between
    data = _read(stdin)
    assert data is not None
    task: Task = pickle.loads(data)
    while (data := _read(stdin)) is not None:
        batch, stride = pickle.loads(data)
        examiner = task.examiner()
        facts = examiner.look(batch, stride)
        _send(stdout, pickle.dumps((facts, examiner.shapes), protocol=pickle.HIGHEST_PROTOCOL))
