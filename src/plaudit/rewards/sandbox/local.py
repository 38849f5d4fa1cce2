"""What the sandboxes of this machine have in common: the launcher is started, fed, and watched."""

from __future__ import annotations

import marshal
import math
import os
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plaudit.rewards.sandbox.base import (
    MOST_TIMEOUTS,
    NOT_RUN,
    Called,
    Outcome,
    Sandbox,
    SandboxTrouble,
    TestCode,
    Verdict,
)
from plaudit.rewards.sandbox.handles import Handles
from plaudit.rewards.sandbox.inside import plain
from plaudit.rewards.sandbox.limits import MIB, Limits
from plaudit.rewards.sandbox.reports import Reports, called
from plaudit.rewards.sandbox.shipping import code, shipped
from plaudit.rewards.sandbox.supervise import Member, supervise

_BOOT = (
    "import marshal;f=open({fd},'rb');g=marshal.loads(f.read());f.close();"
    "m={{'__name__':'launcher'}};exec(g.pop('launcher'),m);m['run'](*m[g['how']](m['main'](g)))"
)
_OPTIONS = ("-P", "-s", "-S", "-B", "-X", "utf8")
_INTERPRETER = 64 * MIB
"""Address space that Python itself needs."""
_GRACE = 5.0
"""Seconds that the tests have longer than the program, so that a program that hangs is ended before them."""
_MOST_REPLIES = plain.MOST_BYTES
"""Bytes of all results of one program together."""
_FILES = 128
"""Files that a program may have open."""


@dataclass(frozen=True, slots=True)
class Place:
    """How one sandbox is started.

    Attributes:
        command: the words before the interpreter's options; the interpreter is the last.
        folder: where the program works, as it sees it.
        uid: whom the launcher becomes; None: it stays who it is.
        counts_processes: whether RLIMIT_NPROC counts those of this sandbox alone.
        paths: of further packages.
        fds: descriptors that the command needs.
    """

    command: Sequence[str]
    folder: str
    uid: int | None = None
    counts_processes: bool = False
    paths: Sequence[str] = ()
    fds: Sequence[int] = ()


class LocalSandbox(Sandbox):
    """See `Sandbox`.

    Attributes:
        isolated: whether the launcher is process 1 of a namespace.
    """

    isolated = True

    @abstractmethod
    def _place(self, limits: Limits, handles: Handles) -> Place:
        """How to start one more."""

    def run(
        self, source: str, stdin: bytes = b"", *, files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> Outcome:
        """See `Sandbox.run`."""
        self.check()
        return self._run(source, stdin, files or {}, limits or Limits())

    def _run(self, source: str, stdin: bytes, files: Mapping[str, bytes], limits: Limits) -> Outcome:
        for name in files:
            if not name or os.path.isabs(name) or ".." in name.split("/"):
                raise ValueError(f"{name!r} is no path below the working folder")
        text = source.encode("utf-8", "surrogatepass")
        what = {"how": "script", "source": text, "name": "main.py", "files": {**files, "main.py": text}}
        with Handles() as handles:
            member = self._start(handles, what, limits, stdin=stdin)
            supervise([member])
            return member.outcome()

    def call(
        self,
        source: str,
        function: str,
        arguments: Sequence[Sequence[Any]],
        limits: Limits | None = None,
        stop: bool = False,
    ) -> list[Called]:
        """See `Sandbox.call`."""
        self.check()
        done: list[Called] = []
        timeouts = 0
        while len(done) < len(arguments):
            if timeouts == MOST_TIMEOUTS:
                return [*done, *[Called("lost", why=NOT_RUN)] * (len(arguments) - len(done))]
            rest = [plain.encode(tuple(given)) for given in arguments[len(done) :]]
            replies, outcome = self._call(source, function, rest, limits or Limits())
            for reply in replies:
                result, for_all = called(reply)
                done += [result] * (len(arguments) - len(done) if for_all else 1)
                if stop and result.state != "returned":
                    return done
            if len(done) < len(arguments):
                timeouts += outcome.ended in ("cpu", "wall")
                done.append(Called("lost", why=outcome.reason or "it ended before it answered"))
                if stop:
                    return done
        return done[: len(arguments)]

    def _call(
        self, source: str, function: str, arguments: Sequence[bytes], limits: Limits
    ) -> tuple[list[bytes], Outcome]:
        """The replies, one per call at most, and how the program ended."""
        replies: list[bytes] = []
        with Handles() as handles:
            ends = handles.pipe()
            data = {"task": "calls", "source": source, "function": function, "arguments": arguments, "out": ends[1]}
            member = self._start(handles, _driver("solution", data), limits, times=len(arguments), fds=ends[1:])

            def heard(frame: bytes) -> None:
                if sum(map(len, replies)) + len(frame) > _MOST_REPLIES:
                    member.kill("output")
                elif len(replies) < len(arguments):
                    replies.append(frame)
                    member.renew()

            _listen(handles, member, ends, heard)
            supervise([member])
            return replies, member.outcome()

    def grade(self, source: str, tests: TestCode, limits: Limits | None = None, stop: bool = False) -> list[Verdict]:
        """See `Sandbox.grade`."""
        self.check()
        done: list[Verdict] = []
        timeouts = 0
        while len(done) < len(tests.entries):
            if timeouts == MOST_TIMEOUTS:
                return [*done, *[Verdict(False, NOT_RUN)] * (len(tests.entries) - len(done))]
            rest = replace(tests, entries=tests.entries[len(done) :])
            found, timed_out = self._grade(source, rest, limits or Limits(), stop)
            done += found
            timeouts += timed_out
            if stop and not all(v.passed for v in done):
                break
        return done

    def _grade(self, source: str, tests: TestCode, limits: Limits, stop: bool) -> tuple[list[Verdict], bool]:
        """The verdicts of as many tests as the program lived through, one at least, and whether it ran out of time."""
        reports, many = Reports(len(tests.entries)), len(tests.entries)
        with Handles() as handles:
            asked, answered, report = handles.pipe(), handles.pipe(), handles.pipe()
            asks: dict[str, Any] = {"setup": tests.setup, "entries": list(tests.entries), "wanted": list(tests.names)}
            asks["stop"] = stop
            asks |= {"inbox": answered[0], "outbox": asked[1], "report": report[1]}
            served: dict[str, Any] = {"task": "serve", "source": source, "function": tests.function}
            served |= {"inbox": asked[0], "outbox": answered[1]}
            wider, fds = replace(limits, wall_seconds=limits.wall + _GRACE), [answered[0], asked[1], report[1]]
            members = [self._start(handles, _driver("grader", asks), wider, times=many, fds=fds)]

            def heard(frame: bytes) -> None:
                reports.hear(frame)
                for member in members:
                    member.renew()

            _listen(handles, members[0], report, heard)
            try:
                fds = [asked[0], answered[1]]
                members.append(self._start(handles, _driver("solution", served), limits, times=many, fds=fds))
            finally:  # each end is now held by one of the two alone, so that its end is heard
                handles.shut(*asked, *answered)
                supervise(members)
            outcomes = [member.outcome() for member in members]
            return reports.results(*outcomes), any(outcome.ended in ("cpu", "wall") for outcome in outcomes)

    def _start(
        self,
        handles: Handles,
        what: dict[str, Any],
        limits: Limits,
        *,
        stdin: bytes | None = None,
        times: int = 1,
        fds: Sequence[int] = (),
    ) -> Member:
        """Start a launcher; what it prints is kept where it is given stdin."""
        place = self._place(limits, handles)
        status, err = handles.pipe(), handles.pipe()
        out = handles.pipe() if stdin is not None else None
        if place.uid is not None:
            for pipe in (err, out or err):
                os.fchown(pipe[1], place.uid, place.uid)  # or /dev/stdout could not be opened
        given = {
            "files": {},
            **what,
            "launcher": code("launcher"),
            "uid": place.uid,
            "limits": _resources(limits, times, place.counts_processes),
            "folder": place.folder,
            "status": status[1],
            "paths": list(place.paths),
        }
        payload = handles.readable(marshal.dumps(given))
        process = _popen(
            [*place.command, *_OPTIONS, "-c", _BOOT.format(fd=payload)],
            stdin=subprocess.DEVNULL if stdin is None else handles.readable(stdin),
            stdout=subprocess.DEVNULL if out is None else out[1],
            stderr=err[1],
            pass_fds=[payload, status[1], *place.fds, *fds],
            env=_environment(place.folder),
            start_new_session=not self.isolated,
        )
        pipes = {"status": status, "stderr": err} | ({} if out is None else {"stdout": out})
        for pipe in pipes.values():
            handles.shut(pipe[1])
        ends = {name: handles.give(pipe[0]) for name, pipe in pipes.items()}
        return Member(process, limits, ends, isolated=self.isolated)


def _popen(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, cwd="/", **options)
    except OSError as error:
        raise SandboxTrouble(f"the sandbox did not start: {error}") from error


def _listen(handles: Handles, member: Member, ends: tuple[int, int], heard: Callable[[bytes], None]) -> None:
    handles.shut(ends[1])
    member.pipes["frames"] = handles.give(ends[0])
    member.on_frame = heard


def _driver(name: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"how": "module", "code": code(name), "shipped": shipped(), "data": data}


def _environment(folder: str) -> dict[str, str]:
    # Sets must come out in the same order each time; arenas and threads take address space that is limited.
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _resources(limits: Limits, times: int, counts_processes: bool) -> dict[str, int]:
    found = {
        "RLIMIT_CPU": math.ceil(limits.cpu_seconds * times) + 1,
        "RLIMIT_FSIZE": limits.file_mib * MIB,
        "RLIMIT_NOFILE": _FILES,
        "RLIMIT_CORE": 0,
    }
    if sys.platform == "linux":
        found |= {"RLIMIT_AS": limits.memory_mib * MIB + _INTERPRETER, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0}
        found |= {"RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0}
    if counts_processes:
        found["RLIMIT_NPROC"] = limits.processes
    return found
