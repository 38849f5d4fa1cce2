"""Functions in processes of their own, with limits that hold whatever they do.

A timer in the same process cannot interrupt C code, and a signal reaches the main thread alone: a verifier that relies
on either hangs, or is silently wrong off the main thread. So every item is computed in a worker process under the
kernel's limits of processor time and address space, which are properties of the item, and a wall clock, which is one of
the machine. A worker that runs into a limit is replaced, and the other items go on.

Workers are started with the interpreter and `plaudit.rewards.worker`, not by multiprocessing: spawning imports the
user's main module again, and forking copies whatever threads held.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import plaudit
from plaudit.errors import ConfigError
from plaudit.rewards import worker
from plaudit.rewards.worker import LENGTH

ReplyKind = Literal["value", "cpu", "memory", "timeout", "crash", "exception"]
"""value: what the function returned. cpu, memory: the item used up its processor time or memory; trying again cannot
help. timeout: the wall clock ran out before the processor time did. crash: the worker ended. exception: the function
raised, or returned what JSON cannot say."""

_START_SECONDS = 120.0
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may use.

    Attributes:
        cpu_seconds: processor time; the kernel rounds up to whole seconds.
        wall_seconds: time on the clock; several times the processor time, because other processes want the cores too.
        memory_bytes: address space beyond what the worker holds before the item.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 60.0
    memory_bytes: int = 2 * _GIB


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one item.

    Attributes:
        kind: see `ReplyKind`.
        value: what the function returned, as JSON says it (tuples are lists); None unless kind is value.
        message: what happened, for people; empty for a value.
        seconds: on the clock, waiting in the queue not included.
    """

    kind: ReplyKind
    value: Any = None
    message: str = ""
    seconds: float = 0.0

    @property
    def own_doing(self) -> bool:
        """Whether the item itself is why there is no value, on any machine."""
        return self.kind in ("cpu", "memory")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Calls one function on items, in worker processes.

    May be used from any thread and from several at once. Workers start with the first item and wait for more; `close`,
    the end of the program or the pool's own end stops them. After `close` it can be used again.

    Args:
        target: module:function or path/to/file.py:function; the function takes one item and returns plain data. What it
            prints goes nowhere.
        workers: processes; None = as many as there are cores.
        limits: what an item may use.
        recycle: items after which a worker is replaced, so that what leaks cannot add up.
    """

    def __init__(
        self, target: str, *, workers: int | None = None, limits: Limits | None = None, recycle: int = 20_000
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"a pool has one worker at least, not {workers}")
        self.target, self.limits = target, limits or Limits()
        self.workers = workers or cores()
        self._crew = _Crew(target, self.limits, self.workers, recycle)
        weakref.finalize(self, self._crew.end)  # runs at the end of the program too

    def map(self, items: Sequence[Any]) -> list[Reply]:
        """What becomes of each item, in order. Items are plain data (JSON).

        Raises:
            ConfigError: PL102, the function cannot be imported in a worker.
        """
        tasks = self._crew.submit([_packed({"item": item}) for item in items])
        try:
            return [task.future.result() for task in tasks]
        except BaseException:  # an interrupt too: nobody will read what the rest would say
            for task in tasks:
                task.future.cancel()
            raise

    def close(self) -> None:
        """End all workers; items that are being computed or wait get the reply `crash`."""
        self._crew.end()

    def pids(self) -> list[int]:
        """The worker processes that run now."""
        return self._crew.pids()


@dataclass(slots=True)
class _Task:
    body: bytes
    future: Future[Reply] = field(default_factory=Future)


@dataclass(slots=True)
class _Shift:
    """The threads and processes from the first item to `close`."""

    tasks: queue.SimpleQueue[_Task | None] = field(default_factory=queue.SimpleQueue)
    threads: list[threading.Thread] = field(default_factory=list)
    processes: list[_Process] = field(default_factory=list)
    idle: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Counts the threads that wait for a task. Too high where tasks have waited, but then no further thread may be."""


class _Crew:
    """The threads of a pool, one per worker. It knows nothing of the pool, so that the pool can be collected."""

    def __init__(self, target: str, limits: Limits, workers: int, recycle: int) -> None:
        self._target, self._limits, self._workers, self._recycle = target, limits, workers, recycle
        # Collecting garbage may run `end` in a thread that is inside of one of these blocks.
        self._lock = threading.RLock()
        self._shift, self._pid = _Shift(), os.getpid()

    def submit(self, bodies: Sequence[bytes]) -> list[_Task]:
        """Queue items, with a thread for each while there are fewer than wanted."""
        tasks = [_Task(body) for body in bodies]
        with self._lock:
            if self._pid != os.getpid():  # forked: the threads and processes are the parent's
                self._shift, self._pid = _Shift(), os.getpid()
            shift = self._shift
            for task in tasks:
                if not shift.idle.acquire(blocking=False) and len(shift.threads) < self._workers:
                    self._hire(shift)
                shift.tasks.put(task)
        return tasks

    def _hire(self, shift: _Shift) -> None:
        process = _Process(self._target, self._limits)
        thread = threading.Thread(
            target=_serve, args=(shift, process, self._recycle), name="plaudit-worker", daemon=True
        )
        shift.processes.append(process)
        shift.threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop this shift; the next item begins another."""
        with self._lock:
            shift, self._shift = self._shift, _Shift()
            if self._pid != os.getpid():
                return
        for process in shift.processes:
            process.stop()
        for _ in shift.threads:
            shift.tasks.put(None)
        for thread in shift.threads:
            if thread is not threading.current_thread():
                thread.join()
        while not shift.tasks.empty():
            task = shift.tasks.get()
            if task is not None and task.future.set_running_or_notify_cancel():
                task.future.set_result(_CLOSED)

    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [pid for process in self._shift.processes if (pid := process.pid) is not None]


def _serve(shift: _Shift, process: _Process, recycle: int) -> None:
    """Thread: gives tasks to one worker process, until the shift is over."""
    try:
        done = 0
        while (task := shift.tasks.get()) is not None:
            if task.future.set_running_or_notify_cancel():
                try:
                    reply = process.call(task.body)
                except Exception as error:  # raised where it is waited for
                    task.future.set_exception(error)
                else:
                    done += 1
                    if done % recycle == 0 or reply.kind == "memory":  # what is left of its memory is not known
                        process.reap()
                    task.future.set_result(reply)
            shift.idle.release()
    finally:
        process.reap()


class _Ended(Exception):
    """The worker process is gone."""


class _Late(Exception):
    """The clock has run out."""


class _Process:
    """One worker process, of one thread: started when it is needed, replaced when it has ended.

    Another thread may `stop` it. Only its own thread waits for it and closes its pipes.
    """

    def __init__(self, target: str, limits: Limits) -> None:
        self._target, self._limits = target, limits
        self._lock = threading.RLock()  # a process that was waited for must not be signalled: its number may be reused
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._refused: tuple[str, str, str, str] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def call(self, body: bytes) -> Reply:
        """The reply to one item.

        Raises:
            ConfigError: PL102, the function cannot be imported.
        """
        start = time.perf_counter()
        try:
            if self._process is not None and _is_zombie(self._process.pid):
                self.reap()  # it ended between two items, which is neither's fault
            if self._process is None:
                self._start()
                start = time.perf_counter()
            self._send(body)
            answer = self._receive(self._limits.wall_seconds)
        except _Late as late:
            self.reap()
            reply = Reply("timeout", message=str(late))
        except _Ended:
            reply = self._obituary(self.reap(patience=2.0))
        else:
            reply = _read_reply(answer)
        return replace(reply, seconds=time.perf_counter() - start)

    def stop(self) -> None:
        """From another thread: kill it, and start no further one."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                _kill_group(self._process.pid)

    def reap(self, patience: float = 0.0) -> int:
        """End the process, and what it has started, and forget it. Returns how it ended (negative: the signal).

        Args:
            patience: seconds that it is given to end by itself.
        """
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return -signal.SIGKILL
            deadline = time.monotonic() + patience
            while not _is_zombie(process.pid) and time.monotonic() < deadline:
                time.sleep(0.001)
            _kill_group(process.pid)
            status = process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
            return status

    def _start(self) -> None:
        with self._lock:
            if self._stopped:
                raise _Ended
            if self._refused is not None:
                self._refuse(*self._refused)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", worker.__name__],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,  # an interrupt from the keyboard is for the program, which then ends them
            )
        setup = {"target": self._target, "path": sys.path}
        limits = {"cpu_seconds": self._limits.cpu_seconds, "memory_bytes": self._limits.memory_bytes}
        self._send(_packed(setup | limits))
        answer = self._receive(_START_SECONDS)
        if "refused" in answer:
            self.reap()
            self._refused = answer["refused"]
            self._refuse(*answer["refused"])

    def _refuse(self, code: str, what: str, where: str, mend: str) -> NoReturn:
        raise ConfigError(code, what, where=where, mend=mend)

    def _send(self, body: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            while body:
                body = body[self._process.stdin.write(body) :]
        except BrokenPipeError:
            raise _Ended from None

    def _receive(self, seconds: float) -> Any:
        """The next message."""
        deadline = time.monotonic() + seconds
        try:
            (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
            return json.loads(self._exactly(length, deadline))
        except _Late:
            raise _Late(f"nothing within {seconds:g} s on the clock") from None

    def _exactly(self, count: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        found = bytearray()
        while len(found) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Late
            part = os.read(descriptor, count - len(found))
            if not part:
                raise _Ended
            found += part
        return bytes(found)

    def _obituary(self, status: int) -> Reply:
        """The reply to an item during which the process ended."""
        if self._stopped:
            return _CLOSED
        if status == -signal.SIGXCPU:
            return Reply("cpu", message=f"more than {self._limits.cpu_seconds:g} s of processor time")
        if status < 0:
            return Reply("crash", message=f"the worker was ended by {signal.Signals(-status).name}")
        return Reply("crash", message=f"the worker ended with status {status}")


_CLOSED = Reply("crash", message="the pool was closed")


def _read_reply(answer: Any) -> Reply:
    if "value" in answer:
        return Reply("value", answer["value"])
    if "exception" in answer:
        return Reply("exception", message=answer["exception"])
    return Reply("memory", message="more memory than an item may use")


def _packed(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def environment() -> dict[str, str]:
    """Of a child: it must find this very package, and the order of sets must not differ from one child to the next."""
    source = str(Path(plaudit.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def _is_zombie(pid: int) -> bool:
    """Whether a child has ended; it is left for `wait`, which keeps its number from being used again."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pid: int) -> None:
    """Kill a child that has its own session, with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says so of zombies
        os.killpg(pid, signal.SIGKILL)
