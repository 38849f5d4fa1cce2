"""From sources to groups: read, recognise, render, apply the policies, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from plaudit.config.schema import SourceConfig
from plaudit.data.columns import Columns
from plaudit.data.drafts import TrainOn
from plaudit.data.lengths import Fitted, Overlong, fit, is_identical
from plaudit.data.readers import Rows, RowSource, read
from plaudit.data.records import AnyRecord
from plaudit.data.render import Renderer
from plaudit.data.report import LENGTH_REASONS, Affected, DataReport, FileReport, Lengths
from plaudit.data.splits import split_by_prompt
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind, PromptGroup, Source

CHUNK = 1024
"""Rows that are tokenised together."""
SHOWN = 10
"""Bad rows shown in one error."""


@dataclass(slots=True)
class PreparedData:
    """Groups, source by source.

    Attributes:
        groups: all groups; those of one source are next to each other.
        source_sizes: number of groups of each source.
        source_weights: weight of each source, for `plaudit.data.mixing.epoch_order`.
        report: what happened on the way.
    """

    groups: list[PromptGroup]
    source_sizes: list[int]
    source_weights: list[float]
    report: DataReport

    def split(self, eval_fraction: float) -> tuple[PreparedData, PreparedData]:
        """(train, eval) by whole prompts; both keep the report of the whole.

        Raises:
            DataError: PL207, one side would be empty.
        """
        train, held_out = split_by_prompt(self.groups, eval_fraction)
        return self._part(train), self._part(held_out)

    def _part(self, indices: list[int]) -> PreparedData:
        sizes, start = [], 0
        for size in self.source_sizes:
            sizes.append(sum(start <= i < start + size for i in indices))
            start += size
        return PreparedData([self.groups[i] for i in indices], sizes, self.source_weights, self.report)


@dataclass(slots=True)
class _Policy:
    max_length: int | None
    overlong: Overlong
    invalid: Literal["error", "drop"]
    train_on: TrainOn


@dataclass(slots=True)
class _Problems:
    """Bad rows that are errors: the first few, and how many of each sort."""

    shown: list[str] = field(default_factory=list)
    invalid: int = 0
    overlong: int = 0

    def add(self, source: Source, reason: str, detail: str) -> None:
        if len(self.shown) < SHOWN:
            self.shown.append(f"  {source}  {detail}")
        if reason in LENGTH_REASONS:
            self.overlong += 1
        else:
            self.invalid += 1


def prepare(
    sources: RowSource | Sequence[RowSource],
    kind: DataKind,
    renderer: Renderer,
    *,
    max_length: int | None = None,
    overlong: Overlong = "error",
    invalid: Literal["error", "drop"] = "error",
    max_drop_fraction: float = 0.05,
    train_on: TrainOn = "assistant",
) -> PreparedData:
    """Read sources and turn their rows into groups.

    Args:
        sources: one or several of: `SourceConfig`, path, list of dicts, `datasets.Dataset`.
        kind: what the method consumes.
        max_length: most tokens of prompt + completion; None = no limit.
        overlong, invalid, max_drop_fraction: as in `DataConfig`.
        train_on: which tokens of a demonstration are trained.

    Raises:
        DataError: PL201-PL203 reading and columns, PL204/PL205/PL200 bad rows (all sources are checked first, the first
            ten rows are shown with the total), PL206 too many dropped, PL207 none left, PL208 no chat template,
            PL211 feedback of one label only, PL212 an option without meaning.
    """
    if kind == "prompt" and overlong == "truncate_completion":
        raise DataError(
            "PL212", "overlong: truncate_completion has no meaning here: prompt data has no completions",
            where="data.overlong", mend="use truncate_prompt, drop or error",
        )  # fmt: skip
    policy = _Policy(max_length, overlong, invalid, train_on)
    report = DataReport(kind=kind, max_length=max_length, overlong=overlong, invalid=invalid)
    problems = _Problems()
    seen: set[bytes] = set()
    groups: list[PromptGroup] = []
    sizes: list[int] = []
    weights: list[float] = []
    for position, source in enumerate(_as_list(sources), start=1):
        rows = read(source, position=position)
        found, file = _prepare_source(rows, kind, renderer, policy, problems, seen)
        report.files.append(file)
        groups += found
        sizes.append(len(found))
        weights.append(rows.weight)
    _summarise(report, groups)
    _judge(report, problems, max_drop_fraction, invalid)
    return PreparedData(groups, sizes, weights, report)


def _as_list(sources: RowSource | Sequence[RowSource]) -> list[RowSource]:
    one = isinstance(sources, (str, SourceConfig)) or not isinstance(sources, (list, tuple))
    if not one and sources and all(isinstance(s, Mapping) for s in sources):
        one = True
    return [sources] if one else list(sources)


def _prepare_source(
    rows: Rows, kind: DataKind, renderer: Renderer, policy: _Policy, problems: _Problems, seen: set[bytes]
) -> tuple[list[PromptGroup], FileReport]:
    file = FileReport(path=rows.name, rows=len(rows.rows), weight=rows.weight)
    if not rows.rows:
        raise DataError("PL207", "the source has no rows", where=rows.name, mend="remove it or fill it")
    columns = Columns(kind, rows.columns, has_template=renderer.has_template, file=rows.name)
    columns.check(rows.rows)
    book = _Book(file, policy, problems)
    groups: list[PromptGroup] = []
    for start in range(0, len(rows.rows), CHUNK):
        records: list[AnyRecord] = []
        numbers: list[Source] = []
        for number, row in rows.rows[start : start + CHUNK]:
            source = Source(rows.name, number)
            try:
                found = columns.records(row)
            except RowProblem as problem:
                book.refuse(source, problem.reason, problem.detail)
                continue
            records += found
            numbers += [source] * len(found)
        results = renderer.render_batch(records, numbers, train_on=policy.train_on)
        for source, result in zip(numbers, results, strict=True):
            if isinstance(result, RowProblem):
                book.refuse(source, result.reason, result.detail)
                continue
            for note in result.notes:
                book.count(file.notes, note, source)
            groups += [g for g in result.groups if book.keeps(g, source, renderer.encoder.bos_id)]
    for group in groups:
        _count_duplicate(group, file, seen)
    file.groups = len(groups)
    file.conventions, file.extras = dict(columns.conventions), dict(columns.extras)
    for note, rows_of_note in columns.notes.items():
        if rows_of_note:
            file.notes[note] = Affected(count=rows_of_note)
    return groups, file


@dataclass(slots=True)
class _Book:
    """Books what happens to the rows of one source."""

    file: FileReport
    policy: _Policy
    problems: _Problems
    refused: set[int] = field(default_factory=set)

    def refuse(self, source: Source, reason: str, detail: str) -> None:
        """A row, or a group of it, is not used. A row counts once, whatever became of its other groups."""
        if source.row in self.refused:
            return
        self.refused.add(source.row)
        self.count(self.file.dropped, reason, source)
        length = reason in LENGTH_REASONS
        if (self.policy.overlong if length else self.policy.invalid) == "error":
            self.problems.add(source, reason, detail)

    def count(self, where: dict[str, Affected], key: str, source: Source) -> None:
        where.setdefault(key, Affected()).add(source.row)

    def keeps(self, group: PromptGroup, source: Source, bos_id: int | None) -> bool:
        """Whether the group goes on, after the checks on tokens and the length policy."""
        if any(not c.action_mask.any() for c in group.completions):
            self.refuse(source, "nothing_trained", "no token of the answer is trained")
            return False
        if is_identical(group.completions):
            self.refuse(source, "identical", "the answers have the same tokens")
            return False
        if self.policy.max_length is None:
            return True
        fitted = fit(group, self.policy.max_length, self.policy.overlong, bos_id)
        if fitted.group is None:
            self.refuse(source, fitted.reason or "overlong", fitted.detail)
        self._count_cuts(fitted, source)
        return fitted.group is not None

    def _count_cuts(self, fitted: Fitted, source: Source) -> None:
        if fitted.prompt_cut:
            self.count(self.file.truncated, "prompt cut at its start", source)
        if fitted.completions_cut:
            self.count(self.file.truncated, "completion cut at its end (its end-of-turn token is lost)", source)


def _count_duplicate(group: PromptGroup, file: FileReport, seen: set[bytes]) -> None:
    digest = blake2b(group.prompt_ids.tobytes(), digest_size=16)
    for completion in group.completions:
        digest.update(b"|" + completion.token_ids.tobytes() + bytes([bool(completion.label)]))
    if digest.digest() in seen:
        file.duplicates.add(group.source.row if group.source else 0)
    seen.add(digest.digest())


def _summarise(report: DataReport, groups: list[PromptGroup]) -> None:
    completions = [c for g in groups for c in g.completions]
    report.prompt_tokens = Lengths.of([len(g.prompt_ids) for g in groups])
    report.completion_tokens = Lengths.of([len(c.token_ids) for c in completions])
    report.trained_tokens = sum(int(c.action_mask.sum()) for c in completions) + sum(
        int(g.prompt_mask[1:].sum()) for g in groups if g.prompt_mask is not None
    )
    if report.kind == "feedback":
        liked = sum(bool(c.label) for c in completions)
        report.labels = {"desirable": liked, "undesirable": len(completions) - liked}


def _or_longer(report: DataReport) -> str:
    """The advice to allow longer rows, where rows were dropped for their length."""
    reasons = {key for f in report.files for key in f.dropped}
    return ", or raise data.max_length" if reasons.intersection(LENGTH_REASONS) else ""


def _judge(report: DataReport, problems: _Problems, max_drop_fraction: float, invalid: str) -> None:
    bad = problems.invalid + problems.overlong
    if bad:
        code = "PL200" if problems.invalid and problems.overlong else "PL204" if problems.invalid else "PL205"
        more = f"\n  … and {bad - len(problems.shown)} more" if bad > len(problems.shown) else ""
        mends = ["mend the rows"]
        mends += ["set data.invalid: drop"] if problems.invalid else []
        if problems.overlong:
            mends.append("set data.overlong: drop | truncate_prompt | truncate_completion, or a larger data.max_length")
        raise DataError(
            code, f"{bad} of {report.rows} rows cannot be used\n" + "\n".join(problems.shown) + more,
            where=problems.shown[0].split("  ")[1], mend=", or ".join(mends),
        )  # fmt: skip
    if report.groups == 0:
        raise DataError(
            "PL207", f"no row is left of {report.rows}\n{report.reason_table()}",
            where=", ".join(f.path for f in report.files), mend="mend the rows" + _or_longer(report),
        )  # fmt: skip
    if report.dropped > max_drop_fraction * report.rows:
        raise DataError(
            "PL206",
            f"{report.dropped} of {report.rows} rows ({report.dropped / report.rows:.1%}) would be dropped, more than "
            f"max_drop_fraction = {max_drop_fraction:g}\n{report.reason_table()}",
            where=", ".join(f.path for f in report.files),
            mend="mend the rows, or raise data.max_drop_fraction" + _or_longer(report),
        )
    if report.labels is not None and invalid == "error" and 0 in report.labels.values():
        only = next(label for label, n in report.labels.items() if n)
        raise DataError(
            "PL211", f"all {report.groups} rows are {only}: there is nothing to tell apart",
            where=", ".join(f.path for f in report.files),
            mend="add rows with the other label, or set data.invalid: drop to train on one label all the same",
        )  # fmt: skip
