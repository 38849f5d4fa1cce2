"""From sources to groups: read, recognise, render, apply the policies, report."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from plaudit.data.book import Book, Invalid, Problems, Witness
from plaudit.data.columns import fits
from plaudit.data.convert import Conversion
from plaudit.data.drafts import TrainOn
from plaudit.data.lengths import Overlong, fit, is_identical
from plaudit.data.readers import Rows, RowSource, read
from plaudit.data.records import AnyRecord
from plaudit.data.recordset import checked, new_report, open_columns, source_list, take_counts
from plaudit.data.render import Renderer
from plaudit.data.repeats import Repeats
from plaudit.data.report import LENGTH_REASONS, DataReport, Lengths
from plaudit.data.splits import split_by_prompt
from plaudit.data.turns import RowProblem
from plaudit.errors import DataError
from plaudit.types import DataKind, PromptGroup, Source

CHUNK = 1024
"""Records that are tokenised together."""
HEAD = 100
"""Rows of a source that `look` looks at."""


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
    kind: DataKind
    max_length: int | None
    overlong: Overlong
    invalid: Invalid
    train_on: TrainOn
    convert: Conversion | None
    reads: Collection[str] | None


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
    convert: Conversion | None = None,
    reads: Collection[str] | None = None,
    witness: Witness | None = None,
) -> PreparedData:
    """Read sources and turn their rows into groups.

    Args:
        sources: one or several of: `SourceConfig`, path, list of dicts, `datasets.Dataset`.
        kind: what the method consumes.
        max_length: most tokens of prompt + completion; None = no limit.
        overlong, invalid, max_drop_fraction: as in `DataConfig`.
        train_on: which tokens of a demonstration are trained; "sequence" makes targets of any row's prompt too.
        convert: for sources whose rows are of another kind.
        reads: what of a row's own judgement (`preference`, `margin`) the method uses; a column that is there and not
            used is counted. None = nobody asks.
        witness: is told what happens to each row, also where an error is raised in the end.

    Raises:
        DataError: PL201-PL203 reading and columns, PL204/PL205/PL200 bad rows (all sources are checked first, the first
            ten rows are shown with the total), PL206 too many dropped, PL207 none left, PL208 no chat template,
            PL211 feedback of one label only, PL212 an option without meaning, or a conversion that cannot be done.
    """
    if kind == "prompt" and overlong == "truncate_completion":
        raise DataError(
            "PL212", "overlong: truncate_completion has no meaning here: prompt data has no completions",
            where="data.overlong", mend="use truncate_prompt, drop or error",
        )  # fmt: skip
    policy = _Policy(kind, max_length, overlong, invalid, train_on, convert, reads)
    report = DataReport(kind=kind, max_length=max_length, overlong=overlong, invalid=invalid)
    problems = Problems()
    seen = Repeats()
    groups: list[PromptGroup] = []
    sizes: list[int] = []
    weights: list[float] = []
    for position, source in enumerate(source_list(sources), start=1):
        rows = read(source, position=position)
        report.files.append(new_report(rows))
        book = Book(report.files[-1], problems, invalid, overlong, witness)
        found = _prepare_source(rows, renderer, policy, book, seen)
        groups += found
        sizes.append(len(found))
        weights.append(rows.weight)
    _summarise(report, groups)
    problems.raise_any(report.rows)
    _judge(report, max_drop_fraction, invalid)
    return PreparedData(groups, sizes, weights, report)


def _kind(rows: Rows, kind: DataKind, convert: Conversion | None) -> DataKind:
    """What the rows are read as: the method's kind, or the one that they are converted from."""
    return convert.from_kind if convert is not None and fits(rows.rows, convert.from_kind, rows.columns) else kind


def _records(rows: Rows, book: Book, policy: _Policy, has_template: bool) -> Iterator[tuple[AnyRecord, Source]]:
    """The checked records of a source, converted where that is asked for and the rows are not of the method's kind."""
    convert, kind = policy.convert, _kind(rows, policy.kind, policy.convert)
    columns = open_columns(rows, kind, has_template=has_template)
    found = checked(rows, columns, book)
    if convert is not None and kind != policy.kind:
        made, book.file.converted = convert.apply(list(found))
        found = iter(made)
    yield from found
    take_counts(book.file, columns)


def _prepare_source(rows: Rows, renderer: Renderer, policy: _Policy, book: Book, seen: Repeats) -> list[PromptGroup]:
    groups: list[PromptGroup] = []
    records = _records(rows, book, policy, renderer.has_template)
    while chunk := list(islice(records, CHUNK)):
        sources = [source for _, source in chunk]
        results = renderer.render_batch([record for record, _ in chunk], sources, train_on=policy.train_on)
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, RowProblem):
                book.refuse(source, result.reason, result.detail)
                continue
            for note in result.notes:
                book.count(book.file.notes, note, source)
            groups += [g for g in result.groups if _keeps(g, source, renderer.encoder.bos_id, policy, book)]
    for group in groups:
        seen.look(group, book.file)
        if policy.reads is not None:
            _note_judgement(group, policy.reads, book)
    book.file.groups = len(groups)
    return groups


def _keeps(group: PromptGroup, source: Source, bos_id: int | None, policy: _Policy, book: Book) -> bool:
    """Whether the group goes on, after the checks on tokens and the length policy."""
    if any(not c.action_mask.any() for c in group.completions):
        book.refuse(source, "nothing_trained", "no token of the answer is trained")
        return False
    if is_identical(group.completions):
        book.refuse(source, "identical", "the answers have the same tokens")
        return False
    if book.witness is not None:
        book.witness.rendered(group)
    if policy.max_length is None:
        return True
    fitted = fit(group, policy.max_length, policy.overlong, bos_id)
    if fitted.group is None:
        book.refuse(source, fitted.reason or "overlong", fitted.detail)
    if fitted.prompt_cut:
        book.count(book.file.truncated, "prompt cut at its start", source)
    if fitted.completions_cut:
        book.count(book.file.truncated, "completion cut at its end (its end-of-turn token is lost)", source)
    return fitted.group is not None


def _note_judgement(group: PromptGroup, reads: Collection[str], book: Book) -> None:
    """Whether what the row says about its own label has a part in the loss. A preference of 1 is a plain label."""
    if group.source is None:
        return
    if group.preference is not None and group.preference < 1:
        book.count(book.file.notes, "soft_label" if "preference" in reads else "preference_unused", group.source)
    if group.margin is not None and "margin" not in reads:
        book.count(book.file.notes, "margin_unused", group.source)


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
    return f", or raise data.max_length ({report.max_length})" if reasons.intersection(LENGTH_REASONS) else ""


def _judge(report: DataReport, max_drop_fraction: float, invalid: str) -> None:
    if report.groups == 0:
        left_out = "".join("\n" + "\n".join(f.converted.lines()) for f in report.files if f.converted)
        raise DataError(
            "PL207", f"no row is left of {report.rows}\n{report.reason_table()}{left_out}",
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
        instead = "train on the liked answers with sft" if only == "desirable" else "pair them with better answers"
        raise DataError(
            "PL211",
            (f"all {report.groups} rows are {only}" if report.groups > 1 else f"there is one row, and it is {only}")
            + ": there is nothing to tell apart",
            where=", ".join(f.path for f in report.files),
            mend="add rows with the other label (to other prompts will do; pairs bring both with data.convert: "
            f"pairs_to_feedback), {instead}, or set data.invalid: drop to train on one label all the same",
        )  # fmt: skip
