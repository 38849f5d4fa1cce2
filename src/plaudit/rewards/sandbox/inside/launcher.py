"""The first code in a sandbox: sets limits, becomes an ordinary user, and runs what it was given in a child.

It is process 1 of its namespace. When the program ends, it says how and ends too, and the kernel kills whatever the
program has left behind before anybody outside hears of it.
"""

from __future__ import annotations

import os
import resource
import sys
from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than most programs run
    from typing import Any


def main(given: dict[str, Any]) -> Any:
    """Set everything up; returns in the child alone, what is to be run.

    Args:
        given: uid (or None), limits (name of a resource → value), files (path → bytes), folder, status (fd), paths,
            source (text of a script) or code (a compiled module) with its data, and shipped (modules by name).
    """
    status: int = given["status"]
    if given["uid"] is not None:
        _become(given["uid"])
    for name, value in given["limits"].items():
        which = getattr(resource, name, None)
        if which is not None:
            _limit(which, value)
    os.umask(0o022)
    os.chdir(given["folder"])
    for name, data in given["files"].items():
        _write(name, data)
    os.write(status, b"R")
    child = os.fork()
    if child:
        _wait(child, status)
    os.close(status)
    sys.path[:0] = [given["folder"], *given["paths"]]
    return given


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (uid, uid, uid) or os.getgroups():
        raise SystemExit("the user could not be changed")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise SystemExit("the user could be changed back")


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # One second between the signal and the end, or a program that hits the limit cannot be told from a killed one.
    most = soft + 1 if which == resource.RLIMIT_CPU and soft != hard else soft
    try:
        resource.setrlimit(which, (soft, most))
    except (OSError, ValueError):
        if sys.platform == "linux":
            raise  # elsewhere (macOS) some limits exist by name only


def _write(name: str, data: bytes) -> None:
    folder = os.path.dirname(name)
    if folder:
        os.makedirs(folder, exist_ok=True)
    with open(name, "wb") as file:
        file.write(data)


def _wait(child: int, status: int) -> None:
    while True:
        pid, how, used = os.wait4(-1, 0)
        if pid == child:
            os.write(status, pack("<id", how, used.ru_utime + used.ru_stime))
            os._exit(0)


def script(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The program and its namespace, as `python main.py` has it."""
    import _sitebuiltins
    import builtins

    import __main__

    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")  # what `site` gives, which is not loaded
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    names = __main__.__dict__
    for name in [n for n in names if not n.startswith("__")]:
        del names[name]
    names["__file__"] = given["name"]
    return compile(given["source"], given["name"], "exec", dont_inherit=True), names


def module(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A module of ours, the others being importable under their own names."""
    kind = type(sys)
    for name, code in given["shipped"].items():
        made = sys.modules[name] = kind(name)
        if code is None:
            made.__path__ = []
        else:
            exec(code, made.__dict__)
    return given["code"], {"__name__": "__driver__", "given": given["data"]}


def run(code: Any, names: dict[str, Any]) -> None:
    """Run it, and end without taking the interpreter apart, which takes as long as many programs do."""
    exec(code, names)
    import atexit

    threads = sys.modules.get("threading")
    if threads is not None:
        threads._shutdown()
    atexit._run_exitfuncs()
    names.clear()  # files that the program has left open are written out
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except (AttributeError, OSError, ValueError):
        os._exit(120)  # as the interpreter does
    os._exit(0)
