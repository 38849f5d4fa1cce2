"""Rows as they are trained: chosen, rendered, and marked by what the loss reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plaudit.data.lengths import length
from plaudit.errors import ConfigError
from plaudit.inspection.cells import Cell, Mark, Speller
from plaudit.inspection.mask import Answer, GroupMask, Packer
from plaudit.inspection.packing import tokens_of
from plaudit.inspection.witness import Notes
from plaudit.types import Completion, PromptGroup, Source

LONGEST = 3
"""Rows that are shown where the longest are asked for."""
FIRST = 2
"""Rows that are shown where nothing is asked for, besides the longest."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows are shown. Where nothing is chosen: the first two and the longest.

    Attributes:
        rows: numbers as in errors and reports, "17" or "pairs.jsonl:17".
        first: so many of the first rows; with `longest` so many of the longest, with `dropped` of each reason.
        longest: the rows with the longest sequences.
        dropped: rows that are not used, as they are in their file.
    """

    rows: tuple[str, ...] = ()
    first: int | None = None
    longest: bool = False
    dropped: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.rows or self.first or self.longest or self.dropped)


@dataclass(frozen=True, slots=True)
class Branch:
    """A completion of an example."""

    label: str
    """what it is to the method: chosen, liked, rank 1, …"""
    cells: tuple[Cell, ...]
    tokens: int
    trained: int
    ends: str | None
    """name of the token that ends the answer, where the answer's last token is one"""
    end_trained: bool
    """whether that token is a target, or the score is read on it"""
    cut: int = 0
    """tokens that max_length has taken from its end"""


@dataclass(frozen=True, slots=True)
class Example:
    """A group as it is trained."""

    source: Source | None
    held_out: bool
    prompt: tuple[Cell, ...]
    prompt_tokens: int
    prompt_trained: int
    branches: tuple[Branch, ...]
    unique: int
    """tokens that are computed"""
    without_sharing: int
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "a row" if self.source is None else str(self.source)


@dataclass(frozen=True, slots=True)
class Exhibitor:
    """Makes examples.

    Args:
        stops: tokens that end an answer.
    """

    packer: Packer
    speller: Speller
    notes: Notes
    stops: frozenset[int]

    def show(self, group: PromptGroup, *, held_out: bool) -> Example:
        """One group."""
        mask = self.packer.masks([group])[0]
        unique, apart = tokens_of(self.packer, group)
        prompt_cut, cuts = self.notes.cut(group)
        context: list[Mark] = ["trained" if trained else "masked" for trained in mask.prompt]
        return Example(
            source=group.source,
            held_out=held_out,
            prompt=tuple(self.speller.cells(mask.context.tolist(), context)),
            prompt_tokens=len(mask.context),
            prompt_trained=int(mask.prompt.sum()),
            branches=tuple(self._branches(group, mask, context, cuts)),
            unique=unique,
            without_sharing=apart,
            remarks=tuple(_remarks(group, mask, prompt_cut)),
        )

    def _branches(
        self, group: PromptGroup, mask: GroupMask, context: list[Mark], cuts: Sequence[int]
    ) -> Iterator[Branch]:
        for k, answer in sorted(mask.answers.items()):
            completion = group.completions[k]
            ids = [*mask.context.tolist(), *completion.token_ids.tolist()]
            # The whole sequence is spelt, because a decoder may write a token otherwise at a start.
            cells = self.speller.cells(ids, [*context, *_marks(answer)])
            last = int(completion.token_ids[-1]) if len(completion.token_ids) else None
            ends = last if last in self.stops else None
            read = bool(len(answer.trained) and answer.trained[-1]) or answer.score_at == len(answer.trained) - 1
            yield Branch(
                label=label_of(group, k),
                cells=tuple(_behind(cells, len(mask.context))),
                tokens=len(completion.token_ids),
                trained=int(answer.trained.sum()),
                ends=None if ends is None else self.speller.name(ends),
                end_trained=ends is not None and read,
                cut=cuts[k],
            )


def _marks(answer: Answer) -> list[Mark]:
    marks: list[Mark] = ["trained" if trained else "masked" for trained in answer.trained]
    if answer.score_at is not None:
        marks[answer.score_at] = "scored"
    return marks


def _behind(cells: Sequence[Cell], tokens: int) -> Iterator[Cell]:
    """The cells behind so many tokens; one that begins before them is shown whole."""
    at = 0
    for cell in cells:
        at += cell.count
        if at > tokens:
            yield cell


def label_of(group: PromptGroup, k: int) -> str:
    """What a completion is to the method."""
    completion: Completion = group.completions[k]
    if completion.label is not None:
        return "liked" if completion.label else "not liked"
    if completion.rank is not None:
        reward = "" if completion.reward is None else f", score {completion.reward:g}"
        return f"rank {completion.rank:g}{reward}"
    if len(group.completions) == 2:
        return ("chosen", "rejected")[k]
    return "answer"


def _remarks(group: PromptGroup, mask: GroupMask, prompt_cut: int) -> Iterator[str]:
    if prompt_cut:
        yield f"the prompt has lost {prompt_cut:,} tokens at its start (data.overlong)"
    if len(mask.context) > len(group.prompt_ids):
        yield "the prompt is empty: the BOS token stands in for it"
    weights = {c.weight for c in group.completions}
    if weights - {1.0}:
        yield f"weight of the row: {', '.join(f'{w:g}' for w in sorted(weights))}"
    if group.preference is not None:
        yield f"probability that the first answer is better: {group.preference:g}"
    if group.margin is not None:
        yield f"margin: {group.margin:g}"


def choose(
    groups: Sequence[PromptGroup], choice: Choice, files: Sequence[tuple[str, int]], gone: set[Source]
) -> list[int]:
    """Indices of the groups to show, in the order in which they were asked for.

    Args:
        files: name and number of rows of each file.
        gone: rows that are not used, and so have no group.

    Raises:
        ConfigError: PL102, there is no such row.
    """
    found: list[int] = []
    for asked in choice.rows:
        found += _of_row(groups, asked, files, gone)
    order = range(len(groups))
    by_length = sorted(order, key=lambda i: (-length(groups[i]), i))
    if choice.longest:
        found += by_length[: choice.first or LONGEST]
    elif choice.first and not choice.dropped:
        found += order[: choice.first]
    elif choice.is_empty:
        found += [*order[:FIRST], *by_length[:1]]
    return list(dict.fromkeys(found))


def _of_row(
    groups: Sequence[PromptGroup], asked: str, files: Sequence[tuple[str, int]], gone: set[Source]
) -> list[int]:
    file, _, number = asked.rpartition(":")
    if not number.isdigit():
        raise ConfigError("PL102", f"{asked!r} is no row", where="--row", mend="--row 17, or --row pairs.jsonl:17")
    wanted = [name for name, _ in files if not file or name == file or name.endswith("/" + file)]
    places = {Source(name, int(number)) for name in wanted}
    found = [i for i, group in enumerate(groups) if group.source in places]
    if not found and not places & gone:
        has = ", ".join(f"{name} has {rows:,} rows" for name, rows in files)
        raise ConfigError(
            "PL102", f"there is no row {asked}", where="--row",
            mend=f"{has}; rows are numbered from 1, as in errors (in JSONL by their lines)",
        )  # fmt: skip
    return found


__all__ = ["Branch", "Choice", "Example", "Exhibitor", "choose", "label_of"]
