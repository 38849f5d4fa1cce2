"""What is made of the measurements: ratios per round, the check that both sides did the same work, and the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.harness import MIB, BenchmarkError, Measurement, Variant


@dataclass(frozen=True)
class Ratio:
    """A ratio over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Median, least and greatest of the per-round ratios. Raises ValueError for unequal or no rounds."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    if not ratios:
        raise ValueError("no rounds")
    return Ratio(median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Comparison:
    """Ours against one variant of the rival."""

    ours: str
    rival: str
    speed: Ratio
    """Pairs per second, ours ÷ rival: greater than 1 means that we are faster."""
    cpu: Ratio
    """CPU seconds, rival ÷ ours: the same statement, little disturbed by other work on the machine."""
    memory: Ratio
    """Peak memory increment, ours ÷ rival: less than 1 means that we need less."""
    loss_gap: float | None
    """Largest difference of a step's loss; None where the steps hold other rows."""


def compare(ours: str, rival: str, runs: Mapping[str, Sequence[Measurement]], *, same_rows: bool = True) -> Comparison:
    """Compare two variants that did the same steps on the same rows, or as many tokens of the same rows."""
    a, b = runs[ours], runs[rival]
    return Comparison(
        ours=ours,
        rival=rival,
        speed=paired_ratio([m.seconds for m in b], [m.seconds for m in a]),
        cpu=paired_ratio([m.cpu_seconds for m in b], [m.cpu_seconds for m in a]),
        memory=paired_ratio([m.peak_bytes for m in a], [m.peak_bytes for m in b]),
        loss_gap=max(loss_gap(x, y) for x, y in zip(a, b, strict=True)) if same_rows else None,
    )


def loss_gap(a: Measurement, b: Measurement) -> float:
    """Largest difference between the losses of the same step; NaN if any loss is."""
    gaps = [abs(x - y) for x, y in zip(a.losses, b.losses, strict=True)]
    return math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps)


def check_same_work(runs: Mapping[str, Sequence[Measurement]], variants: Sequence[Variant], tolerance: float) -> None:
    """Both sides must have the same core libraries and threads, and equal losses where their steps hold the same rows.

    Raises BenchmarkError otherwise: a ratio between different computations says nothing.
    """
    everything = [(variant, m) for variant in variants for m in runs[variant.name]]
    first_variant, first = next((v, m) for v, m in everything if v.same_rows)
    for variant, m in everything:
        for package in ("python", "torch", "transformers", "tokenizers"):
            if m.versions.get(package) != first.versions.get(package):
                raise BenchmarkError(
                    f"{package} is {first.versions.get(package)} in '{first_variant.name}' "
                    f"but {m.versions.get(package)} in '{variant.name}'"
                )
        if m.threads != first.threads:
            raise BenchmarkError(f"'{first_variant.name}' ran {first.threads} threads, '{variant.name}' {m.threads}")
        # "Not within" rather than "beyond", so that a NaN is refused too.
        same = len(m.losses) == len(first.losses) and loss_gap(first, m) <= tolerance
        if variant.same_rows and not same:
            raise BenchmarkError(
                f"losses differ by more than {tolerance}: '{first_variant.name}' {list(first.losses)}, "
                f"'{variant.name}' {list(m.losses)}"
            )


def variant_table(
    variants: Sequence[Variant],
    runs: Mapping[str, Sequence[Measurement]],
    rows_per_step: int,
    unique_tokens: int,
    *,
    rows: str = "pairs",
    shares: Mapping[str, float] | None = None,
) -> str:
    """Markdown: absolute numbers of every variant.

    Args:
        unique_tokens: those of the measured steps' rows.
        rows: what a row is called.
        shares: of the measured matmul peak, by variant.
    """
    lines = [
        f"| variant | s/step (median, min–max) | CPU s/step | {rows}/s | peak memory | computed ÷ unique "
        "| without gradient ÷ unique | share of the matmul peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        measured = runs[variant.name]
        seconds = [m.seconds / m.steps for m in measured]
        share = (shares or {}).get(variant.name)
        lines.append(
            f"| {variant.name} | {median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"
            f" | {median(m.cpu_seconds / m.steps for m in measured):.2f}"
            f" | {rows_per_step / median(seconds):.2f}"
            f" | {median(m.peak_bytes for m in measured) / MIB:.0f} MiB"
            f" | {measured[0].grad_tokens / unique_tokens:.3f}"
            f" | {measured[0].reference_tokens / unique_tokens:.3f}"
            f" | {'' if share is None else f'{100 * share:.0f} %'} |"
        )
    notes = [f"- *{variant.name}*: {variant.note}" for variant in variants if variant.note]
    return "\n".join([*lines, "", *notes])


def comparison_table(
    comparisons: Sequence[Comparison], bars: tuple[float, float] | None = None, *, rows: str = "pairs"
) -> str:
    """Markdown: the ratios; bars are the least ratio of speed and the most ratio of memory that were aimed at."""
    lines = [
        f"| ours | against | {rows}/s ratio (min–max) | CPU-time ratio (min–max) | memory ratio (min–max) "
        "| largest loss gap |",
        "|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        speed = memory = ""
        if bars is not None:
            speed = f" ≥ {bars[0]:g}: {'met' if c.speed.median >= bars[0] else 'NOT met'}"
            memory = f" ≤ {bars[1]:g}: {'met' if c.memory.median <= bars[1] else 'NOT met'}"
        lines.append(
            f"| {c.ours} | {c.rival} | **{c.speed}**{speed} | {c.cpu} | **{c.memory}**{memory}"
            f" | {'other rows in a step' if c.loss_gap is None else f'{c.loss_gap:.1e}'} |"
        )
    return "\n".join(lines)
