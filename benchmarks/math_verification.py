"""How many final answers of mathematics are verified in a second, on two cores.

    python -m benchmarks.math_verification               # three thousand answers, five rounds
    python -m benchmarks.math_verification --items 300 --repeats 1

Of a hundred answers 40 are integers, 30 fractions and 30 expressions; every third answer is wrong. Fifteen of the
expressions are roots, polynomials, intervals and sets; fifteen are powers, logarithms, trigonometry and nested roots.
The calling process decides what exact arithmetic can; how many answers were left to the workers is counted. No
reference and no answer comes twice, so nothing is remembered. Workers are started before the clock runs, and have seen
some answers.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness import RESULTS, say, write_results
from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.math import MathOptions, MathReward

BAR = 500
"""verifications per second of the mix, on two cores"""
SHARES = {"integers": 0.40, "fractions": 0.30, "exact expressions": 0.15, "algebra": 0.15}

Pair = tuple[str, str, str]
"""(reference, a right answer, a wrong one)"""


def integer(n: int, rng: random.Random) -> Pair:
    """Signs, thousands, units, a name before it."""
    value = n * 7 + rng.randrange(7)
    right = rng.choice([f"{value:,}", f"{value}.0", rf"{value}\text{{ cm}}", f"x = {value}", rf"\${value}"])
    return str(value), right, str(value + 1 + rng.randrange(9))


def fraction(n: int, rng: random.Random) -> Pair:
    """LaTeX, a slash, a common factor, mixed numbers."""
    below = n + 2
    above = below * rng.randrange(1, 4) + 1
    whole, rest = divmod(above, below)
    right = rng.choice(
        [
            rf"\dfrac{{{3 * above}}}{{{3 * below}}}",
            rf"{above}/{below}",
            rf"{whole}\frac{{{rest}}}{{{below}}}",
            rf"\frac{{-{above}}}{{-{below}}}",
        ]
    )
    return rf"\frac{{{above}}}{{{below}}}", right, rf"\frac{{{above + 1}}}{{{below}}}"


def exact_expression(n: int, rng: random.Random) -> Pair:
    """Roots, polynomials, intervals, sets."""
    a = n + 2
    return rng.choice(
        [
            (rf"{a}\sqrt{{2}}", rf"\frac{{{2 * a}}}{{\sqrt{{2}}}}", rf"{a}\sqrt{{3}}"),
            (rf"x^2+{2 * a}x+{a * a}", f"(x+{a})^2", f"(x-{a})^2"),
            (f"[{a},{2 * a})", rf"{a} \le x < {2 * a}", f"[{a},{2 * a}]"),
            (rf"\{{{a},-{a}\}}", rf"\pm {a}", f"{a}"),
            (rf"\frac{{{a}\pi}}{{2}}", rf"\frac{{{3 * a}\pi}}{{6}}", rf"\frac{{{a}\pi}}{{3}}"),
            (rf"\frac{{1}}{{x-{a}}}", rf"\frac{{x+{a}}}{{x^2-{a * a}}}", rf"\frac{{1}}{{x+{a}}}"),
        ]
    )


def algebra(n: int, rng: random.Random) -> Pair:
    """Powers, logarithms, trigonometry."""
    a = n + 2
    return rng.choice(
        [
            (rf"e^{{{2 * a}x}}", rf"(e^{{x}})^{{{2 * a}}}", rf"e^{{{a}x}}"),
            (rf"\ln {a * a}", rf"2\ln {a}", rf"\ln {a}"),
            (rf"\sin^2({a}x)", rf"1-\cos^2({a}x)", rf"\cos^2({a}x)"),
            (rf"2^{{{a}n}}", rf"2 \cdot 2^{{{a}n-1}}", rf"2^{{{a}n-1}}"),
            (rf"\sqrt[3]{{{a}}}", rf"{a}^{{1/3}}", rf"\sqrt[3]{{{a + 1}}}"),
            (rf"\log_{{2}} {a}", rf"\frac{{\ln {a}}}{{\ln 2}}", rf"\log_{{3}} {a}"),
            (rf"\sqrt{{x+{a}}}", rf"(x+{a})^{{\frac{{1}}{{2}}}}", rf"\sqrt{{x-{a}}}"),
            (rf"\sin({2 * a}x)", rf"2\sin({a}x)\cos({a}x)", rf"2\sin({a}x)"),
            (rf"1+\sqrt{{{a}}}", rf"\sqrt{{{a + 1}+2\sqrt{{{a}}}}}", rf"\sqrt{{{a}+2\sqrt{{{a}}}}}"),
        ]
    )


MAKERS: dict[str, Callable[[int, random.Random], Pair]] = {
    "integers": integer,
    "fractions": fraction,
    "exact expressions": exact_expression,
    "algebra": algebra,
}


def workload(kind: str, first: int, count: int) -> list[tuple[Sample, float]]:
    """Answers with the value that each must get; every third one is wrong."""
    rng = random.Random(first)
    found = []
    for n in range(first, first + count):
        gold, right, wrong = MAKERS[kind](n, rng)
        value = 0.0 if n % 3 == 0 else 1.0
        text = rf"We work it out step by step. So the answer is $\boxed{{{right if value else wrong}}}$."
        found.append((Sample("question", text, {"answer": gold}), value))
    return found


def left_to_workers(work: Sequence[tuple[Sample, float]]) -> float:
    """The share that the calling process cannot decide."""
    reward = MathReward()
    return sum(isinstance(reward.decided(sample), list) for sample, _ in work) / len(work)


def measure(reward: MathReward, work: Sequence[tuple[Sample, float]]) -> float:
    """Verifications per second. Every value is checked."""
    start = time.perf_counter()
    results = reward.score([sample for sample, _ in work])
    seconds = time.perf_counter() - start
    for (sample, value), result in zip(work, results, strict=True):
        assert result.value == value, (sample.row, sample.completion, result)
    return len(work) / seconds


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000, help="answers of the mix, in every round")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-results", action="store_true", help="write no files")
    args = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)  # workers inherit it
    rates: dict[str, list[float]] = {name: [] for name in (*MAKERS, "mix")}
    for turn in range(args.repeats):
        for name, found in one_round(args.items, args.workers, turn).items():
            rates[name].append(found)
        say(f"round {turn + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    shares = {kind: left_to_workers(workload(kind, 10**6, 200)) for kind in MAKERS}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    shares["mix"] = sum(SHARES[kind] * shares[kind] for kind in MAKERS)
    lines = [
        "| answers | median per second | least | most | left to the workers |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {n} | {medians[n]:,.0f} | {min(f):,.0f} | {max(f):,.0f} | {shares[n]:.0%} |" for n, f in rates.items()
    ]
    lines.append("")
    lines.append(f"The bar for the mix is {BAR} per second: {'reached' if medians['mix'] >= BAR else 'missed'}.")
    say("\n".join(lines))
    content = {"arguments": vars(args), "cores": len(cores), "shares": SHARES, "rates": rates, "medians": medians}
    content["left_to_workers"] = shares
    if not args.no_results:
        write_results("math_verification", content, "\n".join(lines), RESULTS)
    return content


def one_round(items: int, workers: int, turn: int) -> dict[str, float]:
    """Rates of every class alone, and of the mix, with fresh workers."""
    reward = MathReward(MathOptions(workers=workers))
    try:
        warm = [Sample("q", rf"\boxed{{\sin({k}x)}}", {"answer": rf"\cos({k}x)"}) for k in range(4 * workers)]
        reward.score(warm)
        at = 10_000 * turn
        rates = {}
        for kind in MAKERS:
            count = max(round(items * SHARES[kind]), 1)
            rates[kind] = measure(reward, workload(kind, at, count))
        work = [each for kind in MAKERS for each in workload(kind, at + 5000, max(round(items * SHARES[kind]), 1))]
        random.Random(turn).shuffle(work)
        rates["mix"] = measure(reward, work)
        return rates
    finally:
        reward.close()


if __name__ == "__main__":
    main()
