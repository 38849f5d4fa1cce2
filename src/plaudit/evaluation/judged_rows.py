"""Rows with the scores that a reward model, or any other judge, gave their answers; and the pairs that they make.

Shapes: K answers of a row, N pairs of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plaudit.data.records import RankingRecord, Turns
from plaudit.data.turns import as_messages, turns_key
from plaudit.errors import DataError, EvaluationError, RewardError
from plaudit.evaluation.clustered import Array, Groups
from plaudit.types import Source

Record = tuple[RankingRecord, Source]
PAIR_SCORES = ("chosen_score", "rejected_score")
"""Columns of a pair that was scored elsewhere."""
LIST_SCORES = "judge_scores"
"""Column of a ranking that was scored elsewhere; `scores` is taken where the row has `ranks`, else it is the gold."""
_AT_A_TIME = 128


class Scorer(Protocol):
    """What is needed of a reward model: `plaudit.rewards.models.model.RewardModel`, or an object of your own."""

    def score(self, items: Sequence[tuple[Turns, Sequence[Turns]]]) -> list[list[float]]:
        """[item][answer] higher is better, for (prompt, answers)."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row and its scores.

    Attributes:
        record: prompt and answers with their ranks, or their gold scores.
        scores: [K] of the judge, one per answer.
    """

    record: RankingRecord
    source: Source
    scores: tuple[float, ...]

    @property
    def gold(self) -> list[float] | None:
        """[K] gold scores, higher is better; None where the row only ranks."""
        return self.record.scores


@dataclass(frozen=True, slots=True)
class Pairs:
    """All strict pairs of all rows, and the pairs of two answers that the votes call even.

    Attributes:
        margins_N: score(better) − score(worse).
        labels_N: probability that the better one is better: the row's `preference`, else 1; ½ where the votes are even.
        decided_N: False where the votes are even: such a pair has no accuracy, but its p should be ½.
        prompts_N: equal numbers for equal prompts.
        rows_N: index of the row.
        better_N, worse_N: index of the answer in its row.
        lengths_N: characters of the better answer minus those of the worse one.
        rank_gaps_N: how many ranks lie between the two, 1 = neighbours.
        tied: pairs of answers with equal ranks in rankings of three or more; they are left out.
    """

    margins_N: Array
    labels_N: Array
    decided_N: npt.NDArray[np.bool_]
    prompts_N: Groups
    rows_N: Groups
    better_N: Groups
    worse_N: Groups
    lengths_N: Array
    rank_gaps_N: Groups
    tied: int

    def values(self, per_row: Sequence[Any]) -> list[Any]:
        """A value of the rows, for each pair."""
        return [per_row[i] for i in self.rows_N.tolist()]


def pairs_of(rows: Sequence[JudgedRow]) -> Pairs:
    """Every row's strict pairs.

    Raises:
        EvaluationError: PL801, there is no pair.
    """
    prompts: dict[str, int] = {}
    found: list[tuple[int, int, int, int, float, int]] = []
    margins: list[float] = []
    labels: list[float] = []
    tied = 0
    for number, row in enumerate(rows):
        prompt = prompts.setdefault(turns_key(row.record.prompt), len(prompts))
        ordered = row.record.ranked()
        lengths = [answer_length(c) for c in row.record.completions]
        dense = {rank: place for place, rank in enumerate(sorted({rank for rank, _ in ordered}))}
        even = len(ordered) == 2 and row.record.preference == 0.5
        certain = row.record.preference if len(ordered) == 2 else None
        for (high, i), (low, j) in combinations(ordered, 2):
            if high == low and not even:
                tied += 1
                continue
            gap = dense[low] - dense[high]
            found.append((prompt, number, i, j, float(lengths[i] - lengths[j]), gap))
            margins.append(row.scores[i] - row.scores[j])
            labels.append(1.0 if certain is None else certain)
    if not found:
        raise EvaluationError(
            "PL801",
            f"no pair of answers of different rank in {len(rows)} rows",
            mend="give preference rows, or rankings whose answers are not all tied",
            where=rows[0].source.file if rows else "the data",
        )
    prompts_N, rows_N, better_N, worse_N, lengths_N, gaps_N = zip(*found, strict=True)
    labels_N = np.array(labels)
    return Pairs(
        np.array(margins),
        labels_N,
        labels_N != 0.5,
        np.array(prompts_N),
        np.array(rows_N),
        np.array(better_N),
        np.array(worse_N),
        np.array(lengths_N),
        np.array(gaps_N),
        tied,
    )


def answer_length(answer: Turns) -> int:
    """Characters of the text; of messages, of all their contents."""
    return len(answer) if isinstance(answer, str) else sum(len(m.content or "") for m in answer)


def as_chat(record: RankingRecord) -> RankingRecord:
    """Text prompt and answers as a user's and an assistant's message; messages stay as they are."""
    prompt = as_messages(record.prompt, "user")
    answers = [as_messages(c, "assistant") for c in record.completions]
    return record.model_copy(update={"prompt": prompt, "completions": answers})


def score_rows(
    model: Scorer, records: Sequence[Record], on_progress: Callable[[int, int], None] | None = None
) -> list[JudgedRow]:
    """Score every answer with the model.

    Args:
        on_progress: told (rows scored, all rows).

    Raises:
        RewardError: PL705, a row cannot be scored (with its file and row); EvaluationError: PL802, a score is not
            finite, or there is not one per answer; DataError: PL208 from the model.
    """
    rows: list[JudgedRow] = []
    for start in range(0, len(records), _AT_A_TIME):
        part = records[start : start + _AT_A_TIME]
        for (record, source), scores in zip(part, _scores(model, part), strict=True):
            rows.append(JudgedRow(record, source, _checked(scores, record, source)))
        if on_progress is not None:
            on_progress(len(rows), len(records))
    return rows


def _scores(model: Scorer, part: Sequence[Record]) -> list[list[float]]:
    items = [(record.prompt, record.completions) for record, _ in part]
    try:
        return model.score(items)
    except RewardError as error:
        if error.code != "PL705":
            raise
        for item, (_, source) in zip(items, part, strict=True):  # a model knows no rows: find the one it refuses
            try:
                model.score([item])
            except RewardError as found:
                raise RewardError(found.code, found.what, where=str(source), mend=found.mend) from error
        raise


def given_rows(records: Sequence[Record]) -> list[JudgedRow]:
    """Rows that carry the scores of a judge in their columns: see `PAIR_SCORES` and `LIST_SCORES`.

    Raises:
        DataError: PL203, a row has no scores; EvaluationError: PL802, a score is not a finite number.
    """
    return [JudgedRow(record, source, _checked(_given(record, source), record, source)) for record, source in records]


def _given(record: RankingRecord, source: Source) -> list[Any]:
    extras = record.extras
    if all(name in extras for name in PAIR_SCORES) and len(record.completions) == 2:
        return [extras[name] for name in PAIR_SCORES]
    by_rank = "scores" if record.ranks is not None and LIST_SCORES not in extras else LIST_SCORES
    if isinstance(extras.get(by_rank), list):
        return list(extras[by_rank])
    found = ", ".join(map(str, extras)) or "none"
    raise DataError(
        "PL203",
        f"the row carries no scores of a judge\n  other columns: {found}",
        where=str(source),
        mend=f"pairs need {' and '.join(PAIR_SCORES)}; rankings need {LIST_SCORES}, or ranks with scores; "
        "to let a reward model score the rows, name it and leave --scored out",
    )


def _checked(scores: Sequence[Any], record: RankingRecord, source: Source) -> tuple[float, ...]:
    wanted = len(record.completions)
    if len(scores) != wanted:
        raise EvaluationError(
            "PL802", f"there are {len(scores)} scores for {wanted} answers", where=str(source), mend="give one for each"
        )
    for place, score in enumerate(scores, start=1):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise EvaluationError(
                "PL802",
                f"the score of answer {place} is {score!r}, not a finite number",
                where=str(source),
                mend="find out why (an overflow in a narrow precision, a judge that gave up), or leave the row out",
            )
    return tuple(float(s) for s in scores)
