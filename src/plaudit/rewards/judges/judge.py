"""The judge: scores by a rubric, and comparisons in both orders.

A reply is asked for that is nothing but the verdict, so that the probabilities of its first token are those of the
verdicts. With reasons, these are a turn of their own before it: what they quote is never read as a verdict.

Sources: Zheng et al. 2023 (arXiv 2306.05685) for judging and its position bias; Lee et al. 2023 (RLAIF, 2309.00267) for
probabilities of verdicts, averaged over both orders, and for reasons in a step before.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from plaudit.data.turns import Turns
from plaudit.errors import ConfigError
from plaudit.rewards.contract import Failure, RewardResult
from plaudit.rewards.judges.backend import ChatBackend, Reply
from plaudit.rewards.judges.questions import Question, compare_question, score_question
from plaudit.rewards.judges.rubric import Criterion, Rubric
from plaudit.rewards.judges.verdicts import preference_of, score_of, without_thought
from plaudit.rewards.verifiers.reading import shown

VERDICT_TOKENS, REASON_TOKENS = 16, 1024
_SAME = 1e-9
_NOTE = 200

T = TypeVar("T")
Read = Callable[[Reply], tuple[float, float | None] | Failure]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to be scored.

    Attributes:
        row: columns of its row; one of them may hold a rubric.
        reference: an answer that is known to be good, shown to the judge; None = none.
    """

    prompt: Turns
    answer: str
    row: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to be compared."""

    prompt: Turns
    a: str
    b: str
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Consistency:
    """How far the order of two answers decides.

    Attributes:
        n: comparisons that were made in both orders.
        agreeing: share of them in which both orders prefer the same answer, or none.
        p_first: mean probability of what was shown first; 0.5 is no bias.
    """

    n: int
    agreeing: float
    p_first: float


@dataclass(frozen=True, slots=True)
class _Verdict:
    value: float
    mass: float | None
    said: str


class Judge:
    """Asks a model about answers.

    Args:
        backend: who is asked.
        rubric: what is judged, where the row brings none of its own.
        rubric_column: the row's column with a rubric: a text, or a mapping with the keys of a file. None = rows have
            none.
        reasoning: reasons first, then the verdict.
        temperature: of all replies.
        max_tokens: longest reply; None = 16 for a verdict, 1024 for reasons.
        least_mass: probability that the verdicts must have together; below it the judge has not answered the question.
        scale: in place of every rubric's own.
    """

    def __init__(
        self,
        backend: ChatBackend,
        rubric: Rubric | None = None,
        *,
        rubric_column: str | None = "rubric",
        reasoning: bool = False,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        least_mass: float = 0.5,
        scale: tuple[int, int] | None = None,
    ) -> None:
        self.backend, self.rubric_column, self.scale = backend, rubric_column, scale
        self.rubric = (rubric or Rubric()).with_scale(scale)
        self.reasoning, self.temperature, self.least_mass = reasoning, temperature, least_mass
        self.max_tokens = max_tokens
        self._lock = threading.Lock()
        self._n = self._agreeing = 0
        self._first = 0.0

    def score(self, prompt: Turns, answer: str, row: Mapping[str, Any] | None = None) -> RewardResult:
        """See `scores`."""
        return self.scores([Answered(prompt, answer, row or {})])[0]

    def compare(self, prompt: Turns, a: str, b: str, row: Mapping[str, Any] | None = None) -> RewardResult:
        """See `comparisons`."""
        return self.comparisons([Pair(prompt, a, b, row or {})])[0]

    def scores(self, items: Sequence[Answered]) -> list[RewardResult]:
        """A value from 0 to 1 for each answer: the weighted mean of its criteria, (score - lowest)/(highest - lowest).

        Parts: every criterion's value where there are several, and `mass`, the smallest probability of all labels
        together, where the judge gives probabilities.

        Raises:
            RewardError: PL708, the judge cannot be asked at all.
        """
        rubrics = [self._rubric(item.row) for item in items]
        questions, reads = [], []
        for rubric, criterion, item in _asked(rubrics, items):
            questions.append(score_question(rubric, criterion, item.prompt, item.answer, item.reference))
            reads.append(_scaled(rubric.scale, self.least_mass))
        verdicts = iter(self._verdicts(questions, reads))
        results = []
        for found in rubrics:
            if isinstance(found, Failure):
                results.append(RewardResult(None, found))
            else:
                results.append(_combined(found.criteria, [next(verdicts) for _ in found.criteria], {}))
        return results

    def comparisons(self, pairs: Sequence[Pair]) -> list[RewardResult]:
        """The probability that a is better than b, for each pair: the mean over both orders, ½(p_AB + p_BA).

        Parts: every criterion's probability where there are several; `consistent`, the share of criteria for which both
        orders prefer the same; `p_first`, the mean probability of what was shown first; `mass` as in `scores`. Equal
        answers are worth 0.5 each, and nothing is asked.

        Raises:
            RewardError: PL708.
        """
        rubrics = [None if pair.a == pair.b else self._rubric(pair.row) for pair in pairs]
        questions = []
        for rubric, criterion, pair in _asked(rubrics, pairs):
            questions.append(compare_question(rubric, criterion, pair.prompt, pair.a, pair.b))
            questions.append(compare_question(rubric, criterion, pair.prompt, pair.b, pair.a))
        read = partial(preference_of, least_mass=self.least_mass)
        verdicts = iter(self._verdicts(questions, [read] * len(questions)))
        return [self._compared(found, verdicts) for found in rubrics]

    @property
    def consistency(self) -> Consistency:
        """Of all comparisons so far; NaN where there are none."""
        with self._lock:
            n = self._n
            return Consistency(n, self._agreeing / n if n else math.nan, self._first / n if n else math.nan)

    def remarks(self) -> list[str]:
        """What is worth telling, in sentences."""
        found, seen = list(self.backend.remarks()), self.consistency
        if seen.n:
            found.append(
                f"both orders agree in {seen.agreeing:.0%} of {seen.n} comparisons; what is shown first has a mean "
                f"probability of {seen.p_first:.2f}"
            )
        return found

    def close(self) -> None:
        """Close what is asked."""
        self.backend.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _rubric(self, row: Mapping[str, Any]) -> Rubric | Failure:
        own = None if self.rubric_column is None else row.get(self.rubric_column)
        if own is None or own == "":
            return self.rubric
        try:
            return Rubric.of(own, f"column {self.rubric_column!r}").with_scale(self.scale)
        except ConfigError as error:
            return Failure("bad_row", error.what)

    def _verdicts(self, questions: Sequence[Question], reads: Sequence[Read]) -> list[_Verdict | Failure]:
        """One verdict per question, however many kinds of labels they have."""
        reasons: list[Reply | Failure] = [Reply("")] * len(questions)
        if self.reasoning and questions:
            asked = [q.for_reasons() for q in questions]
            tokens = self.max_tokens or REASON_TOKENS
            reasons = self.backend.ask(asked, max_tokens=tokens, temperature=self.temperature, options=None)
        found: dict[int, _Verdict | Failure] = {i: r for i, r in enumerate(reasons) if isinstance(r, Failure)}
        said = [without_thought(r.text) if isinstance(r, Reply) else "" for r in reasons]
        for labels in dict.fromkeys(q.labels for q in questions):
            which = [i for i, q in enumerate(questions) if q.labels == labels and i not in found]
            asked = [questions[i].after(said[i]) if self.reasoning else questions[i].conversation() for i in which]
            tokens = self.max_tokens or VERDICT_TOKENS
            replies = self.backend.ask(asked, max_tokens=tokens, temperature=self.temperature, options=labels)
            for i, reply in zip(which, replies, strict=True):
                found[i] = _read(reply, reads[i], said[i])
        return [found[i] for i in range(len(questions))]

    def _compared(self, rubric: Rubric | Failure | None, verdicts: Iterator[_Verdict | Failure]) -> RewardResult:
        if rubric is None:
            return RewardResult.of(0.5, note="the answers are the same")
        if isinstance(rubric, Failure):
            return RewardResult(None, rubric)
        both: list[_Verdict | Failure] = []
        firsts, agreeing = [], []
        for forth, back in [(next(verdicts), next(verdicts)) for _ in rubric.criteria]:
            if isinstance(forth, Failure) or isinstance(back, Failure):
                both.append(forth if isinstance(forth, Failure) else back)
                continue
            p_forth, p_back = forth.value, 1.0 - back.value  # both of a
            masses = [m for m in (forth.mass, back.mass) if m is not None]
            both.append(replace(forth, value=(p_forth + p_back) / 2, mass=min(masses, default=None)))
            firsts.append((forth.value + back.value) / 2)
            agreeing.append(_sign(p_forth) == _sign(p_back))
        with self._lock:
            self._n += len(agreeing)
            self._agreeing += sum(agreeing)
            self._first += math.fsum(firsts)
        n = max(1, len(agreeing))
        return _combined(rubric.criteria, both, {"consistent": sum(agreeing) / n, "p_first": math.fsum(firsts) / n})


def _asked(rubrics: Iterable[Rubric | Failure | None], items: Iterable[T]) -> Iterator[tuple[Rubric, Criterion, T]]:
    """What there is to ask: each item with each criterion of its rubric."""
    for rubric, item in zip(rubrics, items, strict=True):
        if isinstance(rubric, Rubric):
            for criterion in rubric.criteria:
                yield rubric, criterion, item


def _scaled(scale: tuple[int, int], least_mass: float) -> Read:
    low, high = scale

    def read(reply: Reply) -> tuple[float, float | None] | Failure:
        found = score_of(reply, scale, least_mass)
        return found if isinstance(found, Failure) else ((found[0] - low) / (high - low), found[1])

    return read


def _read(reply: Reply | Failure, read: Read, reasons: str) -> _Verdict | Failure:
    if isinstance(reply, Failure):
        return reply
    found = read(reply)
    if isinstance(found, Failure):
        return found
    said = reasons.strip() or reply.text.strip()
    return _Verdict(*found, said)


def _sign(p: float) -> int:
    return 0 if abs(p - 0.5) < _SAME else (1 if p > 0.5 else -1)


def _combined(
    criteria: Sequence[Criterion], verdicts: Sequence[_Verdict | Failure], parts: Mapping[str, float]
) -> RewardResult:
    """The weighted mean; a failure where any criterion has none."""
    good = []
    for criterion, verdict in zip(criteria, verdicts, strict=True):
        if isinstance(verdict, Failure):
            named = f"{criterion.name}: " if len(criteria) > 1 else ""
            return RewardResult.failed(verdict.kind, named + verdict.message)
        good.append(verdict)
    total = math.fsum(c.weight for c in criteria)
    value = math.fsum(c.weight * v.value for c, v in zip(criteria, good, strict=True)) / total
    several = {c.name: v.value for c, v in zip(criteria, good, strict=True)} if len(criteria) > 1 else {}
    masses = [v.mass for v in good if v.mass is not None]
    mass = {"mass": min(masses)} if masses else {}
    note = shown(" / ".join(dict.fromkeys(v.said for v in good)), _NOTE)
    return RewardResult.of(value, parts={**several, **parts, **mass}, note=f"the judge: {note}")
