"""What is asked of the engine, and the rows that work on it.

Shapes: L tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plaudit.engines.base import Sampling
from plaudit.engines.local.uniforms import completion_key
from plaudit.types import Completion, FinishReason, Floats, Tokens

OnToken = Callable[[int, int, "History"], None]
"""(number of the completion, index of the token in it, the completion so far)"""


@dataclass(frozen=True, slots=True)
class Report:
    """What the model itself says of a token: log-probs (nats) of its logits as they are, at temperature 1, before
    penalty and filters."""

    logprob: float
    """of the token"""
    top_ids: list[int]
    """the most likely tokens, falling"""
    top_logprobs: list[float]

    def first(self, count: int) -> Report:
        """With so many of the most likely tokens only."""
        return Report(self.logprob, self.top_ids[:count], self.top_logprobs[:count])


@dataclass(slots=True)
class History:
    """What a row has generated so far, as lists of the same length L."""

    tokens: list[int] = field(default_factory=list)
    sampling: list[float] = field(default_factory=list)
    """log-probs under the sampled distribution; meaningless for greedy rows"""
    full: list[float] = field(default_factory=list)
    """log-probs under the whole softmax at the same temperature"""
    reports: list[Report] = field(default_factory=list)
    """of jobs that ask for them (`Job.top_logprobs`); empty for others"""


@dataclass(slots=True, eq=False)
class Job:
    """A prompt with the completions wanted of it.

    Args:
        prompt: [P] token ids, at least one.
        number: the caller's own.
        occurrence: see `completion_key`.
        on_token: told of every token at once (streaming).
        top_logprobs: report every token with so many of the most likely ones (0: the token alone); None = no reports.
    """

    prompt: Tokens
    n: int
    sampling: Sampling
    number: int = 0
    occurrence: int = 0
    on_token: OnToken | None = None
    top_logprobs: int | None = None
    completions: dict[int, Completion] = field(default_factory=dict)
    reports: dict[int, list[Report]] = field(default_factory=dict)
    """number of a completion → one for each of its tokens, where they were asked for"""
    ends: np.ndarray[Any, np.dtype[np.bool_]] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """[V] tokens that end a completion; the scheduler's"""

    @property
    def done(self) -> bool:
        return len(self.completions) == self.n

    def rows(self) -> list[Row]:
        """One for each completion."""
        keys = (completion_key(self.sampling.seed, self.prompt, self.occurrence, k) for k in range(self.n))
        return [Row(self, k, key) for k, key in enumerate(keys)]


@dataclass(slots=True, eq=False)
class Row:
    """One completion in the making. It survives being put back: its numbers depend on its key alone."""

    job: Job
    sample: int
    key: int
    history: History = field(default_factory=History)

    @property
    def remaining(self) -> int:
        return self.job.sampling.max_new_tokens - len(self.history.tokens)

    def finish(self, reason: FinishReason, text: str, version: int | None) -> None:
        """Hand the completion to the job."""
        tokens = np.array(self.history.tokens, dtype=np.int32)

        def floats(values: list[float]) -> Floats:
            return np.array(values, dtype=np.float32)

        self.job.reports[self.sample] = self.history.reports
        greedy = self.job.sampling.temperature == 0
        self.job.completions[self.sample] = Completion(
            token_ids=tokens,
            action_mask=np.ones(len(tokens), dtype=np.bool_),
            sampling_logprobs=None if greedy else floats(self.history.sampling),
            full_logprobs=floats(self.history.full),
            finish_reason=reason,
            weight_version=version,
            text=text,
        )


@dataclass(slots=True, eq=False)
class Entry:
    """Rows that wait for a place, and the tokens that they all continue: the prompt, or what a row had when it was put
    back."""

    context: Tokens
    rows: list[Row]

    @classmethod
    def again(cls, row: Row) -> Entry:
        """A row that was put back continues its own tokens."""
        own = np.array(row.history.tokens, dtype=np.int32)
        return cls(np.concatenate([row.job.prompt, own]), [row])

    @property
    def limit(self) -> int:
        """Most tokens that one of its rows may still generate."""
        return max(row.remaining for row in self.rows)


def cut_at_stop(text: str, stops: Sequence[str], start: int = 0) -> tuple[str, bool]:
    """The text before the first of the stop texts from character `start` on, and whether there is one."""
    found = [at for stop in stops if (at := text.find(stop, start)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


_KEPT_TABLES = 64


class Stops:
    """When a completion ends: by token, by text, by length.

    Args:
        end_ids: the model's own end-of-sequence tokens.
        vocabulary: number of token ids.
        decode: token ids → text without special tokens.
    """

    def __init__(self, end_ids: tuple[int, ...], vocabulary: int, decode: Callable[[Any], str]) -> None:
        self._end_ids, self._vocabulary, self._decode = end_ids, vocabulary, decode
        self._tables: dict[tuple[int, ...], np.ndarray[Any, np.dtype[np.bool_]]] = {}

    def table(self, sampling: Sampling) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """[V] True where a token ends the completion."""
        found = self._tables.get(sampling.stop_token_ids)
        if found is None:
            if len(self._tables) >= _KEPT_TABLES:  # a server sees ever new ones
                self._tables.clear()
            found = np.zeros(self._vocabulary, dtype=np.bool_)
            ids = [i for i in (*self._end_ids, *sampling.stop_token_ids) if 0 <= i < self._vocabulary]
            found[ids] = True
            self._tables[sampling.stop_token_ids] = found
        return found

    def says_stop(self, row: Row) -> bool:
        """Whether one of the row's stop texts has just been completed."""
        wanted, least = row.job.sampling.stop, row.job.sampling.min_new_tokens
        if not wanted or len(row.history.tokens) <= least:
            return False
        # A stop text may begin in any token, and a token may be a part of a character: some more than its length. Most
        # tokens end here, without decoding all of the completion.
        tail = self._decode(row.history.tokens[-(4 * max(map(len, wanted)) + 16) :])
        return any(stop in tail for stop in wanted) and self._cut(row)[1]

    def text(self, row: Row) -> str:
        """The completion as people read it, up to its stop text."""
        return self._cut(row)[0]

    def _cut(self, row: Row) -> tuple[str, bool]:
        """The text up to the first stop text behind the least length, and whether there is one."""
        tokens, options = row.history.tokens, row.job.sampling
        start = len(self._decode(tokens[: options.min_new_tokens])) if options.stop and options.min_new_tokens else 0
        return cut_at_stop(self._decode(tokens), options.stop, start)
