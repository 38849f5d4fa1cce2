"""DPO and SFT on one large GPU against TRL 1.16.0, in ten minutes: `python -m benchmarks.gpu_offline`.

Exactness comes first (`gpu_parity`), then steps in which waiting for the device is an error, then the times. Models are
built from their configuration; nothing is downloaded but TRL, once, into .bench/ (its environment gets flash-attn only
if you put it there: `.bench/trl-1.16.0-peft/bin/pip install flash-attn --no-build-isolation`).

Both sides: the same seeded weights, rows and order, bf16, fused AdamW, clipping at 1, the same rows per optimiser step,
reference log-probs computed before the measured steps, no gradient checkpointing unless a side does not fit without.

- "ours" computes in bf16 on fp32 masters.
- "TRL, fp32 weights" is the same in TRL's way: fp32 weights under bf16 autocast (with LoRA: a frozen base in bf16).
- "TRL, bf16 weights" keeps no masters: fewer bytes and less traffic, and updates below a weight's rounding are lost. It
  is measured in full fine-tuning, and the bar is held against the faster of the two.
- TRL runs padding-free with FlashAttention where its environment has flash-attn, and padded with PyTorch's attention
  otherwise. Its batch is the fastest of a short sweep.

A step's useful work is counted once for both sides (`gpu_shapes.model_flops`: unique tokens, nothing recomputed). The
model-FLOPs utilisation is that over the seconds and the card's dense bf16 peak. Bars: DPO at least 2.0 times TRL's
speed, at most 0.6 of its memory, utilisation 0.45 as a goal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_shapes import SHAPES, model_flops, peak_tflops, unique_tokens, write_work
from benchmarks.harness import (
    BENCH,
    MIB,
    RESULTS,
    ROOT,
    BenchmarkError,
    Session,
    Variant,
    environment,
    say,
    write_results,
)
from benchmarks.workload import PreferenceRow

TRL = "trl==1.16.0"
LEAST_SPEED = 2.0
MOST_MEMORY = 0.6
GOAL_UTILISATION = 0.45
LOSS_TOLERANCE = 0.05  # bf16 on both sides, and other kernels


@dataclass(frozen=True)
class Case:
    """One table row: a method on a model."""

    method: str
    size: str
    lora: bool
    rows: int
    """rows per optimiser step"""
    batches: tuple[int, ...]
    """TRL's batches to try, in rows"""

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.method} {self.size} {'LoRA' if self.lora else 'full'}"


CASES = (
    Case("dpo", "0.5b", False, 32, (16, 8)),
    Case("dpo", "8b", True, 16, (4, 2)),
    Case("dpo", "1.7b", False, 32, (8, 4)),
    Case("sft", "0.5b", False, 64, (32, 16)),
    Case("sft", "1.7b", True, 64, (16, 8)),
    Case("dpo", "1.7b", True, 32, (8, 4)),
    Case("sft", "1.7b", False, 64, (16, 8)),
    Case("dpo", "0.5b", True, 32, (16, 8)),
)
"""in the order of what is worth knowing: those behind the limit of time are left out, and named"""
TINY = (Case("dpo", "tiny", False, 4, (2,)), Case("sft", "tiny", True, 4, (4,)), Case("dpo", "tiny", True, 4, (2,)))


@dataclass
class Clock:
    """Minutes that are left."""

    minutes: float
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.began + 60 * self.minutes - time.perf_counter()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_offline", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=9.5, help="what there is no time for is left out and named")
    parser.add_argument("--steps", type=int, default=4, help="measured optimiser steps after two warm-up steps")
    parser.add_argument("--tokens-per-microbatch", type=int, default=16_384, help="ours")
    parser.add_argument("--peak-tflops", type=float, help="the card's dense bf16 peak, where it is not known")
    parser.add_argument("--trl-python", type=Path, help="an environment with TRL and peft, instead of .bench/")
    parser.add_argument("--only", choices=("both", "ours"), default="both")
    parser.add_argument("--quick", action="store_true", help="tiny models, on any device: a check of the script")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, print, write benchmarks/results/gpu_offline. Status 1 when a check fails."""
    options = parse(arguments)
    clock = Clock(options.minutes)
    scratch = BENCH / "scratch" / "gpu_offline"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    python = None
    if options.only == "both":
        python = options.trl_python or environment("trl-1.16.0-peft", [TRL, "peft"], ROOT / "constraints.txt")
        clock.began = time.perf_counter()  # an installation is not part of the ten minutes
    card = card_of(options)
    say(f"{card['name']}, peak {card['peak_tflops'] or 'unknown'} TFLOP/s dense bf16 (from the data sheet)")
    parity = exactness(options, scratch, clock)
    if parity is None:
        return 1
    found: list[dict[str, Any]] = []
    for case in TINY if options.quick else CASES:
        if clock.left < 60:
            say(f"left out, no time: {case.name}")
            found.append({"case": case.name, "left_out": "no time"})
            continue
        found.append(measure(case, options, python, scratch, clock, card))
        if found[-1].get("waits"):
            say(f"error: steps wait for the device: {found[-1]['waits']}")
            return 1
        write(options, card, parity, found)
    say("\n" + table(found))
    return 0


def card_of(options: argparse.Namespace) -> dict[str, Any]:
    """The card's name, memory and peak."""
    if options.device == "cpu":
        return {"name": "CPU", "peak_tflops": options.peak_tflops}
    import torch

    about = torch.cuda.get_device_properties(0)
    peak = options.peak_tflops or peak_tflops(about.name)
    return {"name": about.name, "memory_gib": round(about.total_memory / 2**30, 1), "peak_tflops": peak}


def exactness(options: argparse.Namespace, scratch: Path, clock: Clock) -> dict[str, Any] | None:
    """What `gpu_parity` says, in a process of its own; None when it found a model wrong."""
    out = scratch / "parity.json"
    command = [sys.executable, "-m", "benchmarks.gpu_parity", "--device", options.device, "--out", str(out)]
    done = subprocess.run(
        [*command, *(["--quick"] if options.quick else [])], cwd=ROOT, timeout=max(clock.left, 60), check=False
    )
    if done.returncode:
        say("error: not exact on this device; nothing is timed")
        return None
    parity: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return parity


# -- one case ---------------------------------------------------------------------------------------------------------


def measure(
    case: Case, options: argparse.Namespace, python: Path | None, scratch: Path, clock: Clock, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Ours, then TRL's settings, each in a process of its own."""
    total = options.steps + 2
    shape, folder = SHAPES[case.size], scratch / case.size
    rows = write_work(folder, shape, case.rows * total, small=options.quick)
    session = Session(
        workload=folder,
        train={
            "learning_rate": 1e-5,
            "rows_per_step": case.rows,
            "total_steps": total,
            "precision": "bf16",
            "device": options.device,
        },
        threads=1 if options.device == "cpu" else 8,
        scratch=scratch / "work",
        timeout=max(clock.left, 60),
    )
    window = rows[2 * case.rows :]
    result: dict[str, Any] = {"case": case.name, "runs": {}}
    if case.size in ("tiny", "0.5b"):
        refused = run(session, ours(case, options, refuse=True), options.steps, result)
        result["waits"] = ["the run failed"] if refused is None else refused["waits"]
        if result["waits"]:
            return result
    run(session, ours(case, options), options.steps, result)
    if python is not None:
        for weights in ("bfloat16",) if case.lora else ("float32", "bfloat16"):
            if clock.left > 45:
                sweep(session, case, python, weights, options.steps, result, clock)
    conclude(case, window, options, result, card)
    return result


def ours(case: Case, options: argparse.Namespace, *, refuse: bool = False) -> Variant:
    """Our worker; `refuse`: waiting is an error, and nothing is timed."""
    settings = {
        "method": case.method,
        "lora": case.lora,
        "tokens_per_microbatch": options.tokens_per_microbatch,
        "refuse_to_wait": refuse,
    }
    name = "ours, waiting refused" if refuse else "ours"
    return Variant(name, "ours", Path(sys.executable), "benchmarks.gpu_ours", settings)


def run(session: Session, variant: Variant, steps: int, result: dict[str, Any]) -> dict[str, Any] | None:
    """One worker's result, kept under the variant's name; None when it failed, with the end of its output."""
    try:
        found = session.work(variant, steps)
    except (BenchmarkError, subprocess.TimeoutExpired) as error:
        short = "\n".join(str(error).splitlines()[-4:])
        say(f"{result['case']:18} {variant.name}: failed\n{short}")
        result["runs"][variant.name] = {"failed": short, "options": dict(variant.options)}
        return None
    result["runs"][variant.name] = {**found, "options": dict(variant.options)}
    say(
        f"{result['case']:18} {variant.name:36} {found['seconds'] / found['steps']:8.3f} s/step"
        f"  peak {found['peak_bytes'] / MIB:8.0f} MiB"
    )
    return found


def sweep(
    session: Session, case: Case, python: Path, weights: str, steps: int, result: dict[str, Any], clock: Clock
) -> None:
    """TRL at each batch; where none fits, the smallest with gradient checkpointing."""
    fits = False
    for batch in case.batches:
        if clock.left > 45:
            fits |= run(session, rival(case, python, weights, batch), steps, result) is not None
    if not fits and clock.left > 45:
        run(session, rival(case, python, weights, case.batches[-1], checkpointing=True), steps, result)


def rival(case: Case, python: Path, weights: str, batch: int, *, checkpointing: bool = False) -> Variant:
    """TRL with one batch."""
    settings = {
        "method": case.method,
        "lora": case.lora,
        "weights": weights,
        "per_device_batch": batch,
        "gradient_checkpointing": checkpointing,
        "liger": False,
    }
    name = f"TRL, {weights} weights, batch {batch}" + (", checkpointing" if checkpointing else "")
    return Variant(name, "rival", python, "benchmarks.gpu_trl", settings)


def conclude(
    case: Case, window: Sequence[PreferenceRow], options: argparse.Namespace, result: dict[str, Any],
    card: Mapping[str, Any],
) -> None:  # fmt: skip
    """Tokens per second, utilisation, and the ratios to the fastest of the rival's runs."""
    flops = model_flops(SHAPES[case.size], window, case.method, case.lora)
    tokens = unique_tokens(window, case.method)
    worked = {n: r for n, r in result["runs"].items() if "failed" not in r and n != "ours, waiting refused"}
    for measured in worked.values():
        measured["unique_tokens_per_second"] = tokens / measured["seconds"]
        peak = card["peak_tflops"]
        measured["utilisation"] = flops / measured["seconds"] / (peak * 1e12) if peak else None
    result["model_flops"] = flops
    mine = worked.get("ours")
    rivals = {n: r for n, r in worked.items() if n != "ours"}
    if mine is None or not rivals:
        return
    best = min(rivals, key=lambda n: rivals[n]["seconds"])
    gap = max(abs(a - b) for a, b in zip(mine["losses"], rivals[best]["losses"], strict=True))
    result |= {
        "against": best,
        "speed": median(b / a for a, b in zip(mine["step_seconds"], rivals[best]["step_seconds"], strict=True)),
        "memory": mine["peak_bytes"] / rivals[best]["peak_bytes"],
        "loss_gap": gap,
        "same_work": gap <= LOSS_TOLERANCE,
    }


# -- what is shown ----------------------------------------------------------------------------------------------------


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every case with its bars."""
    lines = [
        "| case | ours: tokens/s | utilisation | peak memory | against | speed | memory | largest loss gap |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        mine = row.get("runs", {}).get("ours")
        if mine is None or "failed" in mine:
            lines.append(f"| {row['case']} | {row.get('left_out', 'failed')} | | | | | | |")
            continue
        used = mine["utilisation"]
        shown = "peak unknown" if used is None else f"{used:.2f} (goal {GOAL_UTILISATION:g})"
        cells = [row["case"], f"{mine['unique_tokens_per_second']:.0f}", shown, f"{mine['peak_bytes'] / MIB:.0f} MiB"]
        if "speed" in row and row["same_work"]:
            dpo = row["case"].startswith("dpo")
            fast = f" ≥ {LEAST_SPEED:g}: {'met' if row['speed'] >= LEAST_SPEED else 'NOT met'}" if dpo else ""
            lean = f" ≤ {MOST_MEMORY:g}: {'met' if row['memory'] <= MOST_MEMORY else 'NOT met'}" if dpo else ""
            cells += [row["against"], f"{row['speed']:.2f}{fast}", f"{row['memory']:.2f}{lean}"]
            cells.append(f"{row['loss_gap']:.1e}")
        elif "speed" in row:
            cells += [row["against"], "not the same work", "", f"{row['loss_gap']:.1e}"]
        else:
            cells += ["", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    options: argparse.Namespace, card: Mapping[str, Any], parity: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
) -> None:
    """benchmarks/results/gpu_offline, after every case; of a quick run .bench/quick."""
    about = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    head = (
        f"# Offline training on {card['name']} against {TRL}\n\n{(__doc__ or '').split(chr(10) * 2, 1)[1].strip()}\n\n"
    )
    content = {"arguments": about, "card": card, "parity": parity, "cases": found}
    # A check of the script is no result.
    write_results("gpu_offline", content, head + table(found), folder=BENCH / "quick" if options.quick else RESULTS)


if __name__ == "__main__":
    sys.exit(main())
