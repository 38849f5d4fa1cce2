"""What was found about a run's data, for the terminal, the page and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plaudit.config.schema import DataConfig
from plaudit.data.notes import NOTES
from plaudit.data.report import KEPT_ROWS, Affected, DataReport, FileReport
from plaudit.errors import PlauditError
from plaudit.inspection.cells import Cell
from plaudit.inspection.examples import Branch, Example
from plaudit.inspection.histogram import Histogram
from plaudit.inspection.packing import Ends, Packing, Sampling, Tally
from plaudit.inspection.witness import Drops
from plaudit.methods.base import Method


@dataclass(frozen=True, slots=True)
class DroppedRow:
    """A row that is not used, as it is in its file."""

    where: str
    reason: str
    detail: str
    columns: Mapping[str, str]
    """column → its value, as text and with everything visible"""


@dataclass(frozen=True, slots=True)
class Note:
    """A decision of the renderer, or a cut, and the rows it was taken for."""

    file: str
    text: str
    affected: Affected
    of: int
    """rows of the file"""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a run would be trained on.

    Attributes:
        method: with its options.
        by_columns: whether nobody named the method.
        model: path or hub id.
        options: the section `data`.
        max_length: longest prompt + completion in tokens; None = no limit is known.
        reserve: tokens of it that a prompt must leave to an answer.
        report: what happened to the training rows; of a run that drops what cannot be used.
        eval_report: the same of held-out rows with sources of their own.
        held_out: held-out groups.
        problem: what training raises with these options; None where it would start.
        drops: every row that is not used.
        histograms: of the training rows as they are before a length policy.
        tally: what the forests say about all training groups.
        packing: None where there are no answers yet.
        sampling: of a method that samples its answers.
        end_names: token → its name, for the tokens that end answers.
        eos: the tokenizer's EOS and its name.
        has_template: whether the tokenizer has a chat template.
        said: lines of the method itself.
        examples, dropped_rows: what was asked for.
    """

    method: Method
    by_columns: bool
    model: str
    options: DataConfig
    max_length: int | None
    reserve: int
    report: DataReport
    eval_report: DataReport | None
    held_out: int
    problem: PlauditError | None
    drops: Sequence[Drops]
    histograms: Sequence[Histogram]
    tally: Tally
    packing: Packing | None
    sampling: Sampling | None
    end_names: Mapping[int, str]
    eos: tuple[int | None, str]
    has_template: bool
    said: Sequence[str]
    examples: Sequence[Example]
    dropped_rows: Sequence[DroppedRow]

    @property
    def files(self) -> list[FileReport]:
        """All sources, the held-out ones last."""
        return [*self.report.files, *(self.eval_report.files if self.eval_report else [])]

    @property
    def rows(self) -> int:
        """Rows read, held-out ones too."""
        return sum(f.rows for f in self.files)

    @property
    def dropped(self) -> int:
        """Rows that are not used."""
        return sum(len(d.rows) for d in self.drops)

    @property
    def groups(self) -> int:
        """Groups to train on."""
        return self.report.groups - (0 if self.eval_report else self.held_out)

    @property
    def ends(self) -> Ends:
        return self.tally.ends

    @property
    def end_line(self) -> str | None:
        """Whether the end of an answer is learned; None where there are no answers."""
        ends, names = self.ends, ", ".join(self.end_names[token] for token, _ in self.ends.ended.most_common())
        if not ends.stretches:
            return None
        what = "the score is read on it" if ends.scored else "trained"
        units = "answers" if ends.scored else "trained turns"
        line = f"end of answer: {what} in {ends.count:,} of {ends.stretches:,} {units}"
        return f"{line} ({names})" if names else line

    @property
    def end_is_learned(self) -> bool:
        """Whether every answer (or trained turn) ends with a token that ends an answer, and the loss reads it."""
        return self.ends.count == self.ends.stretches

    @property
    def unended(self) -> str | None:
        """What follows from answers without an end, in words; None where all have one."""
        if self.end_is_learned:
            return None
        first = sorted(set(self.ends.open))[:5]
        where = ", ".join(f"{file}:{row}" for file, row in first)
        more = ", …" if len(set(self.ends.open)) > len(first) else ""
        so = "their score is read on another token" if self.ends.scored else "the model does not learn there to stop"
        missing = self.ends.stretches - self.ends.count
        return f"{missing:,} end with no end-of-turn token and no EOS: {so} ({where}{more})"

    @property
    def notes(self) -> list[Note]:
        """Decisions of the renderer, and what was cut, file by file."""
        found: list[Note] = []
        for f in self.files:
            found += [Note(f.path, what, affected, f.rows) for what, affected in f.truncated.items()]
            found += [Note(f.path, NOTES[key], affected, f.rows) for key, affected in f.notes.items()]
            found += [Note(f.path, what, affected, f.rows) for what, affected in _repeats(f)]
        return found

    @property
    def limit_line(self) -> str:
        """Where the length limit comes from."""
        if self.max_length is None:
            return "no limit: data.max_length is not given, and the model names none"
        given = "data.max_length" if self.options.max_length is not None else "the model's positions"
        line = f"{self.max_length:,} tokens ({given})"
        return f"{line}, of which an answer may take {self.reserve:,}" if self.reserve else line

    def as_dict(self) -> dict[str, Any]:
        """The figures, and the examples token by token; for JSON."""
        packing = None if self.packing is None else {**asdict(self.packing), "gain": round(self.packing.gain, 4)}
        sampling = None if self.sampling is None else asdict(self.sampling)
        for part in (packing, sampling):
            for name, value in (part or {}).items():
                if hasattr(value, "model_dump"):
                    part[name] = value.model_dump()  # type: ignore[index]
        return {
            "method": self.method.name,
            "data_kind": self.method.data_kind,
            "model": self.model,
            "max_length": self.max_length,
            "overlong": self.options.overlong,
            "invalid": self.options.invalid,
            "rows": self.rows,
            "groups": self.groups,
            "held_out": self.held_out,
            "trains": self.problem is None,
            "problem": None if self.problem is None else {"code": self.problem.code, "message": str(self.problem)},
            "dropped": self.dropped,
            "drops": [_drops(d) for d in self.drops],
            "notes": [
                {"file": n.file, "text": n.text, "count": n.affected.count, "rows": n.affected.rows} for n in self.notes
            ],
            "lengths": {h.name: _histogram(h) for h in self.histograms},
            "tokens": self.tally.tokens,
            "trained_tokens": self.tally.trained,
            "ends": {
                "stretches": self.ends.stretches,
                "ended": {self.end_names[token]: n for token, n in self.ends.ended.items()},
                "read_as": "score" if self.ends.scored else "target",
                "without": [f"{file}:{row}" for file, row in sorted(set(self.ends.open))[:KEPT_ROWS]],
            },
            "packing": packing,
            "sampling": sampling,
            "examples": [_example(e) for e in self.examples],
            "dropped_rows": [asdict(row) for row in self.dropped_rows],
        }

    def write_html(self, path: str | Path, *, tokens: bool = False, full: bool = False) -> Path:
        """Write the page and return its path.

        Args:
            tokens: every token by itself, with its id.
            full: long stretches are not shortened.

        Raises:
            ConfigError: PL102, the file cannot be written.
        """
        from plaudit.inspection.page import write_page

        return write_page(self, Path(path), tokens=tokens, full=full)


def _repeats(file: FileReport) -> list[tuple[str, Affected]]:
    found = {
        "the row repeats an earlier one (kept)": file.duplicates,
        "the row says the opposite of an earlier one about the same answers (kept)": file.contradictions,
    }
    return [(what, affected) for what, affected in found.items() if affected.count]


def _drops(d: Drops) -> dict[str, Any]:
    rows = {"count": len(d.rows), "rows": d.rows[:KEPT_ROWS]}
    return {"file": d.file, "reason": d.reason, "meaning": d.meaning, **rows}


def _histogram(h: Histogram) -> dict[str, Any]:
    bins = [{"from": b.low, "to": b.high, "count": b.count} for b in h.bins]
    return {"count": h.count, **h.lengths.model_dump(), "over_limit": h.over, "bins": bins}


def _example(e: Example) -> dict[str, Any]:
    return {
        "file": e.source.file if e.source else None,
        "row": e.source.row if e.source else None,
        "held_out": e.held_out,
        "unique_tokens": e.unique,
        "without_sharing": e.without_sharing,
        "remarks": e.remarks,
        "prompt": _cells(e.prompt),
        "answers": [_branch(b) for b in e.branches],
    }


def _branch(b: Branch) -> dict[str, Any]:
    named = {"label": b.label, "tokens": b.tokens, "trained": b.trained, "ends_with": b.ends}
    return {**named, "end_trained": b.end_trained, "cut": b.cut, "pieces": _cells(b.cells)}


def _cells(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [{"ids": c.ids, "text": c.text, "mark": c.mark, "special": c.special} for c in cells]


__all__ = ["DroppedRow", "Inspection", "Note"]
