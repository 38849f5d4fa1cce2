"""Watches running sandboxes from outside: reads what they print, holds them to their limits, and ends them."""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from struct import calcsize, unpack

from plaudit.rewards.sandbox import tree
from plaudit.rewards.sandbox.base import Ended, Outcome, SandboxTrouble
from plaudit.rewards.sandbox.inside.plain import Frames, Malformed
from plaudit.rewards.sandbox.limits import MIB, Limits

_INTERVAL = 0.03
"""Seconds between two looks at what a program uses."""
_START = 60.0
"""Seconds that a sandbox may take to start."""
_PATIENCE = 10.0
"""Seconds that an ended sandbox may take to vanish."""
_STDERR_TIMES = 64
"""A program that writes so many times what is kept of stderr is ended."""
_MOST_FILES = 10_000
_REPORT = "<id"


@dataclass(slots=True, eq=False)
class Member:
    """One running sandbox.

    Args:
        process: what was started; its stdout and stderr are not used.
        limits: of the program.
        pipes: what is read: stdout and stderr (kept), status (of the launcher), frames (of a driver).
        on_frame: told of each message.
        isolated: whether process 1 of a namespace takes everything with it when it ends.
    """

    process: subprocess.Popen[bytes]
    limits: Limits
    pipes: dict[str, int]
    on_frame: Callable[[bytes], None] | None = None
    isolated: bool = True
    started: float = field(default_factory=time.monotonic)
    kept: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    read: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    status: bytearray = field(default_factory=bytearray)
    frames: Frames = field(default_factory=Frames)
    ended: Ended | None = None
    cpu: float = 0.0
    wall: float = 0.0
    cpu_mark: float = 0.0
    wall_mark: float = 0.0
    seen: tree.Usage = field(default_factory=tree.Usage)
    tmp: int | None = None
    """an open folder on the program's /tmp"""
    gone: bool = False
    stopped: bool = False
    """ended from here, when it was not needed any more"""

    @property
    def report(self) -> tuple[int, float] | None:
        """What the launcher said at the end: exit code (of a signal, negative) and computing time.

        A program of the same user can write here too, and does itself no favour with it.
        """
        said = bytes(self.status[1:])
        if len(said) != calcsize(_REPORT):
            return None
        status, cpu = unpack(_REPORT, said)
        try:
            return os.waitstatus_to_exitcode(status), cpu if math.isfinite(cpu) else 0.0
        except ValueError:
            return None

    def renew(self) -> None:
        """The limits of time begin anew: another test has begun."""
        self.cpu_mark, self.wall_mark = tree.measure(self.process.pid).cpu_seconds, time.monotonic() - self.started

    def kill(self, why: Ended) -> None:
        """End it and all that it has started, because it ran into a limit."""
        if self.ended is None:
            self.ended = why
        self._kill()

    def stop(self) -> None:
        """End it and all that it has started, because it is not needed any more."""
        if self.report is None:  # else it has ended by itself, and has said how
            self.stopped = True
        self._kill()

    def clear_away(self) -> None:
        """It has ended: end what it has left behind."""
        self._kill()

    def _kill(self) -> None:
        if self.isolated:  # process 1 first: then what was started waits until nothing is left
            inner = tree.children(self.process.pid)
            for pid in inner or [self.process.pid]:
                tree.kill(pid)
            return
        for pid in {*self.seen.pids, *tree.measure(self.process.pid).pids}:
            tree.kill(pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def look(self) -> None:
        """See what it uses, and end it if that is too much."""
        if self.ended is not None or self.stopped:
            return
        if not self.status:  # the launcher has not come to the program yet: that is the machine's time
            if time.monotonic() - self.started > _START:
                self.stop()
            return
        now, limits = time.monotonic() - self.started, self.limits
        self.seen = tree.measure(self.process.pid)
        self.cpu = max(self.cpu, self.seen.cpu_seconds)
        if self.cpu - self.cpu_mark > limits.cpu_seconds:
            self.kill("cpu")
        elif now - self.wall_mark > limits.wall:
            self.kill("wall")
        elif self.seen.memory > limits.memory_mib * MIB:
            self.kill("memory")
        elif self.seen.threads > 2 * limits.processes:  # where the kernel does not count them
            self.kill("processes")
        elif self._too_many_files():
            self.kill("files")

    def _too_many_files(self) -> bool:
        """Empty files take the kernel's memory, which no size of a tmpfs counts."""
        if not self.isolated:
            return False
        if self.tmp is None:
            inner = tree.children(self.process.pid)
            with suppress(OSError, IndexError):
                self.tmp = os.open(f"/proc/{inner[0]}/root/tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self.tmp is None:
            return False
        space = os.fstatvfs(self.tmp)
        return space.f_files - space.f_ffree > _MOST_FILES

    def take(self, name: str, data: bytes) -> None:
        """What has come through a pipe."""
        if name == "status":
            if not self.status:
                self.renew()
            self.status += data
        elif name == "frames":
            self._take_frames(data)
        else:
            self.read[name] += len(data)
            room = self.limits.output_kib * 1024 - len(self.kept[name])
            self.kept[name] += data[: max(0, room)]
            most = self.limits.output_kib * 1024 * (1 if name == "stdout" else _STDERR_TIMES)
            if self.read[name] > most and self.ended is None:
                self.kill("output")

    def _take_frames(self, data: bytes) -> None:
        try:
            messages = self.frames.feed(data)
        except Malformed:
            self.kill("output")
            return
        for message in messages:
            if self.on_frame is not None:
                self.on_frame(message)

    def finish(self) -> None:
        """Wait until it has gone."""
        if self.tmp is not None:
            os.close(self.tmp)
            self.tmp = None
        until = time.monotonic() + _PATIENCE
        while not self.gone:
            pid, status = os.waitpid(self.process.pid, os.WNOHANG)
            if pid:
                self.gone = True
                self.process.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                tree.kill(self.process.pid)
                until += _PATIENCE
            else:
                time.sleep(0.0005)
        self.wall = time.monotonic() - self.started
        if not self.isolated:
            self.clear_away()

    def outcome(self) -> Outcome:
        """How it ended.

        Raises:
            SandboxTrouble: the launcher has not come so far as to start the program.
        """
        if not self.status.startswith(b"R"):
            said = bytes(self.kept["stderr"]).decode(errors="replace").strip()[-500:]
            raise SandboxTrouble(
                f"the sandbox did not start (exit code {self.process.returncode}): {said or 'no word'}"
            )
        ended, code = self.ended, None
        if ended is None:
            report = self.report
            if self.stopped and (report is None or report[0] == -signal.SIGKILL):
                ended, code = "exit", 0  # the signal was ours, whether its launcher lived to tell of it or not
            elif report is None:
                ended, code = "signal", int(signal.SIGKILL)
            else:
                code, self.cpu = report[0], max(self.cpu, report[1])
                ended, code = ("signal", -code) if code < 0 else ("exit", code)
                if ended == "signal" and code == signal.SIGXCPU:
                    ended, code = "cpu", None
                elif ended == "signal" and code == signal.SIGXFSZ:
                    ended, code = "files", None
        cut = any(self.read[name] > len(self.kept[name]) for name in self.kept)
        out, err = bytes(self.kept["stdout"]), bytes(self.kept["stderr"])
        return Outcome(out, err, cut, ended, code, self.cpu, self.wall)


def supervise(members: Sequence[Member]) -> None:
    """Watch sandboxes until all have ended. When the first of them ends, the others are ended too.

    The program of each has its own limits; the pipes are closed.
    """
    with selectors.DefaultSelector() as selector:
        for member in members:
            for name, fd in member.pipes.items():
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ, (member, name))
        open_pipes = {member: set(member.pipes) for member in members}
        try:
            _loop(members, open_pipes, selector)
        finally:
            for member in members:
                if open_pipes[member]:
                    member.stop()
                for name in open_pipes[member]:
                    os.close(member.pipes[name])
                member.finish()


def _loop(members: Sequence[Member], open_pipes: dict[Member, set[str]], selector: selectors.BaseSelector) -> None:
    look = time.monotonic() + _INTERVAL
    while any(open_pipes.values()):
        for key, _ in selector.select(max(0.0, look - time.monotonic())):
            member, name = key.data
            if name not in open_pipes[member]:  # closed meanwhile, and its number may be another's
                continue
            try:
                data = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            if data:
                member.take(name, data)
                continue
            selector.unregister(key.fd)
            os.close(key.fd)
            open_pipes[member].discard(name)
            if name == "status":
                _ended(member, members, open_pipes, selector)
        if time.monotonic() >= look:
            for member in members:
                if open_pipes[member]:
                    member.look()
            look = time.monotonic() + _INTERVAL


def _ended(
    member: Member,
    members: Sequence[Member],
    open_pipes: dict[Member, set[str]],
    selector: selectors.BaseSelector,
) -> None:
    """The launcher of one has gone, and with it the program."""
    if member is members[0]:
        for other in members[1:]:
            other.stop()
    if member.isolated:
        return
    member.clear_away()  # what it left behind may hold the pipes open for ever
    for name in open_pipes[member]:
        fd = member.pipes[name]
        with suppress(BlockingIOError):
            while data := os.read(fd, 1 << 16):
                member.take(name, data)
        selector.unregister(fd)
        os.close(fd)
    open_pipes[member].clear()
