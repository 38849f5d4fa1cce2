"""What a reward is: a value or a typed error for each answer, and never a default.

A verifier that times out, a judge that replies nonsense and a function that raises have said nothing about the answer.
Counting such an answer as 0 teaches the policy that it was wrong. So the result is a `RewardResult`: a finite value, or
a `Failure` with its kind; what to do about failures is decided in one place (`plaudit.rewards.scoring`).

What an answer does to itself is not a failure: a program that runs into its time limit, a JSON text that does not
parse or an expression that nothing could decide are wrong answers, and their value says so.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from plaudit.data.turns import Turns
from plaudit.rewards.background import OF_SOMEBODY_ELSE
from plaudit.rewards.thoughts import behind_thought
from plaudit.types import FinishReason, Floats

FailureKind = Literal[
    "timeout", "crash", "bad_reply", "not_finite", "exception", "unavailable", "bad_row", "not_applicable"
]
"""timeout, crash: of what scores, not of what is scored. bad_reply: a judge or service said something that is no score.
not_finite: NaN or infinite. exception: the reward's code raised. unavailable: a service could not be reached. bad_row:
the row lacks what the reward needs, or it is unusable; trying again cannot help. not_applicable: a function has nothing
to say about the row; in a sum its part is left out."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no value."""

    kind: FailureKind
    message: str

    @property
    def can_pass(self) -> bool:
        """Whether trying again may help."""
        return self.kind not in ("bad_row", "not_applicable")

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class RewardResult:
    """The reward of one answer.

    Exactly one of `value` and `error` is there, and a value is finite. Make one with `of` or `failed`.

    Attributes:
        value: the reward; None where there is an error.
        error: why there is none.
        parts: named numbers that the value was made of, or that belong beside it in the log; all finite.
        seconds: what it took. Where answers are scored together, the time of all divided by their number.
        note: a sentence for people who look at samples ("read 7, expected 5").
        attempts: how often it was scored.
        steps: (characters of the answer up to the end of a step, the step's reward), in order, where steps are judged.
        latents: by reward, the vector [D] that a reward model's head read; only where a run watches for outliers.
    """

    value: float | None
    error: Failure | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""
    attempts: int = 1
    steps: tuple[tuple[int, float], ...] = ()
    latents: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a reward is a value or an error, exactly one of the two")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a reward is finite, not {self.value}: use RewardResult.of")

    @classmethod
    def of(
        cls,
        value: Any,
        *,
        parts: Mapping[str, float] | None = None,
        steps: Any = (),
        seconds: float = 0.0,
        note: str = "",
    ) -> RewardResult:
        """A value; what is no finite number becomes an error of its own kind, and so do steps that are none."""
        parts = dict(parts or {})
        for name, number in {"value": value, **parts}.items():
            failure = not_a_reward(number, "" if name == "value" else f"part {name!r}: ")
            if failure is not None:
                return cls(None, failure, {}, seconds, note)
        ends = read_steps(steps)
        if isinstance(ends, Failure):
            return cls(None, ends, {}, seconds, note)
        numbers = {name: float(part) for name, part in parts.items()}
        return cls(float(value), None, numbers, seconds, note, steps=ends)

    @classmethod
    def failed(cls, kind: FailureKind, message: str, *, seconds: float = 0.0) -> RewardResult:
        """No value."""
        return cls(None, Failure(kind, message), {}, seconds)

    def beside(self, latents: Mapping[str, Floats]) -> RewardResult:
        """The same result with other vectors beside it."""
        return replace(self, latents=latents)

    def timed(self, seconds: float) -> RewardResult:
        """The same result with another time."""
        return replace(self, seconds=seconds)

    def tried(self, attempts: int) -> RewardResult:
        """The same result with another number of attempts."""
        return replace(self, attempts=attempts)


def not_a_reward(value: Any, where: str = "") -> Failure | None:
    """Why a value cannot be a reward, or None. Numbers of numpy and torch are numbers; text is none."""
    if isinstance(value, (str, bytes)) or value is None:
        return Failure("bad_reply", f"{where}{value!r} is no number")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        return Failure("bad_reply", f"{where}{type(value).__name__} is no number ({error})")
    return None if math.isfinite(number) else Failure("not_finite", f"{where}{number} is not finite")


def read_steps(steps: Any) -> tuple[tuple[int, float], ...] | Failure:
    """Pairs (characters up to the end of a step, its reward) with rising ends, or why they are none."""
    found: list[tuple[int, float]] = []
    if isinstance(steps, (str, bytes)) or not isinstance(steps, Sequence):
        return Failure("bad_reply", f"steps is {type(steps).__name__}, must be a list of [end, reward]")
    for step in steps:
        if isinstance(step, (str, bytes)) or not isinstance(step, Sequence) or len(step) != 2:
            return Failure("bad_reply", f"a step is {step!r}, must be [characters up to its end, reward]")
        end, reward = step
        if isinstance(end, bool) or not isinstance(end, int) or end <= (found[-1][0] if found else 0):
            return Failure("bad_reply", f"the end of a step is {end!r}: ends are counts of characters that rise")
        failure = not_a_reward(reward, f"the step that ends at {end}: ")
        if failure is not None:
            return failure
        found.append((end, float(reward)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to be scored.

    Attributes:
        prompt: text or chat messages.
        completion: the answer, in the same form.
        row: the columns of the prompt's row: the reference answer, tests, a schema …
        tokens: length of the answer; None where it is not known.
        finish_reason: how it ended; None where it is not known.
    """

    prompt: Turns
    completion: Turns
    row: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    finish_reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """All that the answer says; of messages, the assistant's, one below the other."""
        if isinstance(self.completion, str):
            return self.completion
        return "\n".join(m.content or "" for m in self.completion if m.role == "assistant")

    @property
    def final(self) -> str:
        """The answer behind its reasoning: what follows the last mark that ends a thought. Nothing where a thought was
        opened and never closed, because then the answer was not reached. See `plaudit.rewards.thoughts`."""
        return behind_thought(self.text, self.prompt if isinstance(self.prompt, str) else "")


class RewardOptions(BaseModel):
    """Options of a reward: an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


SAMPLED_COLUMNS = frozenset(
    (
        *("row", "sample", "prompt", "completion", "tokens", "finish_reason"),
        *("logprob", "token_ids", "logprobs", "full_logprobs"),
    )
)
"""What `plaudit generate` writes beside the columns of a prompt's row."""


class Reward(ABC):
    """Gives answers numbers.

    A subclass says `kind` and `title`, has its `Options`, and implements `score`. Anything outside of this interface
    (processes, sockets) is opened when it is first needed and closed by `close`.

    Attributes:
        name: what messages and logs call it; its kind, unless the configuration gives it another.
        kind: its name in configurations; unique.
        title: one line for `plaudit rewards`.
        options: how it was set up.
        pure: whether the same sample always gets the same value, so that a result may be kept and used again.
        exact: whether that value has the same bits whatever is scored beside it. A run that samples keeps no other
            results: it would go on from an interruption without them, and differ.
        columns: columns of the row that it cannot do without.
        ignores: columns of the row that never decide about its value: what sampling writes beside equal answers.
        of_policy: whether it computes with the weights of the policy that is trained, as they are. It is told of them
            by `use_policy`, and nobody may sample or train while it is asked.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    Options: ClassVar[type[RewardOptions]] = RewardOptions
    pure: bool = True
    exact: bool = True
    ignores: ClassVar[frozenset[str]] = SAMPLED_COLUMNS
    of_policy: bool = False

    def __init__(self, options: RewardOptions | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()
        self.name = self.kind

    @property
    def columns(self) -> tuple[str, ...]:
        """See the class."""
        return ()

    @abstractmethod
    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """One result per sample, in order; called from any thread, and from several at once.

        What goes wrong with one sample is that sample's result and not an exception.

        Raises:
            PlauditError: the reward as a whole cannot work here (a package is missing, an option cannot be met).
        """

    def identity(self) -> str:
        """What besides the sample decides about a result, whether it is always the same or not."""
        return self.fingerprint() or f"{self.kind}:{self.options.model_dump_json()}"

    def fingerprint(self) -> str:
        """What besides the sample decides about a result; results are kept under it. Empty: none may be kept."""
        return f"{self.kind}:{self.options.model_dump_json()}" if self.pure else ""

    def remarks(self) -> list[str]:
        """What is worth telling when all is scored, in sentences (a judge's consistency)."""
        return []

    def use_policy(self, policy: Any) -> None:
        """Told by a run that samples, where `of_policy` asks for it.

        Args:
            policy: answers as a local judge's model does (`plaudit.online.own_judge`).
        """

    def close(self) -> None:
        """End what was started. The reward can be used again afterwards."""


class SampleReward(Reward):
    """A reward that looks at one answer at a time, in this process."""

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        return [self._timed(sample) for sample in samples]

    def _timed(self, sample: Sample) -> RewardResult:
        start = time.perf_counter()
        try:
            result = self.one(sample)
        except BadRow as problem:
            result = RewardResult.failed("bad_row", str(problem))
        except OF_SOMEBODY_ELSE as error:  # a bug here must not cost the other answers theirs; it is shown and counted
            result = RewardResult.failed("exception", f"{type(error).__name__}: {error}")
        return result.timed(time.perf_counter() - start)

    @abstractmethod
    def one(self, sample: Sample) -> RewardResult:
        """The result of one answer.

        Raises:
            BadRow: the row lacks what is needed.
        """


class BadRow(Exception):
    """The row lacks what the reward needs; becomes the failure `bad_row`."""


def column(sample: Sample, name: str, what: str) -> Any:
    """A column of the row that has to be there.

    Raises:
        BadRow: it is missing, None, or empty text.
    """
    value = sample.row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        have = ", ".join(sorted(map(str, sample.row))) or "none"
        state = "is empty" if name in sample.row else f"is missing (the row has: {have})"
        raise BadRow(f"the column {name!r} with {what} {state}")
    return value
