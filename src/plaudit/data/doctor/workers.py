"""Facts of many rows, in several processes where there are many rows and several cores.

A worker is an interpreter of its own that imports this module and nothing of the user's (multiprocessing would import
the user's main module again). A batch of rows goes to whichever worker is free, and facts are put into the order of the
rows. Each worker has one batch at a time and is read from before it is written to, so neither side can wait for the
other for ever.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import IO

from plaudit.data.doctor.facts import Examiner, Facts
from plaudit.data.doctor.thresholds import LANGUAGE_ROWS
from plaudit.data.readers import NumberedRow
from plaudit.types import DataKind

BATCH = 100
"""Rows that are looked at together: enough for one call of the hashes, and their words stay in the cache."""
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
    """A thread for each process hands it a batch whenever it has none, so a slow process keeps no other one waiting."""

    def __init__(self, size: int, task: Task) -> None:
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(size)
        ]
        self._waiting: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, bytes] | int] = SimpleQueue()
        setting = pickle.dumps(task)
        self._threads = [Thread(target=self._serve, args=(p, setting), daemon=True) for p in self._processes]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            self._waiting.put(None)
        for thread, process in zip(self._threads, self._processes, strict=True):
            thread.join()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what it did not read any more
                    _pipe(pipe).close()

    def look(self, batches: Iterator[list[NumberedRow]]) -> Looked:
        looked, sampling = Looked(), _Sampling()
        early: dict[int, _Found] = {}
        sent = received = taken = 0

        def receive() -> None:
            nonlocal received, taken
            number, found = self._receive()
            received += 1
            early[number] = found
            while taken in early:
                looked.take(early.pop(taken))
                taken += 1
            sampling.thin(looked.facts)

        for batch in batches:
            if sent - received == 2 * len(self._processes):  # one is looked at, one lies ready
                receive()
            self._waiting.put((sent, pickle.dumps((batch, sampling.stride), protocol=pickle.HIGHEST_PROTOCOL)))
            sent += 1
        while received < sent:
            receive()
        for f in looked.facts:  # batches that were on their way with the stride of before
            if f.sample is not None and f.row % sampling.stride:
                f.sample = None
        return looked

    def _receive(self) -> tuple[int, _Found]:
        done = self._done.get()
        if isinstance(done, int):
            raise RuntimeError(f"a worker of the doctor ended with status {done}; its error is above")
        return done[0], pickle.loads(done[1])

    def _serve(self, process: subprocess.Popen[bytes], setting: bytes) -> None:
        stdin, stdout = _pipe(process.stdin), _pipe(process.stdout)
        data: bytes | None
        try:
            _send(stdin, setting)
            while (batch := self._waiting.get()) is not None:
                _send(stdin, batch[1])
                data = _read(stdout)
                if data is None:
                    break
                self._done.put((batch[0], data))
            else:
                return
        except OSError:  # it does not read
            pass
        self._done.put(process.wait())


_PROGRAM = "import sys; sys.path[:] = {path!r}; from plaudit.data.doctor.workers import main; main()"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(8, "little"))
    pipe.write(data)
    pipe.flush()


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
    gc.freeze()  # modules stay; the collector need not look at them again
    while (data := _read(stdin)) is not None:
        batch, stride = pickle.loads(data)
        examiner = task.examiner()
        facts = examiner.look(batch, stride)
        _send(stdout, pickle.dumps((facts, examiner.shapes), protocol=pickle.HIGHEST_PROTOCOL))
