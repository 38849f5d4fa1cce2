"""What each of our techniques gives, each switched off in turn: `python -m benchmarks.offline_techniques --method dpo`.

Our side alone; the workload, the rounds and the checks are those of `benchmarks.offline_vs_trl`. Every variant has all
techniques but one, and takes the reference log-probs from a warm cache unless that is the one:

- no prompt sharing: every completion brings its own copy of the prompt (benchmarks/without.py);
- no packing: one group in a micro-batch (train.tokens_per_microbatch=1: what may not be split stays whole);
- padded path: one padded row for each completion (model.attention=padded), as many unique tokens in a micro-batch;
- no reference cache: the reference of every row is computed;
- module head: log-probs through the model's own head module, chunked and recomputed, instead of the fused one;
- plain layers: norms, rotary positions and gates by the model's own code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import check_same_work, paired_ratio, variant_table
from benchmarks.harness import ROOT, BenchmarkError, Measurement, Variant, say, write_results
from benchmarks.matmul_peak import peak_rate
from benchmarks.offline_methods import METHODS, OfflineMethod
from benchmarks.offline_vs_trl import add_common_options, linear_products, our_variant, prepare, run_all

ALL = "all on"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    headline = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline_techniques", description=headline)
    add_common_options(parser)
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.pairs_per_step = 1, 1, 4
    return options


def contenders(method: OfflineMethod, tokens: int | str) -> list[Variant]:
    """All techniques, and all but each of those that the method has."""
    warm = method.reference != "none"

    def without(name: str, *, budget: int | str = tokens, warm: bool = warm, **options: Any) -> Variant:
        return our_variant(method, name, budget, warm=warm, **options)

    found = [without(ALL)]
    if method.rows != "demonstrations":  # one completion shares its prompt with nobody
        found.append(without("no prompt sharing", without="sharing"))
    found += [without("no packing", budget=1), without("padded path", attention="padded")]
    if warm:
        found.append(without("no reference cache", warm=False))
    if method.model == "lm":
        found.append(without("module head", without="fused head"))
    return [*found, without("plain layers", without="fused layers")]


def technique_table(runs: Mapping[str, Sequence[Measurement]]) -> str:
    """Markdown: what each variant takes in units of all techniques."""
    lines = [
        "| without | time ÷ all on (min–max) | CPU time ÷ all on (min–max) | peak memory ÷ all on (min–max) |",
        "|---|---|---|---|",
    ]
    base = runs[ALL]
    for name, measured in runs.items():
        if name == ALL:
            continue
        time = paired_ratio([m.seconds for m in measured], [m.seconds for m in base])
        cpu = paired_ratio([m.cpu_seconds for m in measured], [m.cpu_seconds for m in base])
        memory = paired_ratio([m.peak_bytes for m in measured], [m.peak_bytes for m in base])
        lines.append(f"| {name} | **{time}** | {cpu} | {memory} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, *, folder: Path | None = None) -> int:
    """Run, print the tables, write benchmarks/results/. Status 1 when the variants did not do the same work."""
    options = parse(arguments)
    method = METHODS[options.method]
    prepared = prepare(options, folder="-techniques")
    variants = contenders(method, options.tokens_per_microbatch)
    try:
        for variant in variants:
            if variant.warm_reference and variant.name in (ALL, "padded path"):  # the others read what the first wrote
                prepared.session.prime(variant, options.steps)
        measured = run_all(options, prepared, variants)
        check_same_work(measured.runs, variants, method.tolerance)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    counts = linear_products(prepared.workload)
    rows = int(prepared.session.train["rows_per_step"])
    shares = measured.shares(counts, options.threads)
    report = "\n\n".join(
        [
            f"# Techniques of {options.method}, {options.size} parameters, {options.workload}, {options.precision}",
            f"{options.repeats} interleaved round(s) of {options.steps} optimiser step(s) after one warm-up step; "
            f"{rows} {method.rows} per step; {options.threads} thread(s).",
            technique_table(measured.runs),
            variant_table(variants, measured.runs, rows, prepared.unique_tokens, rows=method.rows, shares=shares),
        ]
    )
    say("\n" + report)
    content = {
        "arguments": vars(options),
        "workload": json.loads((prepared.session.workload / "workload.json").read_text(encoding="utf-8")),
        "unique_tokens": prepared.unique_tokens,
        "variants": [dataclasses.replace(v, python=Path("python")) for v in variants],
        "runs": measured.runs,
        "matmul_gflops": peak_rate(counts, measured.peak) / 1e9,
        "flops": measured.flops,
        "share_of_peak": shares,
    }
    suffix = "-quick" if options.quick else ""
    name = (
        f"offline_techniques-{options.method}-{options.size}-{options.workload}-{options.threads}-threads"
        f"-{options.precision}{suffix}"
    )
    target = write_results(name, content, report, **({"folder": folder} if folder else {}))
    say(f"\nwritten: {target.relative_to(ROOT) if target.is_relative_to(ROOT) else target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
