"""What a sandbox does: run a program, call its functions, let tests call them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plaudit.rewards.sandbox.limits import Limits

Ended = Literal["exit", "signal", "cpu", "wall", "memory", "processes", "output", "files"]
"""exit: by itself. signal: killed, by itself or the kernel. The others: it ran into that limit."""

LIMITS: dict[str, str] = {
    "cpu": "it ran out of computing time",
    "wall": "it ran out of time",
    "memory": "it ran out of memory",
    "processes": "it started too many processes",
    "output": "it printed too much",
    "files": "it made too many files",
}
"""What to say of a limit."""


MOST_TIMEOUTS = 3
"""After so many tests that ran out of time the others count as failed too: a program that hangs must not hold up a
training for as long as it has tests."""
NOT_RUN = f"not run: {MOST_TIMEOUTS} tests ran out of time"


class SandboxTrouble(Exception):
    """The sandbox itself failed: nothing is known of the program.

    Attributes:
        unavailable: whether it could not be reached, rather than broke.
    """

    def __init__(self, message: str, *, unavailable: bool = False) -> None:
        super().__init__(message)
        self.unavailable = unavailable


class BadTests(Exception):
    """The tests cannot be run, whatever the program is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        stdout, stderr: what it printed, cut at the limit.
        cut: whether something was cut off.
        ended: how.
        code: the exit code, or the number of the signal; None where a limit ended it.
        cpu_seconds: computing time of all its processes, with the sandbox's start.
        wall_seconds: time by the clock.
    """

    stdout: bytes
    stderr: bytes
    cut: bool
    ended: Ended
    code: int | None
    cpu_seconds: float
    wall_seconds: float

    @property
    def reason(self) -> str:
        """Why it cannot count as done, in a few words; empty where it ended with exit code 0."""
        if self.ended in LIMITS:
            return LIMITS[self.ended]
        if self.ended == "signal":
            return f"it was ended by signal {self.code}"
        return f"it ended with exit code {self.code}" if self.code else ""


@dataclass(frozen=True, slots=True)
class Called:
    """What one call came to.

    Attributes:
        state: returned: plain data. raised: an exception. refused: what was returned is no plain data. lost: the
            program ended.
        value: what was returned.
        why: the exception, or the reason.
    """

    state: Literal["returned", "raised", "refused", "lost"]
    value: Any = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class TestCode:
    """Tests that are code.

    Attributes:
        setup: run before them.
        entries: each a test of its own: statements that raise where it fails.
        names: of the program, that the tests use.
        function: the function under test, which may be a method of a class Solution.
    """

    __test__ = False  # pytest takes it for tests otherwise

    setup: str
    entries: tuple[str, ...]
    names: tuple[str, ...]
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one test: whether it passed, and why not."""

    passed: bool
    why: str = ""


class Sandbox(ABC):
    """A place to run programs in. Called from any thread, and from several at once.

    Attributes:
        name: what it is called in configurations.
    """

    name: str

    @abstractmethod
    def check(self) -> None:
        """Make sure that it works here.

        Raises:
            RewardError: PL707, it does not.
        """

    @abstractmethod
    def run(
        self, source: str, stdin: bytes = b"", *, files: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> Outcome:
        """Run a Python program alone.

        Args:
            source: its text.
            stdin: what it can read.
            files: relative path → content, in its working folder.

        Raises:
            SandboxTrouble: the sandbox failed.
            RewardError: PL707, it does not work here.
        """

    @abstractmethod
    def call(
        self,
        source: str,
        function: str,
        arguments: Sequence[Sequence[Any]],
        limits: Limits | None = None,
        stop: bool = False,
    ) -> list[Called]:
        """Call a function, or a method of the class Solution, once with each tuple of plain arguments.

        The limits hold for each call. Where the program ends in a call, it is started anew for the next.

        Args:
            stop: a call that does not return is the last.

        Returns:
            One per tuple of arguments, or fewer with `stop`.

        Raises:
            SandboxTrouble: the sandbox failed.
        """

    @abstractmethod
    def grade(self, source: str, tests: TestCode, limits: Limits | None = None, stop: bool = False) -> list[Verdict]:
        """Run the tests in one sandbox and the program in another.

        The limits hold for each test. Where the program ends in a test, both are started anew for the next.

        Args:
            stop: a test that fails is the last.

        Returns:
            One per test, or fewer with `stop`.

        Raises:
            SandboxTrouble: the sandbox failed.
            BadTests: the tests themselves are unusable.
        """

    def close(self) -> None:
        """End what was started. It can be used again afterwards."""
