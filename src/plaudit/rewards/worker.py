"""A worker process of `plaudit.rewards.workers`: reads items, calls one function, writes what it returns.

    python -m plaudit.rewards.worker        # started by the pool, never by hand

Messages are JSON behind their length (4 bytes, big endian). The first says what to do, every further one is an item.
Standard output belongs to the protocol: it is moved out of the way before anything is imported, so that a print goes to
standard error. The limits of an item are set here, in the process that they hold for.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import struct
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

LENGTH = struct.Struct(">I")


def main() -> None:
    """Serve until standard input ends."""
    incoming = os.fdopen(os.dup(0), "rb", buffering=0)
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # Inherited by the children of what is called, a pipe would stay open after this process: fds of dup are private.
    setup = _read(incoming)
    if setup is None:
        return
    sys.path[:] = setup["path"]
    function = _found(setup["target"], outgoing)
    if function is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(incoming, items), daemon=True).start()
    _write(outgoing, {"ready": True})
    while True:
        item = items.get()
        _limit(setup["cpu_seconds"], setup["memory_bytes"])
        _write(outgoing, _reply(function, item["item"]))


def _receive(incoming: BinaryIO, items: queue.SimpleQueue[Any]) -> None:
    """Thread: takes messages, and ends the process when the pool is gone, whatever is being computed."""
    while (item := _read(incoming)) is not None:
        items.put(item)
    os._exit(0)


def _found(target: str, outgoing: BinaryIO) -> Callable[[Any], Any] | None:
    """The function; where it cannot be had, why, told to the pool."""
    module, _, name = target.rpartition(":")
    if name.isidentifier() and not module.endswith(".py"):
        with contextlib.suppress(Exception):  # it is tried again below, where what is wrong gets its words
            function = getattr(import_module(module), name)
            if callable(function):
                return cast(Callable[[Any], Any], function)
    from plaudit.errors import PlauditError
    from plaudit.rewards.function import find_function

    try:
        return find_function(target)
    except PlauditError as error:
        _write(outgoing, {"refused": [error.code, error.what, error.where, error.mend]})
        return None


def _reply(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    try:
        reply = {"value": function(item)}
        json.dumps(reply)
    except MemoryError:
        return {"memory": True}
    except Exception as error:  # of somebody else's code: it is this item's, and told
        return {"exception": f"{type(error).__name__}: {error}"[:2000]}
    return reply


def _limit(cpu_seconds: float, memory_bytes: int) -> None:
    """From here on: so much processor time and address space more than what is used now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    at = int(used.ru_utime + used.ru_stime + cpu_seconds) + 1  # the kernel counts whole seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (at if hard == resource.RLIM_INFINITY else min(at, hard), hard))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = _address_space() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (room if hard == resource.RLIM_INFINITY else min(room, hard), hard))


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _read(incoming: BinaryIO) -> Any:
    """The next message; None at the end."""
    head = _exactly(incoming, LENGTH.size)
    body = _exactly(incoming, LENGTH.unpack(head)[0]) if head is not None else None
    return None if body is None else json.loads(body)


def _exactly(incoming: BinaryIO, count: int) -> bytes | None:
    found = bytearray()
    while len(found) < count:
        part = incoming.read(count - len(found))
        if not part:
            return None
        found += part
    return bytes(found)


def _write(outgoing: BinaryIO, message: Any) -> None:
    data = json.dumps(message).encode()
    data = LENGTH.pack(len(data)) + data
    while data:
        data = data[outgoing.write(data) :]


if __name__ == "__main__":
    main()
