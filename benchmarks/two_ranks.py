"""One process against two of one thread each: `python -m benchmarks.two_ranks --method dpo --size 10m`.

The two processes are started by torchrun on this machine and talk by gloo over the loopback interface. The workload is
that of `benchmarks.offline_vs_trl`. All contenders take the same optimiser steps, and their losses must agree to
1e-5. The time is that of whole optimiser steps after one warm-up step; the reference of DPO is scored before them.

Communication is the time inside of collectives, copies into buffers included. A process that comes first waits there
for the other one, so the share of the process that waits least is given beside that of the other, and how unevenly
positions are shared out. One process with two threads is measured too: it is what the second core is for otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import paired_ratio
from benchmarks.harness import MIB, ROOT, BenchmarkError, Session, Variant, say, write_results
from benchmarks.offline_methods import METHODS, relative_gap
from benchmarks.offline_vs_trl import add_common_options, prepare
from benchmarks.ranks_worker import rank_file

LOSS_TOLERANCE = 1e-5
"""Largest relative difference of a step's loss; with fp32."""
ONE, THREADS, TWO = "one process", "one process, two threads", "two processes"

Run = list[dict[str, Any]]
"""What each process of a run wrote, in the order of their ranks"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    headline = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_ranks", description=headline)
    add_common_options(parser)
    parser.set_defaults(tokens_per_microbatch=2048)  # a step has several micro-batches, or they cannot be shared out
    parser.add_argument("--sharding", help="train.sharding of the two processes; left out, theirs is the default")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.pairs_per_step, options.tokens_per_microbatch = 1, 1, 4, 512
    return options


def torchrun(processes: int) -> tuple[str, ...]:
    """The launcher's arguments, with a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = ("--master-addr=127.0.0.1", f"--master-port={port}")
    return ("-m", "torch.distributed.run", f"--nproc-per-node={processes}", *address)


def contenders(tokens: int | str, sharding: str | None) -> list[Variant]:
    """One process, the same with two threads, two processes of one thread each."""

    def contender(name: str, threads: int, **more: Any) -> Variant:
        options = {"tokens_per_microbatch": tokens, "reference_cache": "off"}
        python, module = Path(sys.executable), "benchmarks.ranks_worker"
        return Variant(name, "ours", python, module, {**options, **more}, threads=threads)

    train = {} if sharding is None else {"train": {"sharding": sharding}}
    return [contender(ONE, 1), contender(THREADS, 2), contender(TWO, 1, **train)]


def run(session: Session, variant: Variant, steps: int) -> Run:
    """One measured run: the result of every process."""
    processes = 2 if variant.name == TWO else 1
    shutil.rmtree(session.scratch / "plaudit", ignore_errors=True)
    others = [rank_file(session.scratch / "result.json", rank) for rank in range(1, processes)]
    for file in others:
        file.unlink(missing_ok=True)
    if processes > 1:
        variant = Variant(**{**vars(variant), "launcher": torchrun(processes)})
    found = [session.work(variant, steps), *(json.loads(f.read_text(encoding="utf-8")) for f in others)]
    seconds = found[0]["seconds"] / found[0]["steps"]
    shares = ", ".join(f"{100 * share:.1f} %" for share in communication(found))
    say(f"{variant.name:<26} {seconds:7.2f} s/step  communication {shares}")
    return found


def communication(found: Run) -> list[float]:
    """Share of the time in collectives, by process."""
    return [float(r["communication_seconds"] / r["seconds"]) for r in found]


def check_losses(runs: Mapping[str, Sequence[Run]]) -> float:
    """Largest relative difference of a loss between any two runs. Raises BenchmarkError beyond the tolerance."""
    first = runs[ONE][0][0]["losses"]
    gap = max(relative_gap(first, r[0]["losses"]) for rounds in runs.values() for r in rounds)
    if not gap <= LOSS_TOLERANCE:
        raise BenchmarkError(f"the losses of one and of two processes differ by {gap:.1e} of their size")
    return gap


def report(options: argparse.Namespace, runs: Mapping[str, Sequence[Run]], gap: float) -> str:
    """The page."""
    lines = [
        "| | s/step (median, min–max) | speed ÷ one process (min–max) | communication, share of the step: least, most "
        "| positions, most ÷ mean of the processes | peak memory of a process |",
        "|---|---|---|---|---|---|",
    ]
    base = [r[0]["seconds"] for r in runs[ONE]]
    for name, rounds in runs.items():
        seconds = [r[0]["seconds"] / r[0]["steps"] for r in rounds]
        speed = paired_ratio(base, [r[0]["seconds"] for r in rounds])
        least, most = (median(pick(communication(r)) for r in rounds) for pick in (min, max))
        shares = "" if name != TWO else f"{100 * least:.1f} %, {100 * most:.1f} %"
        positions = [p["grad_tokens"] for p in rounds[0]]
        uneven = max(positions) * len(positions) / sum(positions)
        peak = max(p["peak_bytes"] for r in rounds for p in r) / MIB
        lines.append(
            f"| {name} | {median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) | **{speed}** | {shares}"
            f" | {uneven:.2f} | {peak:.0f} MiB |"
        )
    sharding = "" if options.sharding is None else f", train.sharding={options.sharding}"
    return "\n\n".join(
        [
            f"# Two processes, {options.method}, {options.size} parameters, {options.workload}{sharding}",
            f"{options.repeats} interleaved round(s) of {options.steps} optimiser step(s) after one warm-up step; "
            f"{options.pairs_per_step} pairs per step; gloo over loopback. Losses agree to {gap:.0e}.",
            "\n".join(lines),
        ]
    )


def main(arguments: Sequence[str] | None = None, *, folder: Path | None = None) -> int:
    """Run, print the table, write benchmarks/results/. Status 1 when the losses differ."""
    options = parse(arguments)
    assert options.method in METHODS
    session = prepare(options, folder="-ranks").session
    variants = contenders(options.tokens_per_microbatch, options.sharding)
    runs: dict[str, list[Run]] = {v.name: [] for v in variants}
    try:
        for _ in range(options.repeats):
            for variant in variants:
                runs[variant.name].append(run(session, variant, options.steps))
        gap = check_losses(runs)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    page = report(options, runs, gap)
    say("\n" + page)
    sharding = "" if options.sharding is None else f"-{options.sharding}"
    name = f"two_ranks-{options.method}-{options.size}-{options.workload}{sharding}{'-quick' if options.quick else ''}"
    content = {"arguments": vars(options), "runs": runs, "relative_loss_gap": gap}
    target = write_results(name, content, page, **({"folder": folder} if folder else {}))
    say(f"\nwritten: {target.relative_to(ROOT) if target.is_relative_to(ROOT) else target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
