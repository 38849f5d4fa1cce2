"""Any reward on the rows of files: what `plaudit score` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from plaudit.data.book import Book, Invalid, Problems
from plaudit.data.readers import Row, read
from plaudit.data.recordset import DROP_ADVICE, new_report, source_list
from plaudit.data.turns import RowProblem, Turns, parse_turns
from plaudit.errors import DataError, RewardError
from plaudit.rewards.cache import Cached
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.models.rows import AnswerRow, AnswerRows, read_answers, refuse_scored
from plaudit.rewards.scoring import ScoredGroup, Scoring
from plaudit.rewards.spec import RewardSpec
from plaudit.rewards.summary import Summary
from plaudit.runs.resumable import ResumableFile
from plaudit.types import FinishReason, Source

PARTS, ERROR, NOTE = "score_parts", "score_error", "score_note"
_CHUNK = 128
"""Answers that are scored together; what is lost when the program is killed."""


def read_rows(sources: Any, invalid: Invalid = "error") -> AnswerRows:
    """Rows with answers. Those with `prompt` and `completion`, as `plaudit generate` writes them, may have empty
    answers; other forms are read as training reads them.

    Raises:
        DataError: as `plaudit.rewards.models.rows.read_answers`.
    """
    found, problems = AnswerRows(), Problems(DROP_ADVICE)
    for position, source in enumerate(source_list(sources), start=1):
        rows = read(source, position=position)
        if not rows.rows or not {"prompt", "completion"} <= rows.rows[0][1].keys():
            other = read_answers(source, has_template=True, invalid=invalid)
            found.rows += other.rows
            found.files += other.files
            continue
        report = new_report(rows)
        found.files.append(report)
        book = Book(report, problems, invalid)
        for number, row in rows.rows:
            at = Source(rows.name, number)
            try:
                found.rows.append(AnswerRow(row, at, [_item(row)], "completion"))
            except RowProblem as problem:
                book.refuse(at, problem.reason, problem.detail)
    problems.raise_any(sum(f.rows for f in found.files))
    if not found.rows:
        raise DataError("PL207", "no row is left", where=", ".join(found.names), mend="mend the rows")
    return found


def _item(row: Row) -> tuple[Turns, list[Turns]]:
    prompt, completion = parse_turns(row.get("prompt")), parse_turns(row.get("completion"))
    if not prompt:
        raise RowProblem("empty", "prompt is empty")
    return prompt, [completion]


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


def with_results(row: AnswerRow, results: Sequence[RewardResult]) -> Row:
    """The row with its scores, and parts, errors and notes where there are any: lists where it has several answers."""
    left = iter(results)
    scores = [[next(left).value for _ in answers] for _, answers in row.items]
    more: dict[str, Any] = {}
    for name, values in (
        (PARTS, [dict(r.parts) or None for r in results]),
        (ERROR, [str(r.error) if r.error else None for r in results]),
        (NOTE, [r.note or None for r in results]),
    ):
        if any(v is not None for v in values):
            more[name] = values[0] if row.shape == "completion" else values
    return row.with_scores(scores) | more


class ScoredFile:
    """Rows with their rewards, scored while they are iterated over.

    Args:
        spec: the rewards; closed when the last row has been taken, or an error was raised.
        found: the rows.
        file: where the rows go as well; what is there already is not scored again.

    Attributes:
        summary: complete when all rows have been taken.

    Raises:
        ConfigError: PL102, a row has scores already; RewardError: PL709, no row has a column that is read. While
            iterating RewardError: PL706, too many answers, or all of them, have no score.
    """

    def __init__(
        self,
        spec: RewardSpec,
        found: AnswerRows,
        *,
        file: ResumableFile | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        refuse_scored(found.rows, (PARTS, ERROR, NOTE))
        self.spec, self.found, self.file = spec, found, file
        self.scoring = Scoring(
            spec.reward,
            retries=spec.config.retries,
            max_error_fraction=spec.config.max_reward_error_fraction,
        )
        self.summary = Summary()
        self._tell = on_progress or (lambda done, total: None)
        self._need_columns()

    @property
    def done(self) -> int:
        """Rows that an earlier call has written."""
        return 0 if self.file is None else self.file.done

    def _need_columns(self) -> None:
        """Notice before anything is scored that a column is in no row at all: a typo, and not a bad row."""
        for part in self.spec.reward.parts:
            for column in part.reward.columns:
                if not any(column in row.row for row in self.found.rows):
                    have = ", ".join(sorted({str(c) for row in self.found.rows[:50] for c in row.row}))
                    raise RewardError(
                        "PL709",
                        f"the reward {part.reward.name} reads the column {column!r}, which no row has",
                        where=", ".join(self.found.names),
                        mend=f"the rows have: {have}. Name the right one (column: …), or add it",
                    )

    def __iter__(self) -> Iterator[Row]:
        rows = self._scored() if self.file is None else self.file.write(self._scored())
        try:
            self._take_earlier()
            for number, row in enumerate(rows, start=self.done + 1):
                yield row
                self._tell(number, len(self.found.rows))
            self._close_account()
        finally:
            self.spec.reward.close()

    def _scored(self) -> Iterator[Row]:
        for chunk, groups in self.scoring.stream(self._chunks(), lambda rows: [samples_of(r) for r in rows]):
            for row, group in zip(chunk, groups, strict=True):
                self._count(group)
                yield with_results(row, group.results)

    def _chunks(self) -> Iterator[list[AnswerRow]]:
        chunk, answers = list[AnswerRow](), 0
        for row in self.found.rows[self.done :]:
            chunk.append(row)
            answers += sum(len(a) for _, a in row.items)
            if answers >= _CHUNK:
                yield chunk
                chunk, answers = [], 0
        if chunk:
            yield chunk

    def _count(self, group: ScoredGroup) -> None:
        for result in group.results:
            self.summary.take(result.value, result.parts, str(result.error) if result.error else None)

    def _take_earlier(self) -> None:
        """Count what an earlier call has written."""
        if self.file is None or not self.done:
            return
        self.summary.notes.append(f"{self.done} of {len(self.found.rows)} rows were there already")
        with self.file.path.open(encoding="utf-8") as lines:
            for line, row in zip(lines, self.found.rows[: self.done], strict=False):
                written = json.loads(line)
                values = [v for c in row.columns for v in _flat(written.get(c))]
                single = row.shape == "completion"
                parts, errors = written.get(PARTS), written.get(ERROR)
                parts = [parts] if single else parts or [None] * len(values)
                errors = [errors] if single else errors or [None] * len(values)
                for value, part, error in zip(values, parts, errors, strict=True):
                    self.summary.take(value, part or {}, error)

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
                mend="mend what scores, or what the rows lack; with --overwrite the file is begun anew",
            )


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def about_file(spec: RewardSpec, found: AnswerRows) -> dict[str, Any]:
    """What decides about a file of scores: the rewards and the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for row in found.rows:
        digest.update(json.dumps(row.row, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    about: Mapping[str, Any] = spec.about
    return {"rows": digest.hexdigest(), "rewards": about["rewards"], "shaping": about["shaping"]}


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
    found = read_rows(sources, invalid)
    file = None
    if output is not None:
        refuse_scored(found.rows, (PARTS, ERROR, NOTE))
        file = ResumableFile(output, about_file(spec, found), holds="scores", overwrite=overwrite)
    return ScoredFile(spec, found, file=file, on_progress=on_progress)
