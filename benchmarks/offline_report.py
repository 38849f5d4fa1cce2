"""The page that a comparison of offline training with TRL leaves."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.compare import Comparison, comparison_table, variant_table
from benchmarks.harness import Measurement, Variant
from benchmarks.offline_methods import METHODS, TRL


def result_name(options: argparse.Namespace) -> str:
    """What the files of a result are called."""
    suffix = ("-quick" if options.quick else "") + ("" if options.only == "both" else f"-{options.only}")
    return (
        f"offline_vs_trl-{options.method}-{options.size}-{options.workload}-{options.threads}-threads"
        f"-{options.precision}{suffix}"
    )


def markdown_report(
    options: argparse.Namespace,
    variants: Sequence[Variant],
    runs: Mapping[str, Sequence[Measurement]],
    content: Mapping[str, Any],
) -> str:
    """The page: what was compared, the ratios, the absolute numbers, TRL's sweep."""
    method, rows_per_step = METHODS[options.method], int(content["train"]["rows_per_step"])
    first = runs[variants[0].name][0]
    tokens = content["unique_tokens"] / (options.steps * rows_per_step)
    parts = [
        f"# {options.method} against {TRL}, {options.size} parameters, {options.workload}, {options.precision}",
        f"{options.repeats} interleaved round(s) of {options.steps} optimiser step(s) after one warm-up step; "
        f"{rows_per_step} {method.rows} per step, {tokens:.0f} unique tokens each on average; "
        f"{options.threads} thread(s); torch {first.versions['torch']}, "
        f"transformers {first.versions['transformers']}. "
        "Peak memory is the increment over the post-import baseline. Matrix products of the model's shapes: "
        f"{content['matmul_gflops']:.0f} GFLOP/s.",
    ]
    if method.note:
        parts.append(f"Made the same: {method.note}.")
    if method.by_batch:
        proof = content["proof"]
        said = f" In one batch of {proof['rows_per_batch']} they agree to {proof['relative_gap']:.0e}." if proof else ""
        parts.append(f"What differs: {method.by_batch}.{said}")
    if content["comparisons"]:
        comparisons: Sequence[Comparison] = content["comparisons"]
        parts.append(comparison_table(comparisons, method.bars, rows=method.rows))
    parts.append(
        variant_table(
            variants,
            runs,
            rows_per_step,
            content["unique_tokens"],
            rows=method.rows,
            shares=content["share_of_peak"],
        )
    )
    if content["sweep"]:
        rows = [
            f"| {name} | {r['seconds_per_step']:.2f} | {r['cpu_seconds_per_step']:.2f} | {r['peak_mib']:.0f} MiB |"
            for name, r in content["sweep"].items()
        ]
        columns = f"| {method.rows} per batch | s/step | CPU s/step | peak memory |\n|---|---|---|---|"
        head = ["TRL's batch sweep (one step each, its best settings; the fastest is used):", "", columns]
        parts.append("\n".join([*head, *rows]))
    losses = {
        name: [round(median(step), 6) for step in zip(*(m.losses for m in ms), strict=True)]
        for name, ms in runs.items()
    }
    parts.append("Losses by step: " + "; ".join(f"{name} {values}" for name, values in losses.items()) + ".")
    return "\n\n".join(parts)
