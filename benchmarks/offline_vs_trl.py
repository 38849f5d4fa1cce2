"""Offline methods against TRL 1.16.0: `python -m benchmarks.offline_vs_trl --method dpo --size 10m --repeats 3`.

Both sides get the same JSONL rows in the same order, the same model folder, fused AdamW, learning rate, clipping,
precision, thread count and rows per optimiser step. The time is that of whole optimiser steps (data, reference forward
unless cached, forward, backward, clipping, update) after one warm-up step; a reference forward that is done ahead for
all rows is added, in the share of the measured rows. Stated choices:

- How the loss of each method is made the same on both sides, and what is left, is in `benchmarks.offline_methods`.
- TRL's own default precision is bf16 autocast; both sides compute in the precision given by --precision (fp32).
- "TRL default" keeps TRL's gradient checkpointing, batch of 8 rows and reference forward in every step; gradients
  are accumulated up to the same rows per step. "TRL best" switches checkpointing off, logs rarely, takes its reference
  log-probs from its own warm cache, and uses the fastest batch of a sweep; that of SFT tries forwards without padding.
- SFT: "TRL bfd" is TRL's packing. Its bins hold other rows in a step than the file's order does, so only its time per
  token is compared. Forwards without padding need an attention that keeps the rows apart: transformers makes that mask
  for sdpa from the positions, and the losses show that it does.
- "ours" never checkpoints. The row order is the file's on both sides; no side writes checkpoints or evaluates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import check_same_work, compare
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
from benchmarks.matmul_peak import Product, best_of, peak_rate, products
from benchmarks.offline_methods import (
    METHODS,
    PROOF_TOLERANCE,
    TRL,
    OfflineMethod,
    check_reference,
    data_of,
    relative_gap,
    rows_per_pair,
)
from benchmarks.offline_report import markdown_report, result_name
from benchmarks.workload import (
    ARCHITECTURES,
    LENGTHS,
    POSITIONS,
    PreferenceWorkload,
    materialise,
    named_workload,
    write_jsonl,
    write_reward_model,
)

SWEEP = (1, 2, 4, 8, 16)
"""TRL's batches. A single row has no padding, which may be worth more than larger products."""
PROOF_PAIRS = 4
"""Pairs of the one step in one batch in which both sides must agree."""


def trl_variant(
    method: OfflineMethod, python: Path, name: str, batch: int, *, best: bool, padding_free: bool = False
) -> Variant:
    """TRL with its defaults, or with what makes it fastest on this workload."""
    warm = best and method.reference != "none"
    arguments: dict[str, Any] = {"gradient_checkpointing": not best, "logging_steps": 10**6 if best else 10}
    if warm:
        arguments["precompute_ref_log_probs"] = True
    if padding_free:
        arguments |= {"padding_free": True, "max_length": None}
    parts = [f"gradient checkpointing {'off' if best else 'on'}", f"batch of {batch} {method.rows}"]
    if method.reference != "none":
        parts.append("reference log-probs from its warm cache" if warm else "reference forward every step")
    if padding_free:
        parts.append("forwards without padding")
    return Variant(
        name=name,
        side="rival",
        python=python,
        module="benchmarks.trl_offline",
        options={"per_device_batch": batch, "arguments": arguments},
        note=", ".join(parts),
        warm_reference=warm,
    )


def bfd_variant(python: Path, tokens_per_step: float, length: int) -> Variant:
    """TRL's packing of SFT rows into bins of `length` tokens, one bin a forward, about as many tokens in a step."""
    bins = max(1, round(tokens_per_step / length))
    arguments = {"gradient_checkpointing": False, "logging_steps": 10**6, "packing": True, "max_length": length}
    return Variant(
        name="TRL bfd",
        side="rival",
        python=python,
        module="benchmarks.trl_offline",
        options={"per_device_batch": 1, "accumulation": bins, "arguments": arguments},
        note=f"gradient checkpointing off, packed into bins of {length} tokens, {bins} to a step: other rows in a "
        "step, so the time is scaled to equal tokens",
        same_rows=False,
    )


def our_variant(method: OfflineMethod, name: str, tokens: int | str, *, warm: bool = False, **options: Any) -> Variant:
    """plaudit in this environment; `options` are further ones of its worker."""
    parts = ["no gradient checkpointing", f"{tokens} tokens per micro-batch"]
    if method.reference != "none":
        parts.append("reference log-probs from its warm cache" if warm else "reference forward of every row")
    return Variant(
        name=name,
        side="ours",
        python=Path(sys.executable),
        module="benchmarks.plaudit_offline",
        options={"tokens_per_microbatch": tokens, "reference_cache": "reference" if warm else "off", **options},
        note=", ".join(parts),
        warm_reference=warm,
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options of every comparison of offline training."""
    parser.add_argument("--method", choices=sorted(METHODS), default="dpo")
    parser.add_argument("--size", choices=sorted(ARCHITECTURES), default="10m")
    parser.add_argument("--workload", choices=sorted(LENGTHS), default="mixed")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; every variant runs once in each")
    parser.add_argument("--steps", type=int, default=3, help="measured optimiser steps after one warm-up step")
    parser.add_argument("--pairs-per-step", type=int, default=16, help="KTO makes two rows of each pair, SFT one")
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every worker")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tokens-per-microbatch", type=_tokens, default=1024, help="ours: a number or auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of one small step: a check, not a result")


def _batches(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _tokens(text: str) -> int | str:
    return text if text == "auto" else int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline_vs_trl", description=_headline(__doc__))
    add_common_options(parser)
    parser.add_argument("--sweep", type=_batches, default=SWEEP, help="TRL's batches to try, in rows: 1,2,4")
    parser.add_argument("--trl-batch", type=int, help="TRL's best per-device batch in rows, instead of the sweep")
    parser.add_argument("--only", choices=("both", "trl", "ours"), default="both", help="one side: no ratios")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.pairs_per_step, options.trl_batch = 1, 1, 4, options.trl_batch or 4
    rows = options.pairs_per_step * rows_per_pair(METHODS[options.method])
    for batch in {options.trl_batch or 2, min(8, rows)}:
        if rows % batch:
            parser.error(f"{rows} rows per step are not a multiple of TRL's batch of {batch}")
    return options


def _headline(text: str | None) -> str:
    return (text or "").splitlines()[0]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What all runs of a comparison share."""

    session: Session
    workload: PreferenceWorkload
    unique_tokens: int
    """of the rows of the measured steps"""


def prepare(options: argparse.Namespace, pairs: int | None = None, folder: str = "") -> Prepared:
    """Write the rows and the model.

    Args:
        pairs: of one optimiser step; default is --pairs-per-step.
        folder: below the scratch folder, for runs that must share no cache with others.
    """
    method = METHODS[options.method]
    pairs = pairs or options.pairs_per_step
    workload = named_workload(
        options.workload, options.size, options.pairs_per_step * (options.steps + 1), options.seed
    )
    home = materialise(workload, BENCH / "workloads")
    described = json.loads((home / "workload.json").read_text(encoding="utf-8"))
    texts = [json.loads(line) for line in (home / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    data = data_of(method, texts, [tuple(n) for n in described["lengths"]], pairs)
    rows_per_step = pairs * rows_per_pair(method)

    scratch = BENCH / "scratch" / f"{workload.name}-{options.method}{folder}"
    shutil.rmtree(scratch, ignore_errors=True)  # caches are filled by this very run, so "warm" means what it says
    scratch.mkdir(parents=True)
    digest = write_jsonl(data.rows, scratch / "rows.jsonl")
    model = home / "model"
    if method.model == "reward":
        model = home / "reward-model"
        write_reward_model(home / "model", model, options.seed)
    train = {
        "method": options.method,
        "ours": dict(method.ours),
        "trainer": method.trainer,
        "rival": dict(method.rival),
        "rows": str(scratch / "rows.jsonl"),
        "rows_sha256": digest,
        "model": str(model),
        "unique_tokens": data.unique,
        "rows_per_step": rows_per_step,
        "longest": POSITIONS,
        "learning_rate": 1e-4,
        "max_grad_norm": 1.0,
        "precision": options.precision,
        "seed": 42,
    }
    session = Session(workload=home, train=train, threads=options.threads, scratch=scratch, timeout=4 * 3600.0)
    return Prepared(session, workload, sum(data.unique[rows_per_step : rows_per_step * (options.steps + 1)]))


def prove(options: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Steps in one batch each, where TRL's definition is ours: their losses must agree, those behind an update too.

    Raises:
        BenchmarkError: they do not.
    """
    method = METHODS[options.method]
    pairs = min(PROOF_PAIRS, options.pairs_per_step)
    session = prepare(options, pairs, "-proof").session
    settings = {side: {**session.train.get(side, {}), **method.proof} for side in ("ours", "rival")}
    session = dataclasses.replace(session, train={**session.train, **settings})
    rows, steps = pairs * rows_per_pair(method), min(2, options.steps)
    # KTO pairs answers by chance here; for the proof they are paired as TRL does.
    ours = our_variant(method, "ours, proof", options.tokens_per_microbatch, rotate=options.method == "kto")
    rival = trl_variant(method, python, "TRL, proof", rows, best=False)
    rival.options["arguments"]["gradient_checkpointing"] = False
    losses = {v.name: session.run(v, steps).losses for v in (ours, rival)}
    gap = relative_gap(losses[ours.name], losses[rival.name])
    if not gap <= PROOF_TOLERANCE:
        raise BenchmarkError(f"the two losses are not the same function: they differ by {gap:.1e}, {losses}")
    say(f"proof in batches of {rows} {method.rows}: losses agree to {gap:.1e}")
    return {"relative_gap": gap, "losses": losses, "rows_per_batch": rows}


def sweep_trl(
    session: Session, method: OfflineMethod, python: Path, batches: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Seconds per step and peak memory of TRL's best settings at each batch, one short run each."""
    table: dict[str, dict[str, float]] = {}
    for padding_free in (False, True) if method.padding_free else (False,):
        for batch in batches:
            if padding_free and batch == 1:
                continue  # there is none to leave out
            name = f"{batch}{' without padding' if padding_free else ''}"
            candidate = trl_variant(method, python, f"TRL sweep {name}", batch, best=True, padding_free=padding_free)
            try:
                measured = session.run(candidate, steps=1)
            except BenchmarkError as error:  # most likely for want of memory
                say(f"TRL sweep, batch {name}: left out, {str(error).splitlines()[0]}")
                continue
            table[name] = {
                "batch": batch,
                "padding_free": padding_free,
                "seconds_per_step": measured.seconds,
                "cpu_seconds_per_step": measured.cpu_seconds,
                "peak_mib": measured.peak_bytes / MIB,
            }
            say(f"TRL sweep, batch {name}: {measured.seconds:7.2f} s/step, peak +{table[name]['peak_mib']:.0f} MiB")
    if not table:
        raise BenchmarkError("TRL ran with no batch of the sweep")
    return table


def fastest(sweep: Mapping[str, Mapping[str, float]], threads: int) -> Mapping[str, float]:
    """The entry of least cost. On one thread that is CPU time: wall time without the disturbance of other programs."""
    cost = "cpu_seconds_per_step" if threads == 1 else "seconds_per_step"
    return min(sweep.values(), key=lambda entry: entry[cost])


def contenders(
    options: argparse.Namespace, prepared: Prepared, python: Path | None
) -> tuple[list[Variant], dict[str, dict[str, float]]]:
    """The variants to run, rivals first, with warm caches filled; and the sweep's table. Without `python` no rival."""
    method, session = METHODS[options.method], prepared.session
    rows = int(session.train["rows_per_step"])
    variants: list[Variant] = []
    sweep: dict[str, dict[str, float]] = {}
    if python is not None:
        batch, padding_free = options.trl_batch, False
        if batch is None:
            # KTO's answers are rotated within the batch, so TRL refuses a single one.
            least = 2 if method.rows == "answers" else 1
            sweep = sweep_trl(session, method, python, [b for b in options.sweep if rows % b == 0 and b >= least])
            best = fastest(sweep, options.threads)
            batch, padding_free = int(best["batch"]), bool(best["padding_free"])
        variants += [
            trl_variant(method, python, "TRL default", min(8, rows), best=False),
            trl_variant(method, python, "TRL best", batch, best=True, padding_free=padding_free),
        ]
        if method.padding_free:
            if not padding_free:
                name = "TRL without padding"
                whole = {n: e for n, e in sweep.items() if e["padding_free"]}
                batch = int(fastest(whole, options.threads)["batch"]) if whole else batch
                variants.append(trl_variant(method, python, name, batch, best=True, padding_free=True))
            per_step = prepared.unique_tokens / options.steps
            variants.append(bfd_variant(python, per_step, prepared.workload.max_length))
    if options.only != "trl":
        tokens = options.tokens_per_microbatch
        variants.append(our_variant(method, "ours", tokens))
        if method.reference != "none":
            variants.append(our_variant(method, "ours, warm reference", tokens, warm=True))
    for variant in variants:
        if variant.warm_reference:
            session.prime(variant, options.steps)
    return variants, sweep


def per_token(variant: Variant, m: Measurement, unique_tokens: int) -> Measurement:
    """A measurement of steps with other rows, scaled to the tokens of everybody else's. It has no padding."""
    if variant.same_rows:
        return m
    factor = unique_tokens / m.grad_tokens
    return dataclasses.replace(
        m,
        seconds=m.seconds * factor,
        cpu_seconds=m.cpu_seconds * factor,
        grad_tokens=round(m.grad_tokens * factor),
        reference_tokens=round(m.reference_tokens * factor),
    )


def linear_products(workload: PreferenceWorkload) -> dict[Product, int]:
    """The matrix products of the model's linear layers, its head included."""
    shape = workload.architecture
    return products({**shape.linear_shapes(), (shape.hidden, workload.vocabulary): 1})


def measure_peak(session: Session, wanted: Sequence[Product]) -> dict[Product, float]:
    """Seconds of every product in a process of its own."""
    worker = Variant("matmul", "ours", Path(sys.executable), "benchmarks.matmul_peak", {"products": list(wanted)})
    return dict(zip(wanted, session.work(worker, 0)["seconds"], strict=True))


@dataclasses.dataclass
class Measured:
    """All runs of a comparison, and what they are held against."""

    runs: dict[str, list[Measurement]]
    peak: dict[Product, float]
    """best seconds of every matrix product, over all rounds"""
    flops: dict[str, float]
    """operations in the window of each of our variants, counted in a run of its own"""

    def shares(self, counts: Mapping[Product, int], threads: int) -> dict[str, float]:
        """Operations per second over the measured peak. On one thread seconds are CPU seconds."""
        rate = peak_rate(counts, self.peak)
        return {
            name: flops / median(m.cpu_seconds if threads == 1 else m.seconds for m in self.runs[name]) / rate
            for name, flops in self.flops.items()
        }


def run_all(options: argparse.Namespace, prepared: Prepared, variants: Sequence[Variant]) -> Measured:
    """The rounds, with the machine's matrix products measured in each; then our operations are counted."""
    method, session = METHODS[options.method], prepared.session
    wanted = list(linear_products(prepared.workload))
    peaks: list[dict[Product, float]] = []

    def run(variant: Variant) -> Measurement:
        if variant is variants[0]:
            peaks.append(measure_peak(session, wanted))
        measured = session.run(variant, options.steps)
        check_reference(method, variant, measured)
        return per_token(variant, measured, prepared.unique_tokens)

    runs = interleave(variants, options.repeats, run)
    flops = {}
    for variant in variants:
        if variant.side == "ours":
            counted = dataclasses.replace(variant, options={**variant.options, "count_flops": True})
            flops[variant.name] = session.run(counted, options.steps).flops
    return Measured(runs, best_of(peaks), flops)


def main(arguments: Sequence[str] | None = None, *, folder: Path | None = None) -> int:
    """Run, print the tables, write benchmarks/results/. Status 1 when the sides did not do the same work."""
    options = parse(arguments)
    method = METHODS[options.method]
    try:
        python = None if options.only == "ours" else environment("trl-1.16.0", [TRL], ROOT / "constraints.txt")
        proof = prove(options, python) if method.by_batch and python and options.only == "both" else None
        prepared = prepare(options)
        variants, sweep = contenders(options, prepared, python)
        measured = run_all(options, prepared, variants)
        check_same_work(measured.runs, variants, method.tolerance)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    ours = {v.warm_reference: v.name for v in variants if v.side == "ours"}
    # Each rival meets the variant of ours with the same kind of reference: fresh against fresh, warm against warm.
    comparisons = [
        compare(ours[v.warm_reference], v.name, measured.runs, same_rows=v.same_rows)
        for v in variants
        if v.side == "rival" and ours
    ]
    counts = linear_products(prepared.workload)
    shares = measured.shares(counts, options.threads)
    content: dict[str, Any] = {
        "arguments": vars(options),
        "workload": json.loads((prepared.session.workload / "workload.json").read_text(encoding="utf-8")),
        "train": {k: v for k, v in prepared.session.train.items() if k not in ("rows", "model", "unique_tokens")},
        "unique_tokens": prepared.unique_tokens,
        "variants": variants,
        "sweep": sweep,
        "proof": proof,
        "runs": measured.runs,
        "comparisons": comparisons,
        "matmul_gflops": peak_rate(counts, measured.peak) / 1e9,
        "matmul_seconds": [{"product": p, "seconds": s} for p, s in measured.peak.items()],
        "flops": measured.flops,
        "share_of_peak": shares,
    }
    report = markdown_report(options, variants, measured.runs, content)
    say("\n" + report)
    target = write_results(result_name(options), content, report, **({"folder": folder} if folder else {}))
    say(f"\nwritten: {target.relative_to(ROOT) if target.is_relative_to(ROOT) else target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
