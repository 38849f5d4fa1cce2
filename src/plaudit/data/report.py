"""What happened to the data: the content of `data_report.json` and of the lines in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from plaudit.data.notes import NOTES
from plaudit.types import DataKind

KEPT_ROWS = 20
"""Row numbers kept per reason and file."""

REASONS: dict[str, str] = {
    "columns": "other columns than the rest of the file",
    "missing": "a value is missing",
    "empty": "nothing in it (an empty prompt or answer)",
    "wrong_type": "a value of the wrong type or form",
    "identical": "chosen and rejected are the same",
    "contradicts": "the row contradicts itself: by its own votes the rejected answer is better",
    "no_signal": "a ranking that ranks nothing",
    "template": "the chat template cannot render it",
    "nothing_trained": "no trained token",
    "overlong": "longer than max_length",
    "completion_overlong": "longer than max_length even without its prompt",
    "prompt_overlong": "the prompt alone fills max_length",
    "identical_after_cut": "the answers are the same once cut to max_length",
}
"""Why a row cannot be used."""
LEFT_OUT: dict[str, str] = {
    "one_label": "rows whose prompt has liked answers only, or disliked ones only",
    "tie": "ties: neither answer is better",
    "contradictory": "rows whose answer is liked in one row and disliked in another",
    "repeat": "rows that repeat an answer and its label",
    "between": "answers that are neither the best nor the worst of their ranking (feedback_threshold uses them)",
    "no_prompt": "plain text without a prompt",
    "limit": "pairs beyond the limit per prompt (pairs_per_prompt)",
}
"""Why a conversion leaves something out."""
LENGTH_REASONS = ("overlong", "completion_overlong", "prompt_overlong", "identical_after_cut")


class Lengths(BaseModel):
    """Token lengths of what was kept."""

    min: int = 0
    median: float = 0.0
    p95: float = 0.0
    max: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Statistics of a list of lengths; all 0 when it is empty."""
        if not lengths:
            return cls()
        values = np.asarray(lengths)
        median, p95 = np.percentile(values, [50, 95])
        return cls(min=int(values.min()), median=float(median), p95=float(p95), max=int(values.max()))


class Affected(BaseModel):
    """Rows that share a fate."""

    count: int = 0
    rows: list[int] = Field(default_factory=list)
    """The first of them, numbered as in the file."""

    @property
    def where(self) -> str:
        """The first rows, in words."""
        more = ", …" if len(set(self.rows)) > 5 else ""
        first = sorted(set(self.rows))[:5]
        return f"row{'s' if len(first) > 1 else ''} {', '.join(map(str, first))}{more}"

    def add(self, row: int) -> None:
        """Count a row."""
        self.count += 1
        if len(self.rows) < KEPT_ROWS:
            self.rows.append(row)


class Converted(BaseModel):
    """What `data.convert` made of a source."""

    name: str
    records_in: int
    records_out: int = 0
    left_out: dict[str, Affected] = Field(default_factory=dict)
    """What could not be converted, by reason; `LEFT_OUT` says what the reasons mean."""

    def leave(self, reason: str, row: int, count: int = 1) -> None:
        """`count` records (or pairs of answers) of a row go no further."""
        affected = self.left_out.setdefault(reason, Affected())
        affected.add(row)
        affected.count += count - 1

    def lines(self, indent: str = "  ") -> list[str]:
        """For the terminal."""
        found = [f"{indent}{self.name}: {self.records_in} in, {self.records_out} out"]
        for reason, affected in self.left_out.items():
            found.append(f"{indent}  left out {affected.count}: {LEFT_OUT[reason]} ({affected.where})")
        return found


class FileReport(BaseModel):
    """One source."""

    path: str
    rows: int
    weight: float
    groups: int = 0
    conventions: dict[str, int] = Field(default_factory=dict)
    """Row shapes that were recognised."""
    extras: dict[str, int] = Field(default_factory=dict)
    """Columns that are kept with the row and not trained on, with the number of rows that have them."""
    dropped: dict[str, Affected] = Field(default_factory=dict)
    truncated: dict[str, Affected] = Field(default_factory=dict)
    notes: dict[str, Affected] = Field(default_factory=dict)
    """Decisions of the renderer; `plaudit.data.notes` says what they mean."""
    duplicates: Affected = Field(default_factory=Affected)
    """Groups with the same tokens as an earlier group (kept)."""
    contradictions: Affected = Field(default_factory=Affected)
    """Groups that say the opposite of an earlier one about the same answers (kept)."""
    converted: Converted | None = None


class DataReport(BaseModel):
    """The whole of it."""

    kind: DataKind
    max_length: int | None
    overlong: str
    invalid: str
    files: list[FileReport] = Field(default_factory=list)
    prompt_tokens: Lengths = Field(default_factory=Lengths)
    completion_tokens: Lengths = Field(default_factory=Lengths)
    trained_tokens: int = 0
    labels: dict[str, int] | None = None
    """Feedback only: desirable and undesirable rows."""

    @property
    def rows(self) -> int:
        """Rows read."""
        return sum(f.rows for f in self.files)

    @property
    def groups(self) -> int:
        """Groups kept."""
        return sum(f.groups for f in self.files)

    @property
    def dropped(self) -> int:
        """Rows dropped."""
        return sum(a.count for f in self.files for a in f.dropped.values())

    @property
    def duplicates(self) -> int:
        """Groups that repeat an earlier one."""
        return sum(f.duplicates.count for f in self.files)

    def as_dict(self) -> dict[str, Any]:
        """For data_report.json."""
        totals = {"rows": self.rows, "groups": self.groups, "dropped": self.dropped, "duplicates": self.duplicates}
        meaning = {k: REASONS[k] for f in self.files for k in f.dropped}
        meaning |= {k: NOTES[k] for f in self.files for k in f.notes}
        return {**totals, **self.model_dump(mode="json"), "meaning": meaning}

    def summary_lines(self) -> list[str]:
        """For the terminal: what was kept, what was not, and every decision that was taken."""
        p, c = self.prompt_tokens, self.completion_tokens
        lines = [f"data: {self.rows} rows -> {self.groups} {self.kind} groups, {self.dropped} dropped"]
        lines += source_lines(self.files, groups=True)
        lines.append(f"  prompt tokens: min {p.min}, median {p.median:.0f}, 95 % {p.p95:.0f}, max {p.max}")
        if self.kind != "prompt":
            lines.append(f"  completion tokens: min {c.min}, median {c.median:.0f}, 95 % {c.p95:.0f}, max {c.max}")
        if self.labels is not None:
            lines.append(f"  labels: {', '.join(f'{n} {label}' for label, n in self.labels.items())}")
        lines += [f"  dropped {n}: {REASONS[key]}" for key, n in self._total("dropped").items()]
        lines += [f"  {key}: {n} rows" for key, n in self._total("truncated").items()]
        lines += [line for f in self.files if f.converted for line in f.converted.lines()]
        if self.duplicates:
            lines.append(f"  {self.duplicates} groups repeat an earlier one (kept)")
        for f in self.files:
            if f.contradictions.count:
                what = "say the opposite of an earlier one about the same answers (kept)"
                lines.append(f"  {f.contradictions.count} groups {what} ({f.path}: {f.contradictions.where})")
        lines += [f"  note, {n} rows: {NOTES[key]}" for key, n in self._total("notes").items()]
        return lines

    def reason_table(self) -> str:
        """Dropped rows by reason and file, for errors."""
        return reason_table(self.files)

    def _total(self, what: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for f in self.files:
            for key, affected in getattr(f, what).items():
                total[key] += affected.count
        return total


def source_lines(files: Sequence[FileReport], *, groups: bool = False) -> list[str]:
    """One line per source: its rows (and groups), the shape that was recognised and the columns that are only kept."""
    lines = []
    for f in files:
        shapes = ", ".join(f.conventions) or "no rows"
        extras = f"; kept, not trained on: {', '.join(f.extras)}" if f.extras else ""
        weight = f"; weight {f.weight:g}" if f.weight != 1 else ""
        became = f", {f.groups} groups" if groups else ""
        lines.append(f"  {f.path}: {f.rows} rows{became} ({shapes}{extras}{weight})")
    return lines


def reason_table(files: Sequence[FileReport]) -> str:
    """Dropped rows by reason and file."""
    lines = []
    for f in files:
        for key, affected in f.dropped.items():
            rows = ", ".join(map(str, affected.rows[:5])) + (", …" if affected.count > 5 else "")
            lines.append(f"  {affected.count:>7}  {REASONS[key]}  ({f.path}: rows {rows})")
    return "\n".join(lines)
