"""Verdicts, examples and the whole diagnosis: what the terminal shows and `--json` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, Field

from plaudit.data.doctor.thresholds import EXAMPLES
from plaudit.types import DataKind

Verdict = Literal["OK", "WARN", "FAIL"]
VERDICTS: tuple[Verdict, ...] = ("FAIL", "WARN", "OK")
Z_95 = 1.959963984540054


class Example(BaseModel):
    """Rows that show a finding."""

    rows: list[int]
    """Numbered as in the file, from 1 (the line for JSONL)."""
    text: str
    """A short piece of the row, with personal data masked."""


class Finding(BaseModel):
    """What one check found."""

    check: str
    """Name for `--keep` and for machines."""
    title: str
    verdict: Verdict
    count: int = 0
    """Rows (or comparisons) with the fault."""
    of: int = 0
    """Those that the check applies to."""
    share: float = 0.0
    detail: str = ""
    """What it means, with its numbers."""
    numbers: dict[str, float] = Field(default_factory=dict)
    """Effect sizes, bounds and counts by kind."""
    examples: list[Example] = Field(default_factory=list)
    mend: str = ""
    fixed: bool = False
    """Whether `--fix` does something about it."""


class Skipped(BaseModel):
    """A check that was not made."""

    check: str
    title: str
    why: str


class Diagnosis(BaseModel):
    """All of it."""

    source: str
    kind: DataKind
    shapes: dict[str, int]
    """Recognised row shapes and how many rows have them."""
    rows: int
    usable: int
    """Rows that training would take."""
    prompts: int
    """Different prompts."""
    findings: list[Finding]
    skipped: list[Skipped] = Field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Finding]:
        """The findings with a verdict."""
        return [f for f in self.findings if f.verdict == verdict]

    @property
    def failed(self) -> bool:
        """Whether anything fails."""
        return bool(self.of("FAIL"))

    def finding(self, check: str) -> Finding:
        """The finding of a check.

        Raises:
            KeyError: the check was not made.
        """
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)


def grade(share: float, *, warn: float = 0.0, fail: float | None = None) -> Verdict:
    """FAIL from `fail` on (None: never), WARN above 0 and from `warn` on, else OK."""
    if share > 0 and fail is not None and share >= fail:
        return "FAIL"
    return "WARN" if share > 0 and share >= warn else "OK"


def wilson(hits: float, n: float) -> tuple[float, float]:
    """95 % score interval of a share of `n` trials (Wilson 1927); (0, 1) without trials."""
    if n <= 0:
        return 0.0, 1.0
    share, z = hits / n, Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def first(examples: Iterable[tuple[Sequence[int], str]]) -> list[Example]:
    """The first few of (rows, text)."""
    found = []
    for rows, text in examples:
        found.append(Example(rows=list(rows), text=text))
        if len(found) == EXAMPLES:
            break
    return found


def percent(share: float) -> str:
    """A share for people: two digits where it is small, and never 0 for something."""
    value = 100 * share
    if 0 < value < 0.01:
        return "< 0.01 %"
    return f"{value:.2f} %" if 0 < value < 1 else f"{value:.1f} %"
