"""Tests of programs per second, each in a sandbox of its own kind.

    python -m benchmarks.code_tests --tests 200 --workers 2

The mix: half of the tests are input and output (a sandbox for each test), a quarter are calls (a sandbox for each
program, four tests each) and a quarter asserts (two sandboxes for each program, four tests each). Every program is
right, so that all of its tests run. Times include reading the row, starting and ending the sandboxes, and comparing.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.code import CodeOptions, CodeReward, cores

_PRIMES = """
def primes(n):
    sieve = [True] * (n + 1)
    for i in range(2, int(n ** 0.5) + 1):
        if sieve[i]:
            sieve[i * i :: i] = [False] * len(sieve[i * i :: i])
    return [i for i in range(2, n + 1) if sieve[i]]
"""
_COUNTS = {100: 25, 1000: 168, 10_000: 1229, 50_000: 5133}
"""Primes up to a number: what the tests ask for."""


def sample(form: str) -> Sample:
    """A right answer to four tests of one form."""
    source, row = _PRIMES, dict[str, Any]()
    if form == "input and output":
        source += "print(len(primes(int(input()))))\n"
        row = {"tests": [{"input": f"{n}\n", "output": f"{many}\n"} for n, many in _COUNTS.items()]}
    elif form == "calls":
        source += "def count(n): return len(primes(n))\n"
        row = {"tests": {"fn_name": "count", "inputs": [[n] for n in _COUNTS], "outputs": list(_COUNTS.values())}}
    else:
        row = {"test_list": [f"assert len(primes({n})) == {many}" for n, many in _COUNTS.items()]}
    return Sample("How many primes?", f"```python\n{source}```", row)


def rate(samples: list[Sample], workers: int, sandbox: str) -> float:
    """Tests per second."""
    reward = CodeReward(CodeOptions(workers=workers, sandbox=sandbox))
    try:
        reward.score(samples[:1])  # the sandbox is looked at once, before the first program
        start = time.perf_counter()
        results = reward.score(samples)
        seconds = time.perf_counter() - start
    finally:
        reward.close()
    wrong = [r for r in results if r.value != 1]
    if wrong:
        raise SystemExit(f"{len(wrong)} right programs did not pass, the first: {wrong[0]}")
    return sum(r.parts["tests"] for r in results) / seconds


def main() -> None:
    """Measure the forms one by one, then the mix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", type=int, default=200, help="tests per measurement")
    parser.add_argument("--workers", type=int, default=cores(), help="programs at the same time")
    parser.add_argument("--sandbox", default="bubblewrap", help="bubblewrap, process or the URL of a server")
    given = parser.parse_args()
    forms = ("input and output", "calls", "asserts")
    mix = [forms[0], forms[1], forms[0], forms[2]]
    programs = max(1, given.tests // 4)
    for name, kinds in (*((form, [form]) for form in forms), ("mix", mix)):
        samples = [sample(kinds[i % len(kinds)]) for i in range(programs)]
        found = rate(samples, given.workers, given.sandbox)
        sys.stdout.write(f"{name:18}{found:8.1f} tests/s with {given.workers} workers\n")


if __name__ == "__main__":
    main()
