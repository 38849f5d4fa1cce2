"""The book on rows: which could not be used, why, and which of them are errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from plaudit.data.report import LENGTH_REASONS, Affected, FileReport
from plaudit.errors import DataError
from plaudit.types import PromptGroup, Source

Invalid = Literal["error", "drop"]
SHOWN = 10
"""Bad rows shown in one error."""


class Witness(Protocol):
    """Is told row by row what the report only counts (`plaudit inspect`)."""

    def rendered(self, group: PromptGroup) -> None:
        """A group that could be trained on, before `max_length` is held against it; it may be cut afterwards."""
        ...

    def refused(self, source: Source, reason: str, detail: str) -> None:
        """A row that is not used; `plaudit.data.report.REASONS` says what the reasons mean."""
        ...


@dataclass(slots=True)
class Problems:
    """Bad rows that are errors: the first few, and how many of each sort."""

    drop_advice: str = "set data.invalid: drop"
    """how whoever reads the error drops bad rows"""
    shown: list[str] = field(default_factory=list)
    invalid: int = 0
    overlong: int = 0
    template: int = 0
    """of the invalid ones, those that the chat template refuses"""

    def add(self, source: Source, reason: str, detail: str) -> None:
        """Note a bad row."""
        if len(self.shown) < SHOWN:
            self.shown.append(f"  {source}  {detail}")
        if reason in LENGTH_REASONS:
            self.overlong += 1
        else:
            self.invalid += 1
            self.template += reason == "template"

    def raise_any(self, rows: int | str) -> None:
        """Raise the problems of `rows` rows together (a number, or words for it).

        Raises:
            DataError: PL204, PL205, or PL200 for both sorts.
        """
        bad = self.invalid + self.overlong
        if not bad:
            return
        code = "PL200" if self.invalid and self.overlong else "PL204" if self.invalid else "PL205"
        more = f"\n  … and {bad - len(self.shown)} more" if bad > len(self.shown) else ""
        mends = ["mend the rows"]
        mends += ["give another chat template (model.chat_template)"] if self.template else []
        mends += [self.drop_advice] if self.invalid and self.invalid != rows else []
        if self.overlong:
            mends.append("set data.overlong: drop | truncate_prompt | truncate_completion, or a larger data.max_length")
        raise DataError(
            code, f"{bad} of {rows} rows cannot be used\n" + "\n".join(self.shown) + more,
            where=self.shown[0].split("  ")[1], mend=", or ".join(mends),
        )  # fmt: skip


@dataclass(slots=True)
class Book:
    """Books what happens to the rows of one source.

    Attributes:
        invalid: what becomes of rows without content or signal.
        overlong: what becomes of rows that are too long; "error" here, all else is a policy.
    """

    file: FileReport
    problems: Problems
    invalid: Invalid
    overlong: str = "error"
    witness: Witness | None = None
    refused: set[int] = field(default_factory=set)

    def refuse(self, source: Source, reason: str, detail: str) -> None:
        """A row, or a group of it, is not used. A row counts once, whatever became of its other groups."""
        if source.row in self.refused:
            return
        self.refused.add(source.row)
        self.count(self.file.dropped, reason, source)
        if self.witness is not None:
            self.witness.refused(source, reason, detail)
        length = reason in LENGTH_REASONS
        if (self.overlong if length else self.invalid) == "error":
            self.problems.add(source, reason, detail)

    def count(self, where: dict[str, Affected], key: str, source: Source) -> None:
        """A row has met the fate `key`."""
        where.setdefault(key, Affected()).add(source.row)


__all__ = ["Book", "Invalid", "Problems", "Witness"]
