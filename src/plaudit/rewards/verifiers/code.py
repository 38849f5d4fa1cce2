"""The reward `code`: programs are run against tests.

A policy under optimisation will find whatever in the grading can be had without solving the task. So the verdict is
never made where the program runs: what it prints or returns is compared outside, the expected values never enter its
sandbox, and tests that are code run in another one. The worst that a program can do is to answer wrongly.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from plaudit.errors import PlauditError
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.sandbox.base import (
    MOST_TIMEOUTS,
    NOT_RUN,
    BadTests,
    Called,
    Sandbox,
    SandboxTrouble,
    TestCode,
    Verdict,
)
from plaudit.rewards.sandbox.limits import Limits
from plaudit.rewards.sandbox.open import open_sandbox
from plaudit.rewards.verifiers.code_compare import same_text, same_value, shown
from plaudit.rewards.verifiers.code_program import defines, program
from plaudit.rewards.verifiers.code_tests import Calls, Streams, Tests, prompt_code, read_tests, toothless
from plaudit.rewards.workers import cores

_MOST_SOURCE = 1 << 20
"""Longest program, in characters."""


class CodeOptions(RewardOptions):
    """Where programs run, and how they are judged."""

    sandbox: str = "bubblewrap"
    """bubblewrap; the http(s) URL of a machine that runs programs (`plaudit sandbox`, or SandboxFusion for tests of
    input and output); or process, which isolates nothing and is for programs that are trusted."""
    tests: str | None = None
    """Column with the tests; default is the first of tests, test_cases, input_output, test_list and test."""
    language: Literal["python"] = "python"
    """Of the programs."""
    partial: bool = False
    """Give the share of the tests that pass instead of 1 for all and else 0. A row with a test that asserts nothing
    cannot be used then."""
    tolerance: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Numbers that differ by less are the same, absolutely or relative to the expected one; default is exactly."""
    cpu_seconds: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Computing time of one test."""
    wall_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Time of one test by the clock; default is three times the computing time and two seconds."""
    memory_mib: int = Field(512, ge=32)
    """Memory of a program, in MiB."""
    processes: int = Field(16, ge=3)
    """Processes and threads of a program; two are the sandbox's own."""
    site_packages: bool = False
    """Let programs import the packages that are installed here."""
    workers: int | None = Field(None, ge=1)
    """Programs that run at the same time; default is one per core."""


class CodeReward(Reward):
    """1 where a program passes all of its tests.

    It runs in a sandbox. What it prints or returns is compared outside, and tests that are code run in another one."""

    kind = "code"
    title = "A program passes its tests, in a sandbox"
    Options = CodeOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        o = self.options
        self._limits = Limits(
            cpu_seconds=o.cpu_seconds, wall_seconds=o.wall_seconds, memory_mib=o.memory_mib, processes=o.processes
        )
        self._sandbox: Sandbox = open_sandbox(o.sandbox, site_packages=o.site_packages)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Reward`. Without the option any of several will do."""
        return (self.options.tests,) if self.options.tests is not None else ()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`.

        Raises:
            RewardError: PL707, the sandbox does not work here.
        """
        self._sandbox.check()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.options.workers or cores(), thread_name_prefix="plaudit-code")
            running = [self._pool.submit(self._scored, sample) for sample in samples]
        return [each.result() for each in running]

    def fingerprint(self) -> str:
        """See `Reward`."""
        return f"{self.kind}:{self.options.model_dump_json(exclude={'workers'})}"

    def close(self) -> None:
        """See `Reward`."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)  # programs that have not begun are not wanted any more
        self._sandbox.close()

    def _scored(self, sample: Sample) -> RewardResult:
        start = time.perf_counter()
        try:
            result = self._judged(sample, read_tests(sample, self.options.tests))
        except (BadRow, BadTests) as problem:
            result = RewardResult.failed("bad_row", str(problem))
        except SandboxTrouble as trouble:
            result = RewardResult.failed("unavailable" if trouble.unavailable else "crash", str(trouble))
        except PlauditError:
            raise
        except Exception as error:  # a bug here must not cost the other answers theirs; it is shown and counted
            result = RewardResult.failed("exception", f"{type(error).__name__}: {error}")
        return result.timed(time.perf_counter() - start)

    def _judged(self, sample: Sample, tests: Tests) -> RewardResult:
        many = len(tests.entries) if isinstance(tests, TestCode) else len(tests.cases)
        free = toothless(tests) if self.options.partial else None
        if free is not None:
            raise BadRow(f"the test {shown(free)} asserts nothing: with partial any program would have a share for it")
        source = _source(sample, tests)
        if source is None:
            return RewardResult.of(0.0, parts={"tests": many, "passed": 0}, note="there is no program in the answer")
        if len(source) > _MOST_SOURCE:
            return RewardResult.of(0.0, parts={"tests": many, "passed": 0}, note="the program is too long")
        judge = _Judge(self._sandbox, self._limits, self.options.tolerance, stop=not self.options.partial)
        verdicts = judge.verdicts(source, tests)
        passed = sum(v.passed for v in verdicts)
        value = passed / many if self.options.partial else float(passed == many)
        note = next((_note(tests, i, many, v.why) for i, v in enumerate(verdicts) if not v.passed), "")
        return RewardResult.of(value, parts={"tests": many, "passed": passed}, note=note)


def _note(tests: Tests, number: int, many: int, why: str) -> str:
    what = f" {shown(tests.entries[number])}" if isinstance(tests, TestCode) else ""
    return f"test {number + 1} of {many}{what}: {why}"[:400]


def _source(sample: Sample, tests: Tests) -> str | None:
    """The program, behind the code that the prompt began it with."""
    text = sample.final
    source = program(text, _wanted(tests))
    function = tests.function if isinstance(tests, TestCode) else None
    begun = prompt_code(sample, function) if function is not None else None
    if begun is None or function is None:
        return source
    if source is None or not defines(source, function):
        return begun + (source if source is not None else text) if text.strip() else None
    return f"{begun}\n\n{source}"


def _wanted(tests: Tests) -> tuple[str, ...]:
    """Names that the tests use of the program."""
    return tests.names if isinstance(tests, TestCode) else (tests.function,) if isinstance(tests, Calls) else ()


@dataclass(frozen=True, slots=True)
class _Judge:
    """Runs one program against its tests."""

    sandbox: Sandbox
    limits: Limits
    tolerance: float | None
    stop: bool
    """a test that fails is the last"""

    def verdicts(self, source: str, tests: Tests) -> list[Verdict]:
        """Of each test, or up to the first that fails."""
        if isinstance(tests, TestCode):
            return self.sandbox.grade(source, tests, self.limits, self.stop)
        return self._streams(source, tests) if isinstance(tests, Streams) else self._calls(source, tests)

    def _streams(self, source: str, tests: Streams) -> list[Verdict]:
        done: list[Verdict] = []
        timeouts = 0
        for given, wanted in tests.cases:
            if timeouts == MOST_TIMEOUTS:
                done.append(Verdict(False, NOT_RUN))
                continue
            kib = max(self.limits.output_kib, 64 + 2 * math.ceil(len(wanted.encode("utf-8", "replace")) / 1024))
            stdin = given.encode("utf-8", "replace")
            outcome = self.sandbox.run(source, stdin, limits=replace(self.limits, output_kib=kib))
            printed = outcome.stdout.decode("utf-8", "replace")
            if outcome.reason:
                timeouts += outcome.ended in ("cpu", "wall")
                last = outcome.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
                done.append(Verdict(False, ": ".join([outcome.reason, *(line[:200] for line in last)])))
            elif same_text(printed, wanted, self.tolerance):
                done.append(Verdict(True))
            else:
                done.append(Verdict(False, f"printed {shown(printed)}, expected {shown(wanted)}"))
            if self.stop and not done[-1].passed:
                break
        return done

    def _calls(self, source: str, tests: Calls) -> list[Verdict]:
        arguments = [given for given, _ in tests.cases]
        done: list[Verdict] = []
        found = self.sandbox.call(source, tests.function, arguments, self.limits, self.stop)
        for called, (_, wanted) in zip(found, tests.cases, strict=False):
            done.append(self._returned(called, wanted, tests.wrapped))
            if self.stop and not done[-1].passed:
                break
        return done

    def _returned(self, called: Called, wanted: Any, wrapped: bool) -> Verdict:
        if called.state != "returned":
            return Verdict(False, called.why)
        alone = wrapped and isinstance(wanted, list) and len(wanted) == 1
        if same_value(called.value, wanted, self.tolerance) or (
            alone and same_value(called.value, wanted[0], self.tolerance)
        ):
            return Verdict(True)
        return Verdict(False, f"returned {shown(called.value)}, expected {shown(wanted)}")
