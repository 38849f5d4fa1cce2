"""Which rows run: admission within the memory budget, steps, and what happens when rows are done or memory is short.

Rows are admitted with little memory and grow; when the budget is used up, the youngest rows are put back and later
continue from the tokens they have. Their draws depend on their keys alone, so that changes nothing but the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit.engines.local.cohort import Cohort
from plaudit.engines.local.forward import Forward
from plaudit.engines.local.jobs import Entry, Job, Report, Row, Stops
from plaudit.engines.local.layouts import PromptLayout, StepLayout
from plaudit.engines.local.sampler import Drawn, Likely, draw
from plaudit.engines.local.uniforms import uniforms
from plaudit.errors import EngineError
from plaudit.types import FinishReason

_LOGIT_ENTRIES = 1 << 23  # entries of a chunk of logits: 32 MiB
_ADMIT_SHARE = 8  # new rows come in when a place for one in so many is free
_HEADROOM = 0.9  # of the budget may be taken by admissions while rows run; the rest is for their growth


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scheduler may use."""

    budget_bytes: int
    """of keys and values"""
    bytes_per_token: int
    """keys and values of one position in all layers"""
    max_rows: int
    """rows that run at the same time"""
    prefill_tokens: int
    """prompt tokens of one forward pass; a longer prompt is one pass by itself"""
    first_capacity: int = 128
    """generated tokens per row for which memory is taken at first; doubled when they are used up"""

    @property
    def tokens(self) -> int:
        """Positions that fit."""
        return self.budget_bytes // self.bytes_per_token


@dataclass(slots=True)
class Counts:
    """What was done, for tests, logs and benchmarks."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    computed_rows: int = 0
    """rows of all steps, those that were done already included"""
    put_back: int = 0
    peak_tokens: int = 0
    """most positions for which there was memory at once"""


class Scheduler:
    """Runs jobs to their end.

    Args:
        switch_at: length of a sequence beyond which its positions take other frequencies (longrope); None = never. Rows
            on both sides of it are never in one forward, and a row that passes it is read in anew.
        version: of the weights, asked at every step.
    """

    def __init__(
        self,
        forward: Forward,
        stops: Stops,
        limits: Limits,
        *,
        switch_at: int | None = None,
        version: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._forward, self._stops, self._limits = forward, stops, limits
        self._switch_at, self._version_now = switch_at, version
        self._version = version()
        self._waiting: deque[Entry] = deque()
        self._cohorts: list[Cohort] = []
        self._finished: list[Job] = []
        self._reports: dict[int, Report] = {}
        """of the rows of the latest draw that report, by their place in it"""
        self.counts = Counts()

    # -- from outside ------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            EngineError: PL602 when one of its rows alone would exceed the budget.
        """
        longest = len(job.prompt) + job.sampling.max_new_tokens
        if longest > self._limits.tokens:
            raise EngineError(
                "PL602",
                f"{longest} tokens (prompt and max_new_tokens) need "
                f"{longest * self._limits.bytes_per_token / 2**20:.0f} MiB of keys and values, more than the budget of "
                f"{self._limits.budget_bytes / 2**20:.0f} MiB",
                where=f"prompt {job.number}",
                mend="lower max_new_tokens, or give the engine more memory (cache_gib)",
            )
        job.ends = self._stops.table(job.sampling)
        self._waiting.append(Entry(job.prompt, job.rows()))

    def cancel(self, job: Job) -> None:
        """Take a job's rows out; what it has completed stays with it."""
        self._waiting = deque(e for e in self._waiting if e.rows[0].job is not job)
        for cohort in self._cohorts:
            for i, row in enumerate(cohort.rows):
                if row.job is job:
                    cohort.alive[i] = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._cohorts)

    def step(self) -> list[Job]:
        """Admit what fits, compute one token of every row, and return the jobs that are done by it.

        Raises:
            EngineError: PL606 when the weights are no longer those with which the rows began; PL601.
        """
        if self._version_now() != self._version:
            raise EngineError(
                "PL606",
                f"the weights went from version {self._version} to {self._version_now()} in the middle of completions",
                mend="take all groups of a call before the next sync, or begin a new call",
                where="the local engine",
            )
        self._finished = []
        with self._forward.running():
            self._drop_done()
            self._admit()
            self._make_room()
            self._recall_rows_that_switch()
            switched = [self._has_switched(int(c.positions[0]) + 1) for c in self._cohorts]  # before anything moves on
            for side in sorted(set(switched)):
                self._advance([c for c, own in zip(self._cohorts, switched, strict=True) if own == side])
        return self._finished

    # -- admission ---------------------------------------------------------------------------------------------------

    @property
    def _used(self) -> int:
        return sum(c.stored_tokens for c in self._cohorts)

    def _drop_done(self) -> None:
        for cohort in self._cohorts:
            if cohort.alive.any() and cohort.worth_compacting:
                cohort.compact()
        self._cohorts = [c for c in self._cohorts if c.alive.any()]

    def _admit(self) -> None:
        """New cohorts from the front of the queue: never past an entry that does not fit, so that none starves."""
        free = self._limits.max_rows - sum(len(c.rows) for c in self._cohorts)
        wanted = min(self._limits.max_rows // _ADMIT_SHARE, sum(len(e.rows) for e in self._waiting))
        if not self._waiting or (self._cohorts and free < max(wanted, 1)):
            return
        room = int(self._limits.tokens * (_HEADROOM if self._cohorts else 1)) - self._used
        chosen: list[Entry] = []
        width = 0
        while self._waiting and free > 0:
            entry = self._waiting[0]
            # Within a bucket a prompt takes as much as the longest; reckon with the longest of all.
            width = max(width, len(entry.context))
            per_row = min(self._limits.first_capacity, entry.limit)
            spare = room - (len(chosen) + 1) * width
            count = min(len(entry.rows), free, spare // per_row if spare > 0 else 0)
            if count <= 0:
                break
            self._waiting.popleft()
            chosen.append(Entry(entry.context, entry.rows[:count]))
            if count < len(entry.rows):  # the others read the prompt in again when there is room
                self._waiting.appendleft(Entry(entry.context, entry.rows[count:]))
            room -= count * per_row
            free -= count
        for side in sorted({self._has_switched(len(e.context)) for e in chosen}):
            self._start([e for e in chosen if self._has_switched(len(e.context)) == side])

    def _start(self, entries: Sequence[Entry]) -> None:
        """Read the prompts in and draw the first token of every row."""
        cohort = Cohort(entries, self._forward.vocabulary, self._forward.device, self._limits.first_capacity)
        self._cohorts.append(cohort)
        self._note_peak()
        hidden = []
        places = cohort.places
        start = 0
        while start < len(places):
            end, tokens = start, 0
            while end < len(places) and (
                end == start or tokens + len(cohort.contexts[end]) <= self._limits.prefill_tokens
            ):
                tokens += len(cohort.contexts[end])
                end += 1
            layout = PromptLayout.of(cohort.contexts[start:end], places[start:end], self._forward.device)
            hidden.append(self._forward.hidden(layout)[layout.last_G])
            self.counts.prompt_tokens += tokens
            start = end
        last_GD = torch.cat(hidden)
        prompt_of_row = torch.from_numpy(cohort.prompt_B).to(self._forward.device)
        self._record([cohort], self._draw([cohort], last_GD, prompt_of_row))

    # -- memory ------------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Every cohort gets a place for its next token, the oldest first; the youngest make way for it."""
        for cohort in list(self._cohorts):
            while cohort in self._cohorts and cohort.suffixes.full:
                cohort.compact()  # what is done goes first, its prompts too
                wanted = min(cohort.suffixes.limit, 2 * cohort.suffixes.capacity)
                # The peak while moving is one layer more than the sum.
                others = self._used - cohort.suffixes.allocated_rows * cohort.suffixes.capacity
                affordable = min(wanted, (self._limits.tokens - others) // len(cohort.rows))
                if affordable > cohort.suffixes.capacity:
                    cohort.suffixes.grow(affordable)
                    self._note_peak()
                else:
                    self._put_back_the_youngest()

    def _put_back_the_youngest(self) -> None:
        """Free memory: all rows of the youngest cohort, or the last half of the only one."""
        victim = self._cohorts[-1]
        rows = np.flatnonzero(victim.alive)
        if len(self._cohorts) == 1:
            assert len(rows) > 1, "a single row fits by the check in `submit`"
            rows = rows[len(rows) // 2 :]
        self._put_back(victim, rows)
        if victim.alive.any():
            victim.compact()
        else:
            self._cohorts.remove(victim)

    def _put_back(self, cohort: Cohort, rows: np.ndarray[Any, Any]) -> None:
        for i in reversed(rows):
            cohort.alive[i] = False
            self._waiting.appendleft(Entry.again(cohort.rows[i]))
        self.counts.put_back += len(rows)

    def _note_peak(self) -> None:
        self.counts.peak_tokens = max(self.counts.peak_tokens, self._used)

    def _has_switched(self, length: int) -> bool:
        return self._switch_at is not None and length > self._switch_at

    def _recall_rows_that_switch(self) -> None:
        """The stored keys of a row were made with the frequencies of the shorter sequence: it is read in anew."""
        if self._switch_at is None:
            return
        for cohort in self._cohorts:
            passing = np.flatnonzero((cohort.positions == self._switch_at) & cohort.alive)
            if len(passing):
                self._put_back(cohort, passing)
                if cohort.alive.any():
                    cohort.compact()
        self._cohorts = [c for c in self._cohorts if c.alive.any()]

    # -- steps -------------------------------------------------------------------------------------------------------

    def _advance(self, cohorts: Sequence[Cohort]) -> None:
        """One token for every row of the cohorts."""
        parts, start = [], 0
        for cohort in cohorts:
            parts.append(cohort.part(start))
            start += len(cohort.rows)
        device = self._forward.device
        ids = torch.from_numpy(np.concatenate([c.newest for c in cohorts])).to(device)
        positions = torch.from_numpy(np.concatenate([c.positions for c in cohorts])).to(device)
        hidden_BD = self._forward.hidden(StepLayout(ids, positions, parts))
        for cohort in cohorts:
            cohort.suffixes.advance()
        self.counts.steps += 1
        self.counts.computed_rows += start
        self._record(cohorts, self._draw(cohorts, hidden_BD, None))

    def _draw(self, cohorts: Sequence[Cohort], hidden: Tensor, index_B: Tensor | None) -> Drawn:
        """Tokens of all rows.

        Args:
            hidden: [B, D], or with `index_B` [G, D], of which each row reads one.
        """
        device, size = self._forward.device, max(1, _LOGIT_ENTRIES // self._forward.vocabulary)
        numbers = [uniforms(c.keys, c.drawn.astype(np.uint64)) for c in cohorts]
        uniform_B = torch.from_numpy(np.concatenate(numbers)).to(device)
        ends = np.cumsum([len(c.rows) for c in cohorts]).tolist()
        parts: list[Drawn] = []
        self._reports = {}
        for start in range(0, ends[-1], size):
            end = min(start + size, ends[-1])
            # One product with the head for all cohorts, then each cohort's rows by its own rules.
            logits = self._forward.logits(hidden[start:end] if index_B is None else hidden[index_B[start:end]])
            for cohort, last in zip(cohorts, ends, strict=True):
                first = last - len(cohort.rows)
                low, high = max(start, first), min(end, last)
                if low < high:
                    own = logits[low - start : high - start]
                    likely = None if cohort.reported is None else Likely.of(own)
                    parts.append(self._draw_rows(cohort, slice(low - first, high - first), own, uniform_B[low:high]))
                    if likely is not None:
                        told = likely.reports(parts[-1].tokens_R, cohort.reported or 0)
                        self._reports.update(enumerate(told, start=low))
        return Drawn(
            torch.cat([p.tokens_R for p in parts]),
            torch.cat([p.sampling_R for p in parts]),
            torch.cat([p.full_R for p in parts]),
        )

    def _draw_rows(self, cohort: Cohort, own: slice, logits: Tensor, uniform_R: Tensor) -> Drawn:
        """Tokens of some of a cohort's rows."""
        rows, rules = cohort.rows[own], cohort.rules.rows(own)
        seen = None
        if rules.penalty_R is not None:
            texts = [np.concatenate([r.job.prompt, np.array(r.history.tokens, dtype=np.int32)]) for r in rows]
            padded = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
            for i, text in enumerate(texts):
                padded[i], padded[i, : len(text)] = text[0], text
            seen = torch.from_numpy(padded).to(logits.device)
        forbidden = None
        early = cohort.drawn[own] < [r.job.sampling.min_new_tokens for r in rows] if cohort.least else None
        if early is not None and early.any():
            tables = [r.job.ends & e for r, e in zip(rows, early, strict=True)]
            forbidden = torch.from_numpy(np.stack(tables)).to(logits.device)
        return draw(logits, rules, uniform_R, seen_RL=seen, forbidden_RV=forbidden)

    def _record(self, cohorts: Sequence[Cohort], drawn: Drawn) -> None:
        """Write down what was drawn, and let go of the rows that it completes."""
        tokens = drawn.tokens_R.cpu().numpy()
        sampling, full = drawn.sampling_R.cpu().tolist(), drawn.full_R.cpu().numpy()
        if np.isnan(full).any():
            raise EngineError(
                "PL601",
                "the model's logits are not numbers (NaN)",
                mend="check the weights; try a wider precision",
                where="the local engine",
            )
        logprobs = full.tolist()
        at = 0
        for cohort in cohorts:
            cohort.newest = tokens[at : at + len(cohort.rows)]
            for i, row in enumerate(cohort.rows):
                if cohort.alive[i]:
                    if row.job.top_logprobs is not None:
                        row.history.reports.append(self._reports[at].first(row.job.top_logprobs))
                    self._take(cohort, i, row, int(tokens[at]), sampling[at], logprobs[at])
                at += 1

    def _take(self, cohort: Cohort, place: int, row: Row, token: int, sampling: float, full: float) -> None:
        history = row.history
        history.tokens.append(token)
        history.sampling.append(sampling)
        history.full.append(full)
        self.counts.generated_tokens += 1
        options = row.job.sampling
        reason: FinishReason | None = None
        if row.job.ends[token] or self._stops.says_stop(row):
            reason = "stop"
        elif len(history.tokens) >= options.max_new_tokens:
            reason = "length"
        if row.job.on_token is not None:
            row.job.on_token(row.sample, len(history.tokens) - 1, history)
        if reason is None:
            return
        cohort.alive[place] = False
        row.finish(reason, self._stops.text(row), self._version)
        if row.job.done:
            self._finished.append(row.job)
