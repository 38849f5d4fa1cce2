"""DPO against TRL 1.16.0: `python -m benchmarks.dpo_vs_trl --size 10m --repeats 3`.

Both sides get the same JSONL rows in the same order, the same model folder, fused AdamW, learning rate, clipping,
precision, thread count and pairs per optimiser step. The time is that of whole optimiser steps (data, reference forward
unless cached, forward, backward, clipping, update) after one warm-up step; a reference forward that is done ahead for
all rows is added, in the share of the measured rows. Stated choices:

- TRL's own default precision is bf16 autocast; both sides compute in the precision given by --precision (fp32).
- "TRL default" keeps TRL's gradient checkpointing, batch of 8 pairs and reference forward in every step; gradients
  are accumulated up to the same pairs per step. "TRL best" switches checkpointing off, takes its reference log-probs
  from its own warm cache, and uses the fastest batch of a sweep.
- "ours" never checkpoints. The row order is the file's on both sides; no side writes checkpoints or evaluates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import Comparison, check_reference, check_same_work, compare, comparison_table, variant_table
from benchmarks.harness import (
    BENCH,
    MIB,
    ROOT,
    BenchmarkError,
    Measurement,
    Session,
    Variant,
    environment,
    interleave,
    say,
    write_results,
)
from benchmarks.workload import ARCHITECTURES, PreferenceWorkload, materialise

TRL = "trl==1.16.0"
LEAST_SPEED = 3.0
MOST_MEMORY = 0.45
LOSS_TOLERANCE = 1e-3
SWEEP = (2, 4, 8, 16)


def trl_variant(python: Path, name: str, batch: int, *, best: bool) -> Variant:
    """TRL with its defaults, or with what makes it fastest on this workload."""
    return Variant(
        name=name,
        side="rival",
        python=python,
        module="benchmarks.trl_dpo",
        options={
            "per_device_batch": batch,
            "gradient_checkpointing": not best,
            "precompute_ref_log_probs": best,
            "logging_steps": 10**6 if best else 10,
        },
        note=(
            f"gradient checkpointing off, reference log-probs from its warm cache, batch of {batch} pairs"
            if best
            else f"gradient checkpointing on, reference forward every step, batch of {batch} pairs"
        ),
        warm_reference=best,
    )


def our_variant(name: str, tokens: int, *, warm: bool) -> Variant:
    """plaudit in this environment, with its default settings or with a warm reference cache."""
    return Variant(
        name=name,
        side="ours",
        python=Path(sys.executable),
        module="benchmarks.plaudit_dpo",
        options={"tokens_per_microbatch": tokens, "reference_cache": "reference" if warm else "off"},
        note=f"no gradient checkpointing, {tokens} tokens per micro-batch, "
        + ("reference log-probs from its warm cache" if warm else "reference forward of every row"),
        warm_reference=warm,
    )


def sweep_trl(session: Session, python: Path, batches: Sequence[int]) -> dict[int, dict[str, float]]:
    """Seconds per step and peak memory of TRL's best settings at each batch, one short run each."""
    table: dict[int, dict[str, float]] = {}
    for batch in batches:
        measured = session.run(trl_variant(python, f"TRL sweep {batch}", batch, best=True), steps=1)
        table[batch] = {
            "seconds_per_step": measured.seconds,
            "cpu_seconds_per_step": measured.cpu_seconds,
            "peak_mib": measured.peak_bytes / MIB,
        }
        say(f"TRL sweep, batch {batch:2d}: {measured.seconds:7.2f} s/step, peak +{table[batch]['peak_mib']:.0f} MiB")
    return table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpo_vs_trl", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(ARCHITECTURES), default="10m")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; every variant runs once in each")
    parser.add_argument("--steps", type=int, default=3, help="measured optimiser steps after one warm-up step")
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every worker")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tokens-per-microbatch", type=int, default=4096, help="ours")
    parser.add_argument("--trl-batch", type=int, help="TRL's best per-device batch, instead of the sweep")
    parser.add_argument("--only", choices=("both", "trl", "ours"), default="both", help="one side: no ratios")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of one small step: a check, not a result")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.pairs_per_step, options.trl_batch = 1, 1, 8, options.trl_batch or 4
    for batch in {options.trl_batch or 2, min(8, options.pairs_per_step)}:
        if options.pairs_per_step % batch:
            parser.error(f"--pairs-per-step {options.pairs_per_step} is not a multiple of TRL's batch of {batch}")
    return options


def prepare(options: argparse.Namespace) -> tuple[Session, int]:
    """Write the workload; return the session and the number of unique tokens in the measured steps."""
    pairs = options.pairs_per_step
    workload = PreferenceWorkload(size=options.size, rows=pairs * (options.steps + 1), seed=options.seed)
    folder = materialise(workload, BENCH / "workloads")
    unique = json.loads((folder / "workload.json").read_text(encoding="utf-8"))["unique_tokens"]
    train = {
        "beta": 0.1,
        "learning_rate": 1e-4,
        "max_grad_norm": 1.0,
        "pairs_per_step": pairs,
        "precision": options.precision,
        "seed": 42,
    }
    scratch = BENCH / "scratch" / workload.name
    shutil.rmtree(scratch, ignore_errors=True)  # caches are filled by this very run, so "warm" means what it says
    return Session(workload=folder, train=train, threads=options.threads, scratch=scratch), sum(unique[pairs:])


def contenders(options: argparse.Namespace, session: Session) -> tuple[list[Variant], dict[int, dict[str, float]]]:
    """The variants to run, rivals first, with warm caches filled; and the sweep's table."""
    variants: list[Variant] = []
    sweep: dict[int, dict[str, float]] = {}
    if options.only != "ours":
        python = environment("trl-1.16.0", [TRL], ROOT / "constraints.txt")
        batch = options.trl_batch
        if batch is None:
            sweep = sweep_trl(session, python, [b for b in SWEEP if options.pairs_per_step % b == 0])
            # One thread: CPU time is wall time without the disturbance of a shared machine.
            cost = "cpu_seconds_per_step" if options.threads == 1 else "seconds_per_step"
            batch = min(sweep, key=lambda b: sweep[b][cost])
        variants += [
            trl_variant(python, "TRL default", min(8, options.pairs_per_step), best=False),
            trl_variant(python, "TRL best", batch, best=True),
        ]
    if options.only != "trl":
        tokens = options.tokens_per_microbatch
        variants += [our_variant("ours", tokens, warm=False), our_variant("ours, warm reference", tokens, warm=True)]
    for variant in variants:
        if variant.warm_reference:
            session.prime(variant, options.steps)
    return variants, sweep


def checked_run(session: Session, variant: Variant, steps: int) -> Measurement:
    """One measured run; a reference that is not where the variant says ends the benchmark at once."""
    measured = session.run(variant, steps)
    check_reference(variant, measured)
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables, write benchmarks/results/. Status 1 when the sides did not do the same work."""
    options = parse(arguments)
    session, unique_tokens = prepare(options)
    try:
        variants, sweep = contenders(options, session)
        runs = interleave(variants, options.repeats, lambda variant: checked_run(session, variant, options.steps))
        check_same_work(runs, variants, LOSS_TOLERANCE)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    ours = {v.warm_reference: v.name for v in variants if v.side == "ours"}
    rivals = [v for v in variants if v.side == "rival"]
    # Each rival meets the variant of ours with the same kind of reference: fresh against fresh, warm against warm.
    comparisons = [compare(ours[v.warm_reference], v.name, runs) for v in rivals if ours]
    report = markdown_report(options, variants, runs, comparisons, sweep, unique_tokens)
    say("\n" + report)
    suffix = ("-quick" if options.quick else "") + ("" if options.only == "both" else f"-{options.only}")
    content: dict[str, Any] = {
        "arguments": vars(options),
        "workload": json.loads((session.workload / "workload.json").read_text(encoding="utf-8")),
        "train": session.train,
        "variants": variants,
        "sweep": sweep,
        "runs": runs,
        "comparisons": comparisons,
    }
    name = f"dpo_vs_trl-{options.size}-{options.precision}{suffix}"
    say(f"\nwritten: {write_results(name, content, report).relative_to(ROOT)}")
    return 0


def markdown_report(
    options: argparse.Namespace,
    variants: Sequence[Variant],
    runs: dict[str, list[Measurement]],
    comparisons: Sequence[Comparison],
    sweep: dict[int, dict[str, float]],
    unique_tokens: int,
) -> str:
    """The page: what was compared, the ratios, the absolute numbers, TRL's sweep."""
    measured = runs[variants[0].name][0]
    tokens = unique_tokens / (options.steps * options.pairs_per_step)
    parts = [
        f"# DPO against {TRL}, {options.size} parameters, {options.precision}",
        f"{options.repeats} interleaved round(s) of {options.steps} optimiser step(s) after one warm-up step; "
        f"{options.pairs_per_step} pairs per step, {tokens:.0f} unique tokens per pair on average; "
        f"{options.threads} thread(s); torch {measured.versions['torch']}, "
        f"transformers {measured.versions['transformers']}. "
        "Peak memory is the increment over the post-import baseline.",
    ]
    if comparisons:
        parts.append(comparison_table(comparisons, LEAST_SPEED, MOST_MEMORY))
    parts.append(variant_table(variants, runs, options.pairs_per_step, unique_tokens))
    if sweep:
        rows = [
            f"| {b} | {r['seconds_per_step']:.2f} | {r['cpu_seconds_per_step']:.2f} | {r['peak_mib']:.0f} MiB |"
            for b, r in sweep.items()
        ]
        columns = "| pairs per batch | s/step | CPU s/step | peak memory |\n|---|---|---|---|"
        head = ["TRL's batch sweep (one step each, its best settings; the fastest is used):", "", columns]
        parts.append("\n".join([*head, *rows]))
    losses = {
        name: [round(median(step), 6) for step in zip(*(m.losses for m in ms), strict=True)]
        for name, ms in runs.items()
    }
    parts.append("Losses by step: " + "; ".join(f"{name} {values}" for name, values in losses.items()) + ".")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
