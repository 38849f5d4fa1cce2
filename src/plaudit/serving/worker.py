"""The thread that generates: one scheduler for all requests, so that what arrives later joins the running rows.

PyTorch is used in this thread only. Whoever places an order is told of it through a callback, in this thread too.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plaudit.engines.base import RolloutEngine, Sampling
from plaudit.engines.local.engine import LocalEngine
from plaudit.engines.local.jobs import History, Job, OnToken, Report
from plaudit.engines.local.scheduler import Scheduler
from plaudit.engines.local.streaming import TextStream
from plaudit.serving.requests import MOST_TOP_LOGPROBS
from plaudit.types import Completion, Tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a completion, in a stream."""

    prompt: int
    """number of the prompt in the order"""
    sample: int
    text: str
    token_ids: list[int]
    reports: list[Report]
    """one per token, where they were asked for"""
    last: Completion | None = None
    """the whole completion, with its last piece"""


@dataclass(frozen=True, slots=True)
class Answer:
    """All completions of one prompt."""

    prompt: int
    completions: list[Completion]
    reports: list[list[Report]]
    """of every completion's tokens, where they were asked for"""
    prompt_reports: list[Report]
    """of the prompt's tokens but the first, where they were asked for"""


@dataclass(frozen=True, slots=True)
class Failed:
    """The order ends here."""

    error: Exception


Event = Piece | Answer | Failed


@dataclass(slots=True, eq=False)
class Order:
    """What one request wants of the model.

    Args:
        prompts: [P] token ids each.
        n: completions of each; 0 for none, where only the prompt is to be reported.
        top_logprobs: report every token with so many of the most likely ones; None = no reports.
        report_prompts: report the prompts' tokens too.
        stream: tell pieces of the completions as they grow.
        tell: called in the engine's thread with every event; every prompt ends with an `Answer`, or all with `Failed`.
    """

    prompts: list[Tokens]
    n: int
    sampling: Sampling
    tell: Callable[[Event], None]
    top_logprobs: int | None = None
    report_prompts: bool = False
    stream: bool = False


class Worker(Protocol):
    """What the HTTP side needs of an engine."""

    most_top_logprobs: int
    """Most likely tokens that can be reported."""
    reports_prompts: bool

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        ...

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        ...

    def place(self, order: Order) -> None:
        """From any thread."""
        ...

    def cancel(self, order: Order) -> None:
        """From any thread; of an order that is done, nothing happens."""
        ...

    def close(self) -> None:
        """End the thread; what is unfinished is lost."""
        ...


_ENDED = "the engine's thread has ended"


class _Thread(ABC):
    """A thread with an inbox of calls."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="plaudit-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """See `Worker.alive`."""
        return self._thread.is_alive()

    def start(self) -> None:
        """See `Worker.start`."""
        self._thread.start()

    def close(self) -> None:
        """See `Worker.close`."""
        self._calls.put(None)
        self._thread.join(timeout=10)

    @abstractmethod
    def _run(self) -> None:
        """The thread: does the calls, until one is None."""


class _Stream:
    """Tells a completion piece by piece."""

    def __init__(self, engine: LocalEngine, job: Job, sample: int, tell: Callable[[Event], None]) -> None:
        self._job, self._sample, self._tell = job, sample, tell
        self._fresh: list[str] = []
        self._text = TextStream(engine.decode, self._fresh.append, job.sampling.stop, job.sampling.min_new_tokens)
        self._told = 0

    def update(self, history: History) -> None:
        """A token was drawn. Tokens without text of their own wait for the next that has some."""
        self._text.update(history.tokens)
        if self._fresh:
            self._send(history.tokens, history.reports, None)

    def finish(self) -> None:
        """The completion is done."""
        completion = self._job.completions[self._sample]
        self._text.finish(completion.text or "")
        self._send(completion.token_ids.tolist(), self._job.reports[self._sample], completion)

    def _send(self, tokens: list[int], reports: list[Report], last: Completion | None) -> None:
        piece = "".join(self._fresh), tokens[self._told :], reports[self._told :]
        self._fresh.clear()
        self._told = len(tokens)
        self._tell(Piece(self._job.number, self._sample, *piece, last))


@dataclass(slots=True)
class _Progress:
    """An order in the making."""

    jobs: list[Job]
    unanswered: set[int]
    """numbers of prompts"""
    streams: dict[tuple[int, int], _Stream] = field(default_factory=dict)
    """(prompt, sample) → the stream of a completion that is not done"""


class LocalWorker(_Thread):
    """On the local engine."""

    most_top_logprobs = MOST_TOP_LOGPROBS
    reports_prompts = True

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__()
        self._engine = engine
        self._scheduler: Scheduler = engine.scheduler()
        self._running: dict[Order, _Progress] = {}
        self._placed: list[Order] = []
        """that wait in the inbox"""
        self._ended = False

    def place(self, order: Order) -> None:
        """See `Worker.place`."""
        self._placed.append(order)
        self._calls.put(lambda: self._begin(order))
        if self._ended:  # and will not look into its inbox again
            order.tell(Failed(RuntimeError(_ENDED)))

    def cancel(self, order: Order) -> None:
        """See `Worker.cancel`."""
        self._calls.put(lambda: self._end(order))

    def _run(self) -> None:
        try:
            with self._engine.holding(self._engine.limits.max_rows):
                while True:
                    # Wait only where there is nothing to compute; otherwise take what has come between two steps.
                    while not self._calls.empty() or not self._scheduler.busy:
                        call = self._calls.get()
                        if call is None:
                            return
                        call()
                    self._step()
        finally:  # however it ends, nobody is left waiting
            self._ended = True
            for order in [*self._running, *self._placed]:
                order.tell(Failed(RuntimeError(_ENDED)))

    def _begin(self, order: Order) -> None:
        self._placed.remove(order)
        try:
            progress = self._running[order] = self._prepared(order)
            for job in progress.jobs:
                if order.n:
                    self._scheduler.submit(job)
                elif order in self._running:  # an answer before it may have failed
                    self._answer(order, job)
        except Exception as error:  # whatever it is, it is this request alone that fails of it
            self._fail(order, error)

    def _prepared(self, order: Order) -> _Progress:
        if order.n:
            jobs = self._engine.jobs(order.prompts, order.n, order.sampling)
        else:
            jobs = [Job(prompt, 0, order.sampling, number=i) for i, prompt in enumerate(order.prompts)]
        progress = _Progress(jobs, {job.number for job in jobs})
        for job in jobs:
            job.top_logprobs = order.top_logprobs
            if order.stream and order.n:
                streams = [_Stream(self._engine, job, k, order.tell) for k in range(job.n)]
                progress.streams.update({(job.number, k): stream for k, stream in enumerate(streams)})
                job.on_token = _listener(streams)
        return progress

    def _step(self) -> None:
        try:
            finished = set(self._scheduler.step())
            for order, progress in list(self._running.items()):
                for (prompt, sample), stream in list(progress.streams.items()):
                    if sample in progress.jobs[prompt].completions:
                        stream.finish()
                        del progress.streams[prompt, sample]
                for job in finished.intersection(progress.jobs):
                    if order in self._running:
                        self._answer(order, job)
        except Exception as error:  # of the model or the machine: what the rows have is not known any more
            orders = list(self._running)
            self._scheduler = self._engine.scheduler()
            for order in orders:
                self._fail(order, error)

    def _answer(self, order: Order, job: Job) -> None:
        try:
            about = self._engine.reports(job.prompt, order.top_logprobs or 0) if order.report_prompts else []
        except Exception as error:  # the rows of the others are as they were
            self._fail(order, error)
            return
        numbers = sorted(job.completions)
        completions, reports = [job.completions[k] for k in numbers], [job.reports[k] for k in numbers]
        progress = self._running[order]
        progress.unanswered.discard(job.number)
        if not progress.unanswered:
            del self._running[order]
        order.tell(Answer(job.number, completions, reports, about))  # last: who hears it may look at the rest

    def _fail(self, order: Order, error: Exception) -> None:
        self._end(order)
        order.tell(Failed(error))

    def _end(self, order: Order) -> None:
        progress = self._running.pop(order, None)
        for job in progress.jobs if progress is not None else []:
            self._scheduler.cancel(job)


def _listener(streams: Sequence[_Stream]) -> OnToken:
    return lambda sample, _, history: streams[sample].update(history)


class SequentialWorker(_Thread):
    """On an engine that does one call at a time and tells nothing in between (transformers' ``generate``)."""

    most_top_logprobs = 0
    reports_prompts = False

    def __init__(self, engine: RolloutEngine) -> None:
        super().__init__()
        self._engine = engine
        self._cancelled: set[Order] = set()

    def place(self, order: Order) -> None:
        """See `Worker.place`."""
        self._calls.put(lambda: self._do(order))

    def cancel(self, order: Order) -> None:
        """See `Worker.cancel`. The prompt that has begun goes on to its end, unheard."""
        self._cancelled.add(order)
        self._calls.put(lambda: self._cancelled.discard(order))  # behind it in the inbox: nobody asks after that

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _do(self, order: Order) -> None:
        if order in self._cancelled:
            return
        if not order.n:  # only the prompts were asked for, and those are not reported here
            for number in range(len(order.prompts)):
                order.tell(Answer(number, [], [], []))
            return
        try:
            for number, group in enumerate(self._engine.generate(order.prompts, order.n, order.sampling)):
                reports: list[list[Report]] = [[] for _ in group.completions]
                if order.top_logprobs is not None:
                    [scored] = self._engine.score([group])
                    reports = [[Report(value, [], []) for value in values.tolist()] for values in scored]
                for sample, completion in enumerate(group.completions if order.stream else []):
                    ids = completion.token_ids.tolist()
                    order.tell(Piece(number, sample, completion.text or "", ids, reports[sample], completion))
                order.tell(Answer(number, group.completions, reports, []))
                if order in self._cancelled:
                    return
        except Exception as error:
            order.tell(Failed(error))


def worker_for(engine: RolloutEngine) -> Worker:
    """The worker that gets the most out of an engine."""
    return LocalWorker(engine) if isinstance(engine, LocalEngine) else SequentialWorker(engine)
