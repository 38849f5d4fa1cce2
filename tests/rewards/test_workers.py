"""Worker processes: limits that hold whatever an item does, replacement, threads, and an end without leftovers."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plaudit.errors import ConfigError
from plaudit.rewards.workers import Limits, Reply, WorkerPool

MODULE = """
import ctypes, os, subprocess, sys, time

def work(item):
    kind, value = item if isinstance(item, list) else (item, None)
    print("noise")
    os.write(1, b"noise that bypasses Python")
    if kind == "echo":
        return value
    if kind == "pid":
        return os.getpid()
    if kind == "read":
        return sys.stdin.read()
    if kind == "loop":
        while True:
            pass
    if kind == "c code":
        return len(str(7 ** (10 ** 8)))
    if kind == "sleep":
        time.sleep(value)
    if kind == "exit":
        os._exit(value)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "memory":
        return len(bytearray(value))
    if kind == "raise":
        raise ValueError(value)
    if kind == "set":
        return {1, 2}
    if kind == "child":
        return subprocess.Popen(["sleep", "600"]).pid
    if kind == "main":
        return sys.modules["__main__"].__spec__.name
    if kind == "torch":
        return "torch" in sys.modules
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_module_that_works.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "a_module_that_works:work"


@pytest.fixture
def pool(target: str) -> Iterator[WorkerPool]:
    made = WorkerPool(target, workers=2, limits=Limits(cpu_seconds=1, wall_seconds=30, memory_bytes=256 * 1024**2))
    yield made
    made.close()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has not waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def kinds(replies: list[Reply]) -> list[str]:
    return [reply.kind for reply in replies]


def test_values_come_back_in_order_and_prints_are_no_messages(pool: WorkerPool) -> None:
    values = [1, -0.5, "text ü \ud800", None, True, [1, [2]], {"a": {"b": []}}, "x" * 300_000, 10**40]
    replies = pool.map([["echo", value] for value in values])
    assert [reply.value for reply in replies] == values
    assert kinds(replies) == ["value"] * len(values)
    assert all(0 < reply.seconds < 10 for reply in replies)
    assert len(pool.pids()) == 2
    assert pool.map([]) == []


def test_a_worker_is_no_copy_of_the_program(pool: WorkerPool) -> None:
    replies = pool.map(["main", "torch", "read"])
    assert [reply.value for reply in replies] == ["plaudit.rewards.worker", False, ""]


def test_every_item_has_its_own_end(pool: WorkerPool) -> None:
    items = ["c code", ["exit", 3], "segfault", ["memory", 10**9], ["raise", "no"], "set", ["echo", 5]]
    replies = pool.map(items)
    assert kinds(replies) == ["cpu", "crash", "crash", "memory", "exception", "exception", "value"]
    assert [reply.own_doing for reply in replies] == [True, False, False, True, False, False, False]
    assert "status 3" in replies[1].message
    assert "SIGSEGV" in replies[2].message
    assert replies[4].message == "ValueError: no"
    assert "not JSON serializable" in replies[5].message
    assert pool.map([["echo", 6]])[0].value == 6  # and it goes on


def test_processor_time_is_counted_for_each_item_alone(pool: WorkerPool, target: str) -> None:
    one = WorkerPool(target, workers=1, limits=Limits(cpu_seconds=1, wall_seconds=30))
    before = one.map(["pid"])[0].value
    assert kinds(one.map(["loop"])) == ["cpu"]
    assert one.map(["pid"])[0].value != before
    assert one.map([["sleep", 1.2], ["echo", 1]])[1].value == 1  # sleeping costs none
    one.close()


def test_the_clock_is_another_limit(target: str) -> None:
    pool = WorkerPool(target, workers=1, limits=Limits(cpu_seconds=20, wall_seconds=0.5))
    start = time.monotonic()
    replies = pool.map([["sleep", 60], "loop", ["echo", 1]])
    assert kinds(replies) == ["timeout", "timeout", "value"]
    assert time.monotonic() - start < 15
    assert "0.5 s" in replies[0].message
    pool.close()


def test_a_worker_that_was_killed_between_items_is_replaced(pool: WorkerPool) -> None:
    [first] = pool.map(["pid"])
    os.kill(first.value, signal.SIGKILL)
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    assert soon(lambda: os.waitid(os.P_PID, first.value, look) is not None)
    replies = pool.map(["pid"] * 4)
    assert kinds(replies) == ["value"] * 4
    assert first.value not in [reply.value for reply in replies]


def test_workers_are_replaced_after_some_items(target: str) -> None:
    pool = WorkerPool(target, workers=1, recycle=3)
    seen = [reply.value for reply in pool.map(["pid"] * 7)]
    assert [len(set(seen[i : i + 3])) for i in (0, 3)] == [1, 1]
    assert len(set(seen)) == 3
    pool.close()


def test_many_threads_at_once(pool: WorkerPool) -> None:
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        items = [["echo", number * 100 + k] if k != 5 else ["exit", 1] for k in range(10)]
        found[number] = [reply.value for reply in pool.map(items)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [n * 100 + k if k != 5 else None for k in range(10)] for n in range(4)}
    assert len(pool.pids()) <= 2


def test_items_of_several_threads_use_several_workers(pool: WorkerPool) -> None:
    start = time.monotonic()
    pool.map(["pid", "pid"])
    began = time.monotonic()
    threads = [threading.Thread(target=pool.map, args=([["sleep", 1]],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 1.8, f"started in {began - start:.1f} s"


def test_close_ends_everything_and_the_pool_can_be_used_again(pool: WorkerPool) -> None:
    pids = [reply.value for reply in pool.map(["pid", "pid", "child"])]
    running = pool.pids()
    pool.close()
    assert pool.pids() == []
    assert soon(lambda: all(gone(pid) for pid in [*pids, *running]))
    assert pool.map([["echo", 1]])[0].value == 1


def test_close_while_items_are_computed(pool: WorkerPool) -> None:
    found: list[Reply] = []
    thread = threading.Thread(target=lambda: found.extend(pool.map([["sleep", 60]] * 5)))
    thread.start()
    assert soon(lambda: len(pool.pids()) == 2)
    time.sleep(0.3)
    pool.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert {(reply.kind, reply.message) for reply in found} == {("crash", "the pool was closed")}


def test_a_pool_that_nobody_has_ends_its_workers(target: str) -> None:
    pool = WorkerPool(target, workers=2)
    pids = [reply.value for reply in pool.map(["pid", "pid"])]
    threads = threading.active_count()
    del pool
    gc.collect()
    assert soon(lambda: all(map(gone, pids)))
    assert threading.active_count() < threads


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGINT)"])
def test_the_end_of_the_program_is_the_end_of_its_workers(target: str, end: str) -> None:
    """Also where it is killed in the middle of an item."""
    program = f"""
import os, signal, sys, threading, time
sys.path[:] = {sys.path!r}
from plaudit.rewards.workers import WorkerPool
pool = WorkerPool({target!r}, workers=1)
sys.stdout.write(str(pool.map(["pid"])[0].value) + "\\n")
sys.stdout.flush()
threading.Thread(target=pool.map, args=([["sleep", 600]],), daemon=True).start()
time.sleep(0.3)
{end}
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert "ResourceWarning" not in done.stderr
    assert soon(lambda: gone(int(done.stdout)))


def test_a_forked_child_leaves_the_workers_alone(pool: WorkerPool) -> None:
    [before] = pool.map(["pid"])
    program = os.fork()
    if program == 0:  # pragma: no cover - another process
        pool.close()
        os._exit(0)
    os.waitpid(program, 0)
    assert not gone(before.value)
    assert kinds(pool.map(["pid"])) == ["value"]


@pytest.mark.parametrize("name", ["no_such_module_anywhere:work", "json:no_such_function"])
def test_a_function_that_cannot_be_had_is_the_configurations_fault(name: str) -> None:
    pool = WorkerPool(name, workers=1)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            pool.map([1, 2, 3])
        assert caught.value.code == "PL102"
    assert pool.pids() == []
    pool.close()


def test_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
    pool = WorkerPool(f"{tmp_path / 'mine.py'}:twice", workers=1)
    assert pool.map([21])[0].value == 42
    pool.close()


def test_a_file_beside_the_program_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A json.py in the present folder must not become the worker's json."""
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    pool = WorkerPool("math:sqrt", workers=1)
    assert pool.map([9])[0].value == 3
    pool.close()


def test_a_pool_has_a_worker() -> None:
    with pytest.raises(ValueError, match="one worker at least"):
        WorkerPool("math:sqrt", workers=0)


def test_starting_is_cheap() -> None:
    """What a worker imports before it is told what to do."""
    heavy = ("torch", "numpy", "pydantic")
    program = f"import sys, plaudit.rewards.worker; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
