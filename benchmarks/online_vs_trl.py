"""Whole online steps against TRL: `python -m benchmarks.online_vs_trl --method grpo --prompt-mean 200`.

A step samples answers to the same prompts with the same model, scores them with the same function, and takes the
method's optimiser steps on them. GRPO and RLOO against TRL 1.16.0; PPO against TRL 1.12.0, the last with PPO. Stated
choices:

- Every answer has exactly --new-tokens tokens (no end before), so both sides sample and train the same number; nobody
  gains from answers that end early, or from leaving out groups without signal (there are none).
- Both sides compute in --precision (fp32); TRL's own default is bf16 autocast over fp32 weights.
- GRPO without a KL term on both sides; RLOO and PPO with the KL to the reference in the reward on both.
- "TRL default" keeps TRL's gradient checkpointing, batch of 8 and log interval; "TRL best" switches checkpointing off,
  logs nothing, and uses the fastest batch (and kind of cache) of a sweep. In both, answers are generated once for each
  optimiser step, so GRPO needs no pass for old log-probs. TRL's PPO has no such switch that acts: only its batch is
  chosen.
- Before GRPO and RLOO are timed, TRL takes two small steps on answers that we sampled: loss and gradient norm must be
  ours.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import Ratio, paired_ratio
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
from benchmarks.workload import PromptWorkload, materialise

VERSIONS = {"grpo": "1.16.0", "rloo": "1.16.0", "ppo": "1.12.0"}
LEAST_SPEED = 3.5
MOST_MEMORY = 0.45
NORM_TOLERANCE = 2e-3
SWEEP = (8, 16, 32)
OURS: dict[str, dict[str, Any]] = {
    # TRL's default loss_type (dapo) is a mean over all tokens.
    "grpo": {"kl_weight": 0.0, "watch_kl": False, "aggregation": "token-mean"},
    "rloo": {"kl_weight": 0.05},
    "ppo": {"kl_weight": 0.05},
}
PPO_EPOCHS = 4


@dataclass(frozen=True)
class OnlineMeasurement(Measurement):
    """A run of rollout batches; `steps` counts batches, each with all of its optimiser steps."""

    phases: Mapping[str, Mapping[str, float]]
    """generation, reward, update → seconds, cpu_seconds and tokens of the window, and the run's peak_bytes"""
    work: Mapping[str, float]
    """completions, generated_tokens, trained_tokens, rewarded, reward_seconds of the window"""
    gradient_norms: tuple[float, ...]
    """before clipping, where they were logged"""

    def spent(self, phase: str, what: str) -> float:
        """Of one phase, per step."""
        return self.phases.get(phase, {}).get(what, 0.0) / self.steps


class OnlineSession(Session):
    """Runs of online workers."""

    def run(self, variant: Variant, steps: int) -> OnlineMeasurement:
        """See `Session`."""
        result = self.work(variant, steps, prime=False)
        tuples = {name: tuple(result[name]) for name in ("losses", "gradient_norms")}
        return OnlineMeasurement(**{**result, **tuples})


@dataclass(frozen=True)
class Comparison:
    """Ours against one variant of the rival: speeds are rival ÷ ours, memory ours ÷ rival."""

    rival: str
    step: Ratio
    step_cpu: Ratio
    generation_cpu: Ratio
    update: Ratio
    update_cpu: Ratio
    memory: Ratio


def compare(ours: Sequence[OnlineMeasurement], rival: str, theirs: Sequence[OnlineMeasurement]) -> Comparison:
    """Ratios inside each round."""

    def ratio(of: Callable[[OnlineMeasurement], float]) -> Ratio:
        return paired_ratio([of(m) for m in theirs], [of(m) for m in ours])

    return Comparison(
        rival=rival,
        step=ratio(lambda m: m.seconds),
        step_cpu=ratio(lambda m: m.cpu_seconds),
        # Ours are scored while others are sampled, so scoring belongs to it on both sides.
        generation_cpu=ratio(lambda m: m.spent("generation", "cpu_seconds") + m.spent("reward", "cpu_seconds")),
        update=ratio(lambda m: m.spent("update", "seconds")),
        update_cpu=ratio(lambda m: m.spent("update", "cpu_seconds")),
        memory=paired_ratio([m.peak_bytes for m in ours], [m.peak_bytes for m in theirs]),
    )


def check_same_work(runs: Mapping[str, Sequence[OnlineMeasurement]], expected: Mapping[str, int]) -> None:
    """Every run must have sampled, scored and trained on exactly what was asked for, with the same libraries.

    Args:
        expected: entries of `work` → their value in one step.

    Raises:
        BenchmarkError: a ratio between different amounts of work says nothing.
    """
    first_name, first = next((name, ms[0]) for name, ms in runs.items())
    for name, measured in runs.items():
        for m in measured:
            for what, value in expected.items():
                if m.work[what] != value * m.steps:
                    raise BenchmarkError(
                        f"'{name}': {what} is {m.work[what]:g} in {m.steps} steps, not {value} in each"
                    )
            for package in ("python", "torch", "transformers", "tokenizers"):
                if m.versions.get(package) != first.versions.get(package):
                    raise BenchmarkError(f"{package} differs between '{first_name}' and '{name}'")
            if m.threads != first.threads:
                raise BenchmarkError(f"'{first_name}' ran {first.threads} threads, '{name}' {m.threads}")
            if not all(math.isfinite(loss) for loss in m.losses):
                raise BenchmarkError(f"'{name}': losses {list(m.losses)}")


def check_same_update(ours: OnlineMeasurement, theirs: OnlineMeasurement) -> float:
    """Both took the same steps on the same answers; the largest relative difference of a gradient norm.

    Raises:
        BenchmarkError: it is larger than the tolerance, or a norm is missing.
    """
    pairs = list(zip(ours.gradient_norms, theirs.gradient_norms, strict=False))
    gaps = [abs(a - b) / b for a, b in pairs]
    # "Not within" rather than "beyond", so that a NaN is refused too.
    if len(pairs) != len(ours.losses) or not all(gap <= NORM_TOLERANCE for gap in gaps):
        raise BenchmarkError(
            f"the updates differ on the same answers: gradient norms {list(ours.gradient_norms)} and "
            f"{list(theirs.gradient_norms)}"
        )
    return max(gaps)


def trl_variant(options: argparse.Namespace, python: Path, name: str, batch: int, cache: str | None = None) -> Variant:
    """TRL with its defaults, or (any other name) with what makes it fastest on this workload."""
    best, ppo = name != "TRL default", options.method == "ppo"
    own: dict[str, Any] = {"per_device_batch": batch, "logging_steps": 10**6 if best else 10}
    note = f"batch of {batch}"
    if ppo:
        own["rollout_batch"] = 64
    else:
        own |= {"gradient_checkpointing": not best, "cache_implementation": cache}
        note = f"gradient checkpointing {'off' if best else 'on'}, {note}, {cache or 'dynamic'} cache"
    return Variant(name, "rival", python, f"benchmarks.trl_{'ppo' if ppo else 'online'}", own, note)


def our_variant(options: argparse.Namespace) -> Variant:
    """plaudit in this environment."""
    tokens = options.tokens_per_microbatch
    chosen = {"tokens_per_microbatch": tokens, "method": OURS[options.method]}
    note = f"no gradient checkpointing, {tokens} tokens per micro-batch"
    return Variant("ours", "ours", Path(sys.executable), "benchmarks.plaudit_online", chosen, note)


def prepare(options: argparse.Namespace, scratch: str) -> OnlineSession:
    """Write the prompts and the model."""
    workload = PromptWorkload(
        size=options.size,
        rows=options.prompts * (options.steps + 1),
        prompt_mean=options.prompt_mean,
        sigma=options.sigma,
        seed=options.seed,
    )
    train = {
        "method": options.method,
        "learning_rate": 1e-5,
        "max_grad_norm": 1.0,
        "prompts_per_step": options.prompts,
        "samples": options.samples,
        "new_tokens": options.new_tokens,
        "updates": PPO_EPOCHS if options.method == "ppo" else 1,
        "kl_weight": OURS[options.method]["kl_weight"],
        "precision": options.precision,
        "device": options.device,
        "seed": 42,
    }
    folder = BENCH / "scratch" / f"{workload.name}-{options.method}{scratch}"
    shutil.rmtree(folder, ignore_errors=True)
    return OnlineSession(materialise(workload, BENCH / "workloads"), train, options.threads, folder)


def compare_updates(options: argparse.Namespace, python: Path) -> float:
    """Two small steps of both sides on answers that we sampled."""
    small = argparse.Namespace(**{**vars(options), "prompts": 2, "new_tokens": 16, "steps": 1})
    session = prepare(small, "-same")
    session.scratch.mkdir(parents=True)
    file = str(session.scratch / "rollouts.jsonl")
    ours, theirs = our_variant(small), trl_variant(small, python, "TRL on our answers", options.samples)
    ours = Variant(**{**vars(ours), "options": {**ours.options, "rollout": {"save": file}}})
    theirs = Variant(**{**vars(theirs), "options": {**theirs.options, "replay": file, "logging_steps": 1}})
    return check_same_update(session.run(ours, 1), session.run(theirs, 1))


def sweep_trl(options: argparse.Namespace, session: OnlineSession, python: Path) -> dict[str, dict[str, Any]]:
    """TRL's best settings at each batch and, with the fastest, a static cache; one step each."""
    table: dict[str, dict[str, Any]] = {}
    answers = options.prompts * options.samples

    def measure(batch: int, cache: str | None) -> None:
        m = session.run(trl_variant(options, python, "TRL sweep", batch, cache), 1)
        table[f"{batch}{', static cache' if cache else ''}"] = {
            "batch": batch,
            "cache": cache,
            "cpu_seconds": m.cpu_seconds,
            "update_cpu_seconds": m.spent("update", "cpu_seconds"),
            "peak_mib": m.peak_bytes / MIB,
        }
        say(f"TRL sweep, batch {batch} {cache or ''}: {m.cpu_seconds:.1f} CPU s/step, +{m.peak_bytes / MIB:.0f} MiB")

    for batch in SWEEP:
        if answers % batch == 0:
            measure(batch, None)
    if options.method != "ppo":
        measure(fastest(table)["batch"], "static")
    return table


def fastest(table: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The row of a sweep with the least CPU time (with one thread: wall time without the machine's other work)."""
    return min(table.values(), key=lambda row: row["cpu_seconds"])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_vs_trl", description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=sorted(VERSIONS), default="grpo")
    parser.add_argument("--size", choices=("10m", "35m"), default="10m")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; every variant runs once in each")
    parser.add_argument("--steps", type=int, default=1, help="measured rollout batches after one warm-up batch")
    parser.add_argument("--prompts", type=int, default=8, help="prompts of a rollout batch")
    parser.add_argument("--samples", type=int, default=8, help="answers to each")
    parser.add_argument("--prompt-mean", type=float, default=200.0, help="mean prompt length in tokens")
    parser.add_argument(
        "--sigma", type=float, default=0.6, help="of the logarithm of prompt lengths; 0 = all are equal"
    )
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every worker")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tokens-per-microbatch", type=int, default=4096, help="ours")
    parser.add_argument("--trl-batch", type=int, help="TRL's best batch, instead of the sweep")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one round of a few short answers: a check, not a result")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.steps, options.prompts, options.new_tokens = 1, 1, 2, 16
        options.trl_batch = options.trl_batch or options.samples
    answers = options.prompts * options.samples
    for batch in {options.trl_batch or 8, 8}:
        if answers % batch:
            parser.error(f"{answers} answers are not a multiple of TRL's batch of {batch}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the tables, write benchmarks/results/. Status 1 when the sides did not do the same work."""
    options = parse(arguments)
    version, answers = VERSIONS[options.method], options.prompts * options.samples
    tokens = answers * options.new_tokens
    try:
        python = environment(f"trl-{version}", [f"trl=={version}"], ROOT / "constraints.txt")
        gap = None if options.method == "ppo" else compare_updates(options, python)
        session = prepare(options, "")
        sweep = {} if options.trl_batch else sweep_trl(options, session, python)
        best = fastest(sweep) if sweep else {"batch": options.trl_batch, "cache": None}
        variants = [
            trl_variant(options, python, "TRL default", 8),
            trl_variant(options, python, "TRL best", best["batch"], best["cache"]),
            our_variant(options),
        ]
        runs: dict[str, list[Any]] = {v.name: [] for v in variants}
        for number in range(1, options.repeats + 1):
            say(f"{number} of {options.repeats}:")
            for name, measured in interleave(variants, 1, lambda v: session.run(v, options.steps)).items():
                runs[name] += measured
            expected = {"completions": answers, "generated_tokens": tokens, "rewarded": answers}
            check_same_work(runs, {**expected, "trained_tokens": tokens * session.train["updates"]})
            # After every round: on a busy machine a round takes long, and one that is ended leaves the others.
            report = write_report(options, session, variants, runs, sweep, gap)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    say("\n" + report)
    return 0


def write_report(
    options: argparse.Namespace,
    session: OnlineSession,
    variants: Sequence[Variant],
    runs: Mapping[str, Sequence[OnlineMeasurement]],
    sweep: Mapping[str, Mapping[str, Any]],
    gap: float | None,
) -> str:
    """Write the rounds so far to benchmarks/results/; return the page."""
    comparisons = [compare(runs["ours"], v.name, runs[v.name]) for v in variants if v.side == "rival"]
    report = markdown_report(options, variants, runs, comparisons, sweep, gap)
    content = {
        "arguments": vars(options),
        "workload": json.loads((session.workload / "workload.json").read_text(encoding="utf-8")),
        "train": session.train,
        "variants": variants,
        "gradient_norm_gap": gap,
        "sweep": sweep,
        "runs": runs,
        "comparisons": comparisons,
    }
    equal = "-equal" if options.sigma == 0 else ""
    where = ("-cuda" if options.device == "cuda" else "") + ("-quick" if options.quick else "")
    shape = f"{options.prompt_mean:g}x{options.new_tokens}{equal}"
    name = f"online_vs_trl-{options.method}-{options.size}-{shape}-{options.precision}{where}"
    say(f"written: {write_results(name, content, report).relative_to(ROOT)}")
    return report


def markdown_report(
    options: argparse.Namespace,
    variants: Sequence[Variant],
    runs: Mapping[str, Sequence[OnlineMeasurement]],
    comparisons: Sequence[Comparison],
    sweep: Mapping[str, Mapping[str, Any]],
    gap: float | None,
) -> str:
    """The page: what was compared, the ratios with their bars, the absolute numbers, TRL's sweep."""
    versions = runs["ours"][0].versions
    spread = "all equal" if options.sigma == 0 else f"lognormal, σ = {options.sigma:g}"
    parts = [
        f"# {options.method.upper()} steps against TRL {VERSIONS[options.method]}, {options.size} parameters, "
        f"{options.precision}",
        f"{len(runs['ours'])} interleaved round(s) of {options.steps} step(s) after one warm-up step; "
        f"{options.prompts} prompts × {options.samples} answers; prompts of {options.prompt_mean:g} tokens ({spread}), "
        f"answers of exactly {options.new_tokens}; {options.threads} thread(s) on {options.device}; "
        f"torch {versions['torch']}, transformers {versions['transformers']}. Peak memory is the "
        "increment over the post-import baseline.",
        comparison_table(comparisons),
        variant_table(variants, runs),
    ]
    if gap is not None:
        parts.append(f"On the same answers the gradient norms of both sides differ by {gap:.1e} at most (relative).")
    if sweep:
        lines = [
            f"| {name} | {row['cpu_seconds']:.1f} | {row['update_cpu_seconds']:.1f} | {row['peak_mib']:.0f} MiB |"
            for name, row in sweep.items()
        ]
        head = "| batch | CPU s/step | of it update | peak memory |\n|---|---|---|---|"
        parts.append(
            "\n".join(["TRL's sweep (one step each, its best settings; the fastest is used):", "", head, *lines])
        )
    return "\n\n".join(parts)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: the ratios. The bars are held against CPU time, which other programs on the machine disturb little."""
    lines = [
        "| against | step, wall | step, CPU | generation, CPU | update, wall | update, CPU | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        step, update = (_met(r.median >= LEAST_SPEED) for r in (c.step_cpu, c.update_cpu))
        memory = _met(c.memory.median <= MOST_MEMORY)
        lines.append(
            f"| {c.rival} | {c.step} | **{c.step_cpu}** ≥ {LEAST_SPEED:g}: {step} | {c.generation_cpu} | {c.update}"
            f" | **{c.update_cpu}** ≥ {LEAST_SPEED:g}: {update} | **{c.memory}** ≤ {MOST_MEMORY:g}: {memory} |"
        )
    return "\n".join(lines)


def _met(reached: bool) -> str:
    return "met" if reached else "NOT met"


def variant_table(variants: Sequence[Variant], runs: Mapping[str, Sequence[OnlineMeasurement]]) -> str:
    """Markdown: absolute numbers; medians over the rounds, per step. Tokens are positions through the trunk."""
    lines = [
        "| variant | s/step (min–max) | CPU s/step | generation | update | peak memory | of it generation, update "
        "| trained, scored tokens of the update |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        ms = runs[variant.name]
        wall = [m.seconds / m.steps for m in ms]
        generation, update = (median(m.spent(p, "cpu_seconds") for m in ms) for p in ("generation", "update"))
        peaks = [max(m.phases[p]["peak_bytes"] for m in ms) / MIB for p in ("generation", "update")]
        lines.append(
            f"| {variant.name} | {median(wall):.1f} ({min(wall):.1f}–{max(wall):.1f})"
            f" | {median(m.cpu_seconds / m.steps for m in ms):.1f} | {generation:.1f} | {update:.1f}"
            f" | {median(m.peak_bytes for m in ms) / MIB:.0f} MiB | {peaks[0]:.0f}, {peaks[1]:.0f} MiB"
            f" | {ms[0].spent('update', 'grad_tokens'):.0f}, {ms[0].spent('update', 'no_grad_tokens'):.0f} |"
        )
    return "\n".join([*lines, "", *(f"- *{v.name}*: {v.note}" for v in variants)])


if __name__ == "__main__":
    sys.exit(main())
