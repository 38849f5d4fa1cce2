"""The reward for the right final answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from plaudit.config.packages import need_packages
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.verifiers.math.compare import decide, exactly, understood
from plaudit.rewards.verifiers.math.exact import TooBig
from plaudit.rewards.verifiers.math.extract import Extraction, NoAnswer, answers, reference
from plaudit.rewards.verifiers.math.hidden import visible
from plaudit.rewards.verifiers.math.notation import LONGEST, Refused, normalise, screen, screen_size, squeezed
from plaudit.rewards.verifiers.math.structure import MOST_ITEMS, Unreadable
from plaudit.rewards.verifiers.reading import shown
from plaudit.rewards.workers import Limits, Reply, WorkerPool

_TARGET = "plaudit.rewards.verifiers.math.algebra:judge"
_PACKAGES = ("math_verify", "latex2sympy2_extended", "antlr4", "sympy")
_MOST_REFERENCES = 100_000


class MathOptions(RewardOptions):
    """How answers are read and compared."""

    column: str = "answer"
    """Column with the reference: a number, an expression, a solution with \\boxed{…}, text with #### 42, or a list of
    which any will do. If it is not given and there is no such column: solution, ground_truth, final_answer, target or
    label, the first that is there."""
    extract: Extraction = "auto"
    """Where the answer is. auto: in a box, else behind "the answer is" or ####, else the whole of a short text; boxed:
    in a box alone; last: in a box, behind such words, else the last number or expression."""
    boxed: Literal["only", "last"] = "only"
    """Several boxes with different contents. only: together they are one answer, a list; last: the last one counts."""
    float_digits: int = Field(6, ge=1, le=15)
    """A decimal number counts as the number that it was rounded from if it has at least so many digits, or so many
    places."""
    cpu_seconds: float = Field(5.0, gt=0)
    """Processor time for a comparison that needs an algebra system; one that needs more is a wrong answer."""
    wall_seconds: float = Field(60.0, gt=0)
    """Time on the clock for the same; running into it is a failure and says nothing about the answer."""
    memory_gib: float = Field(2.0, gt=0)
    """Memory for the same; one that needs more is a wrong answer."""
    workers: int | None = Field(None, ge=1)
    """Processes for the algebra system; default is one per core."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A comparison that needs an algebra system."""

    gold: str
    answer: str
    note: str


class MathReward(Reward):
    """1 where the final answer is the reference, else 0.

    Integers, fractions, decimals, roots, polynomials and structures of them are compared exactly in this process, the
    rest by math-verify in worker processes with limits.

    Raises:
        ConfigError: PL103, math-verify is not installed.
    """

    kind = "math"
    title = "The final answer equals the reference (numbers, expressions, sets, intervals …)"
    Options = MathOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need_math_packages()
        limits = Limits(self.options.cpu_seconds, self.options.wall_seconds, int(self.options.memory_gib * 1024**3))
        self._pool = WorkerPool(_TARGET, workers=self.options.workers, limits=limits)
        self._faults: dict[str, str] = {}
        """What is wrong with a reference; empty text where nothing is. Those that are not here were not looked at."""
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """The reference."""
        return (self.options.column,)

    def fingerprint(self) -> str:
        """With whether the column was named, because other columns are looked at if it was not."""
        return f"{super().fingerprint()}:{'column' in self.options.model_fields_set}"

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        start = time.perf_counter()
        found = [self.decided(sample) for sample in samples]
        asked = [question for each in found if isinstance(each, list) for question in each]
        replies = iter(zip(asked, self._pool.map([self._item(q) for q in asked]), strict=True)) if asked else iter(())
        results = [
            each if isinstance(each, RewardResult) else self._settled([next(replies) for _ in each]) for each in found
        ]
        share = (time.perf_counter() - start) / max(len(samples), 1)
        return [result.timed(share) for result in results]

    def _item(self, question: _Question) -> list[str | int]:
        return [question.gold, question.answer, self.options.float_digits]

    def decided(self, sample: Sample) -> RewardResult | list[_Question]:
        """The result, where it needs no algebra system; else what the workers have to be asked."""
        try:
            named = "column" in self.options.model_fields_set
            golds = [self._reference(text) for text in reference(sample.row, self.options.column, named)]
            said = self._answer(sample)
        except BadRow as problem:
            return RewardResult.failed("bad_row", str(problem))
        except (NoAnswer, Refused, Unreadable) as problem:
            return RewardResult.of(0, note=str(problem))
        except Exception as error:  # a bug here must not cost the other answers theirs; it is shown and counted
            return RewardResult.failed("exception", f"{type(error).__name__}: {error}")
        return self._compared(golds, said)

    def _compared(self, golds: Sequence[str], said: str) -> RewardResult | list[_Question]:
        questions, note = [], ""
        for gold in golds:
            note = f"read {shown(said)}, expected {shown(gold)}"
            try:
                decided = self._decide(gold, said)
            except (TooBig, Refused, Unreadable) as problem:
                decided, note = False, f"{note}: {problem}"
            except Exception as error:  # as above
                return RewardResult.failed("exception", f"{note}: {type(error).__name__}: {error}")
            if decided:
                return RewardResult.of(1)
            if decided is None:
                questions.append(_Question(gold, said, note))
        return questions or RewardResult.of(0, note=note)

    def _decide(self, gold: str, answer: str) -> bool | None:
        if squeezed(gold) == squeezed(answer):
            return True if self._faults.get(gold) == "" else None
        screen_size(answer)
        decided = decide(gold, answer, lambda one, other: exactly(one, other, self.options.float_digits))
        return decided if self._faults.get(gold) == "" else None

    def _reference(self, text: str) -> str:
        """Normalised, and looked at where that needs no algebra system.

        Raises:
            BadRow: nothing can be compared with it.
        """
        if len(text) > LONGEST:
            raise BadRow(f"the reference answer has {len(text)} characters, at most {LONGEST} can be compared")
        gold = normalise(text)
        if gold not in self._faults:
            try:
                screen(text)
                clear = decide(gold, gold, lambda one, _: understood(one))
            except (Refused, Unreadable) as problem:
                self._remember(gold, str(problem))
            else:
                if clear:
                    self._remember(gold, "")
        if self._faults.get(gold):
            raise BadRow(f"the reference answer {shown(text)} cannot be read: {self._faults[gold]}")
        return gold

    def _remember(self, gold: str, fault: str) -> None:
        with self._lock:
            if len(self._faults) >= _MOST_REFERENCES:
                self._faults.clear()
            self._faults[gold] = fault

    def _answer(self, sample: Sample) -> str:
        """The answer, normalised; several boxes that differ are a list.

        Raises:
            NoAnswer, Refused, Unreadable: there is none that could be right.
        """
        found = answers(visible(sample.final), self.options.extract)
        if self.options.boxed == "last":
            found = found[-1:]
        if len(set(found)) > MOST_ITEMS:
            raise Refused(f"{len(set(found))} boxes with different contents")
        different: list[str] = []
        for raw in dict.fromkeys(found):
            screen(raw)
            each = normalise(raw)
            if not any(self._alike(each, other) for other in different):
                different.append(each)
        text = different[0] if len(different) == 1 else ", ".join(different)
        if len(text) > LONGEST:
            raise Refused(f"{len(text)} characters are longer than any answer ({LONGEST})")
        if not text:
            raise NoAnswer("the answer is empty")
        return text

    def _alike(self, one: str, other: str) -> bool:
        if squeezed(one) == squeezed(other):
            return True
        try:
            return decide(one, other, lambda a, b: exactly(a, b, self.options.float_digits)) is True
        except (TooBig, Unreadable):
            return False

    def _settled(self, replies: list[tuple[_Question, Reply]]) -> RewardResult:
        """The result of one answer from what the workers say about it and each reference."""
        results = [self._one(question, reply) for question, reply in replies]
        return max(results, key=lambda r: (r.value == 1, r.error is not None))  # a failure might have been a 1

    def _one(self, question: _Question, reply: Reply) -> RewardResult:
        if reply.own_doing:
            fault = self._fault_of(question.gold)
            if fault:
                return RewardResult.failed("bad_row", f"the reference answer {shown(question.gold)}: {fault}")
            return RewardResult.of(0, parts={"undecided": 1}, note=f"{question.note}: {reply.message}")
        if reply.kind != "value":
            return RewardResult.failed(
                "timeout" if reply.kind == "timeout" else "crash" if reply.kind == "crash" else "exception",
                f"{question.note}: {reply.message}",
            )
        fault = reply.value.get("fault", "")
        self._remember(question.gold, fault)
        if fault:
            return RewardResult.failed(
                "bad_row", f"the reference answer {shown(question.gold)} cannot be read: {fault}"
            )
        if reply.value["equal"]:
            return RewardResult.of(1)
        return RewardResult.of(0, note=": ".join(filter(None, [question.note, reply.value["note"]])))

    def _fault_of(self, gold: str) -> str:
        """Whether a comparison ran into its limits because of the reference."""
        if gold not in self._faults:
            [reply] = self._pool.map([[gold, gold, self.options.float_digits]])
            if reply.own_doing:
                self._remember(gold, reply.message)
            elif reply.kind == "value":
                self._remember(gold, reply.value.get("fault", ""))
        return self._faults.get(gold, "")


def need_math_packages() -> None:
    """Raise ConfigError PL103 when a package is missing that the comparison of expressions needs."""
    need_packages(_PACKAGES, "the reward math", "verify")
