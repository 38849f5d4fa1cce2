"""What is noted of the rows on their way in."""

from __future__ import annotations

from dataclasses import dataclass, field

from plaudit.data.report import REASONS
from plaudit.types import PromptGroup, Source


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that is not used."""

    source: Source
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Drops:
    """Rows of one file that are not used for the same reason."""

    file: str
    reason: str
    rows: tuple[int, ...]
    """all of them"""

    @property
    def meaning(self) -> str:
        return REASONS[self.reason]


@dataclass(slots=True)
class Notes:
    """A `plaudit.data.book.Witness` that keeps lengths and refusals."""

    refusals: list[Refusal] = field(default_factory=list)
    lengths: list[tuple[str, int, tuple[int, ...]]] = field(default_factory=list)
    """(file, tokens of the prompt, of each completion) of every group before `max_length` is held against it"""
    _before: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def rendered(self, group: PromptGroup) -> None:
        """See `Witness`."""
        found = len(group.prompt_ids), tuple(len(c.token_ids) for c in group.completions)
        self.lengths.append((group.source.file if group.source else "", *found))
        # A group that is dropped may leave its id to a later one, which is then noted anew.
        self._before[id(group)] = found

    def refused(self, source: Source, reason: str, detail: str) -> None:
        """See `Witness`."""
        self.refusals.append(Refusal(source, reason, detail))

    def cut(self, group: PromptGroup) -> tuple[int, tuple[int, ...]]:
        """Tokens that `max_length` has cost a group that was kept: of its prompt, of each completion."""
        prompt, completions = self._before[id(group)]
        left = zip(completions, group.completions, strict=True)
        return prompt - len(group.prompt_ids), tuple(before - len(c.token_ids) for before, c in left)

    def drops(self) -> list[Drops]:
        """The refusals by file and reason, in the order in which they came first."""
        found: dict[tuple[str, str], list[int]] = {}
        for refusal in self.refusals:
            found.setdefault((refusal.source.file, refusal.reason), []).append(refusal.source.row)
        return [Drops(file, reason, tuple(rows)) for (file, reason), rows in found.items()]


__all__ = ["Drops", "Notes", "Refusal"]
