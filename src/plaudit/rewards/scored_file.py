"""Any reward on the rows of files: what `plaudit score` does."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from plaudit.data.book import Invalid
from plaudit.data.readers import Row
from plaudit.data.turns import parse_turns
from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.cache import Cached
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.rows import AnswerRow, AnswerRows, read_answers, refuse_scored
from plaudit.rewards.scoring import ScoredGroup, Scoring
from plaudit.rewards.spec import RewardSpec
from plaudit.rewards.summary import Summary
from plaudit.runs.resumable import ResumableFile
from plaudit.types import FinishReason

PARTS, ERROR, NOTE = "score_parts", "score_error", "score_note"
_FIRST_CHUNK, _LARGEST_CHUNK = 16, 512
"""Answers that are scored together, and lost when the program is killed: more while they take less than a second."""


def samples_of(row: AnswerRow) -> list[Sample]:
    """The answers of a row, in order."""
    several = sum(len(answers) for _, answers in row.items) > 1
    tokens, reason = row.row.get("tokens"), row.row.get("finish_reason")
    counted = tokens if isinstance(tokens, int) and not several else None
    ended = reason if reason in get_args(FinishReason) and not several else None
    return [
        Sample(parse_turns(prompt), parse_turns(answer), row.row, counted, ended)
        for prompt, answers in row.items
        for answer in answers
    ]


def _as_items(row: AnswerRow) -> AnswerRow:
    """A pair with several rejected answers as one item: the chosen answer is scored once."""
    if len(row.items) == 1:
        return row
    prompt, (chosen, _) = row.items[0]
    return dataclasses.replace(row, items=[(prompt, [chosen, *(answers[1] for _, answers in row.items)])])


def with_results(row: AnswerRow, results: Sequence[RewardResult]) -> Row:
    """The row with its scores, and parts, errors and notes where there are any: lists where it has several answers."""
    values = [r.value for r in results]
    scores = [[values[0], rejected] for rejected in values[1:]] if row.shape == "preference" else [values]
    more: dict[str, Any] = {}
    for name, found in (
        (PARTS, [dict(r.parts) or None for r in results]),
        (ERROR, [str(r.error) if r.error else None for r in results]),
        (NOTE, [r.note or None for r in results]),
    ):
        if any(v is not None for v in found):
            more[name] = found[0] if row.shape == "completion" else found
    return row.with_scores(scores) | more


@dataclasses.dataclass(frozen=True, slots=True)
class _Earlier:
    """The answers of a row as an earlier call has written them."""

    values: list[Any]
    parts: list[Any]
    errors: list[Any]

    @classmethod
    def of(cls, row: AnswerRow, written: Row) -> _Earlier:
        values = [v for c in row.columns for v in _flat(written.get(c))]
        parts, errors = written.get(PARTS), written.get(ERROR)
        if row.shape == "completion":
            return cls(values, [parts], [errors])
        return cls(values, parts or [None] * len(values), errors or [None] * len(values))

    @property
    def can_pass(self) -> bool:
        """Whether an answer has no score for a reason that may have gone meanwhile."""
        lasting = ("bad_row", "not_applicable")
        return any(e is not None and str(e).partition(":")[0] not in lasting for e in self.errors)


class ScoredFile:
    """Rows with their rewards, scored while they are iterated over.

    Rows that an earlier call has left without a score for a reason that may pass are scored again, first of all.

    Args:
        spec: the rewards; closed when the last row has been taken, or an error was raised.
        found: the rows.
        file: where the rows go as well; what is there already is not scored again.

    Attributes:
        summary: complete when all rows have been taken.

    Raises:
        ConfigError: PL102, the file has more rows than there are. While iterating RewardError: PL706, too many answers,
            or all of them, have no score.
    """

    def __init__(
        self,
        spec: RewardSpec,
        found: AnswerRows,
        *,
        file: ResumableFile | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.spec, self.found, self.file = spec, found, file
        self.rows = found.rows
        if self.done > len(self.rows):
            assert file is not None
            raise ConfigError(
                "PL102",
                f"the file has {self.done} rows, and there are {len(self.rows)}",
                where=str(file.path),
                mend="name another file, or give --overwrite",
            )
        self.summary = Summary()
        self._tell = on_progress or (lambda done, total: None)
        self._chunk = _FIRST_CHUNK

    @property
    def done(self) -> int:
        """Rows that are in the file."""
        return 0 if self.file is None else self.file.done

    def __iter__(self) -> Iterator[Row]:
        config = self.spec.config
        self.scoring = Scoring(
            self.spec.reward, retries=config.retries, max_error_fraction=config.max_reward_error_fraction
        )
        self.summary = Summary()
        earlier = 0 if self.file is None else self.file.recount()
        fresh = self._scored(earlier)
        try:
            yield from self._mended(earlier)
            for number, row in enumerate(fresh if self.file is None else self.file.write(fresh), start=earlier + 1):
                yield row
                self._tell(number, len(self.rows))
            self._close_account()
        finally:
            fresh.close()  # before what it asks is closed
            self.spec.reward.close()
            if self.file is not None:
                self.file.recount()
                self.file.close()

    def _mended(self, earlier: int) -> Iterator[Row]:
        """Count what an earlier call has written, and score again what failed then."""
        if self.file is None or not earlier:
            return
        self.summary.notes.append(f"{earlier} of {len(self.rows)} rows were there already")
        again: list[int] = []
        for number, (row, written) in enumerate(zip(self.rows, self.file.rows(), strict=False)):
            known = _Earlier.of(row, written)
            if known.can_pass:
                again.append(number)
                continue
            self.scoring.remember(e is not None for e in known.errors)
            for value, part, error in zip(known.values, known.parts, known.errors, strict=True):
                self.summary.take(value, part or {}, error)
        if not again:
            return
        groups = self.scoring.score([samples_of(self.rows[number]) for number in again])
        rows = {n: with_results(self.rows[n], g.results) for n, g in zip(again, groups, strict=True)}
        self.file.replace(rows)
        for group in groups:
            self._count(group)
        self.summary.notes.append(f"{len(again)} rows of them had failed and were scored again")
        yield from rows.values()

    def _scored(self, earlier: int) -> Generator[Row, None, None]:
        start = time.monotonic()
        stream = self.scoring.stream(self._chunks(earlier), lambda rows: [samples_of(r) for r in rows])
        with contextlib.closing(stream):
            for chunk, groups in stream:
                for row, group in zip(chunk, groups, strict=True):
                    self._count(group)
                    yield with_results(row, group.results)
                took, start = time.monotonic() - start, time.monotonic()
                self._chunk = min(self._chunk * 2, _LARGEST_CHUNK) if took < 1 else max(self._chunk // 2, _FIRST_CHUNK)

    def _chunks(self, earlier: int) -> Iterator[list[AnswerRow]]:
        chunk, answers = list[AnswerRow](), 0
        for row in self.rows[earlier:]:
            chunk.append(row)
            answers += sum(len(a) for _, a in row.items)
            if answers >= self._chunk:
                yield chunk
                chunk, answers = [], 0
        if chunk:
            yield chunk

    def _count(self, group: ScoredGroup) -> None:
        for result in group.results:
            self.summary.take(result.value, result.parts, str(result.error) if result.error else None)

    def _close_account(self) -> None:
        notes, counts = self.summary.notes, self.scoring.counts
        if self.found.dropped:
            notes.append(f"{self.found.dropped} rows could not be used and are left out")
        if counts.retried:
            notes.append(f"{counts.retried} answers were scored again after a failure")
        for part in self.spec.reward.parts:
            if isinstance(part.reward, Cached) and part.reward.hits:
                notes.append(f"{part.reward.name}: {part.reward.hits} results were known already")
            inner = part.reward.inner if isinstance(part.reward, Cached) else part.reward
            notes += inner.remarks()
        failed = self.summary.failed.total()
        if failed:
            kinds = ", ".join(f"{kind} {n}" for kind, n in self.summary.failed.most_common())
            notes.append(f"{failed} answers have no score ({kinds}); their rows say why in {ERROR!r}")
        if failed and not self.summary.total:
            raise RewardError(
                "PL706",
                f"none of the {failed} answers has a score; the last error: {counts.last or kinds}",
                where=self.spec.reward.name,
                mend="mend what scores, or what the rows lack; the same command scores again what may pass",
            )


def check_columns(spec: RewardSpec, found: AnswerRows) -> None:
    """Notice before anything is scored, or a file is begun, that a column is in no row at all: a typo, and no bad row.

    Raises:
        RewardError: PL709.
    """
    everywhere = {str(c) for row in found.rows for c in row.row}
    for part in spec.reward.parts:
        rows = [row for row in found.rows if part.applies(samples_of(row)[0])] if part.when else found.rows
        wanted = [*part.when, *(part.reward.columns if rows else ())]
        for column in wanted:
            if not any(column in row.row for row in (found.rows if column in part.when else rows)):
                raise RewardError(
                    "PL709",
                    f"the reward {part.reward.name} reads the column {column!r}, which no row has",
                    where=", ".join(found.names),
                    mend=f"the rows have: {', '.join(sorted(everywhere))}. Name the right one, or add it",
                )


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def about_file(spec: RewardSpec, found: AnswerRows) -> dict[str, Any]:
    """What decides about a file of scores: the rewards, with the content of their functions and files, and the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for row in found.rows:
        try:
            text = json.dumps(row.row, sort_keys=True, default=str)
        except TypeError:  # keys of several types
            text = repr(row.row)
        digest.update(text.encode("utf-8", "surrogatepass"))
    rewards = {"rewards": spec.about["rewards"], "content": spec.identity()}
    return {"rows": digest.hexdigest(), "rewards": rewards, "shaping": spec.about["shaping"]}


def score_sources(
    spec: RewardSpec,
    sources: Any,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    invalid: Invalid = "error",
    on_progress: Callable[[int, int], None] | None = None,
) -> ScoredFile:
    """Read rows and prepare to score them; see `ScoredFile`.

    Raises:
        DataError: PL2xx; ConfigError: PL102; RewardError: PL709, no row has a column that a reward reads.
    """
    found = read_answers(sources, has_template=True, invalid=invalid, as_given=True)
    found.rows = [_as_items(row) for row in found.rows]
    refuse_scored(found.rows, (PARTS, ERROR, NOTE))
    check_columns(spec, found)
    file = None
    if output is not None:
        if any(Path(name).resolve() == output.resolve() for name in found.names if Path(name).exists()):
            raise ConfigError(
                "PL102", "the output is the data itself", where=str(output), mend="name another file for the scores"
            )
        file = ResumableFile(output, about_file(spec, found), holds="scores", overwrite=overwrite)
    return ScoredFile(spec, found, file=file, on_progress=on_progress)
