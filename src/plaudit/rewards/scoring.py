"""What is done about failures: try again, leave the group out, count, and stop when there are too many.

A completion whose reward fails is scored again. If it still has none, its whole group is left out: an advantage over a
group with a hole would be another quantity. What is left is an unbiased sample as long as failures do not depend on the
answer, and past `max_reward_error_fraction` the run stops, because by then they probably do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from plaudit.errors import ConfigError, PlauditError, RewardError
from plaudit.rewards.background import OF_SOMEBODY_ELSE, in_background
from plaudit.rewards.contract import Failure, Reward, RewardResult, Sample

WINDOW = 1000
"""The failed share is taken over this many completions, the latest ones: a service that goes down late in a long run is
noticed as soon as one that was never there."""
SETTLED = 100
"""Below this many completions the share is taken over this many: one failure among the first eight is no trend."""
_CHECKED = 0.1
"""Seconds between two looks at whether anybody still waits."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """The results of a prompt's completions, in order, and that of its greedy answer where there is one."""

    results: list[RewardResult]
    greedy: RewardResult | None = None

    @property
    def usable(self) -> bool:
        """Whether every completion has a value; a group with a hole is left out of training."""
        return all(r.value is not None for r in (*self.results, *([self.greedy] if self.greedy else [])))

    @property
    def values(self) -> list[float]:
        """The values of a usable group."""
        found = [r.value for r in self.results if r.value is not None]
        assert len(found) == len(self.results), "only a usable group has values"
        return found


@dataclass(slots=True)
class Counts:
    """What has been scored so far.

    Attributes:
        completions, groups: how many were asked for.
        retried: completions that were scored more than once.
        failed: completions without a value in the end, by kind of failure.
        excluded: groups left out because of them.
        last: the latest failure.
    """

    completions: int = 0
    groups: int = 0
    retried: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    last: Failure | None = None


class Scoring:
    """Scores groups with a reward.

    Args:
        reward: what gives the numbers.
        retries: how often a completion is scored again after a failure that may pass.
        max_error_fraction: the failed share of the latest completions past which scoring stops.

    Raises:
        ConfigError: PL102, a value is out of range.
    """

    def __init__(self, reward: Reward, *, retries: int = 2, max_error_fraction: float = 0.05) -> None:
        if retries < 0 or not 0 <= max_error_fraction <= 1:
            raise ConfigError(
                "PL102",
                f"retries is {retries} and max_reward_error_fraction {max_error_fraction}",
                mend="retries is at least 0, max_reward_error_fraction between 0 and 1",
                where="retries, max_reward_error_fraction",
            )
        self.reward, self.retries, self.max_error_fraction = reward, retries, max_error_fraction
        self.counts = Counts()
        self._latest: deque[bool] = deque(maxlen=WINDOW)
        self._stopped = threading.Event()

    def score(self, groups: Sequence[Sequence[Sample]]) -> list[ScoredGroup]:
        """Score groups of completions.

        Raises:
            RewardError: PL706, too many completions have no reward; PlauditError: the reward cannot work here.
        """
        self._stopped.clear()
        return self._settled(groups, self._results([s for group in groups for s in group]))

    def stream(
        self,
        items: Iterable[T],
        samples: Callable[[T], Sequence[Sequence[Sample]]],
        *,
        ahead: int = 2,
        check: Callable[[], None] | None = None,
    ) -> Generator[tuple[T, list[ScoredGroup]], None, None]:
        """Score while the next items are made: `items` is drawn from here, and scored in threads of its own.

        Args:
            items: for example an engine's groups, one after the other.
            samples: the groups of an item.
            ahead: items that are scored at the same time; more are not drawn before the first of them is done.
            check: called several times a second while results are awaited; what it raises ends the work. Nobody waits
                then for the answers that are still scored.

        Returns:
            Each item with its scored groups, in order.

        Raises:
            RewardError: PL706.
        """
        waiting: deque[tuple[T, Sequence[Sequence[Sample]], Future[list[RewardResult]]]] = deque()
        self._stopped.clear()

        def first() -> tuple[T, list[ScoredGroup]]:
            item, groups, future = waiting.popleft()
            while check is not None and not wait([future], timeout=_CHECKED).done:
                check()
            return item, self._settled(groups, future.result())

        try:
            for item in items:
                groups = samples(item)
                while len(waiting) >= ahead:
                    yield first()
                future = in_background("reward", self._results, [s for group in groups for s in group])
                waiting.append((item, groups, future))
                while waiting and waiting[0][2].done():
                    yield first()
            while waiting:
                yield first()
        finally:  # after an error or Ctrl-C nobody wants the answers that are still scored
            self._stopped.set()

    def _results(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """Every sample's result, after retries; runs in any thread and touches nothing shared."""
        results = guarded(self.reward, samples)
        for attempt in range(self.retries):
            again = [i for i, r in enumerate(results) if r.error is not None and r.error.can_pass]
            if not again or self._stopped.is_set():
                break
            for i, result in zip(again, guarded(self.reward, [samples[i] for i in again]), strict=True):
                results[i] = result.timed(results[i].seconds + result.seconds).tried(attempt + 2)
        return results

    def _settled(self, groups: Sequence[Sequence[Sample]], results: Sequence[RewardResult]) -> list[ScoredGroup]:
        found, at = [], 0
        for group in groups:
            found.append(ScoredGroup(list(results[at : at + len(group)])))
            at += len(group)
        self._count(found)
        return found

    def _count(self, groups: Sequence[ScoredGroup]) -> None:
        counts = self.counts
        for group in groups:
            counts.groups += 1
            counts.excluded += not group.usable
            for result in group.results:
                counts.completions += 1
                counts.retried += result.attempts > 1
                self._latest.append(result.error is not None)
                if result.error is not None:
                    counts.failed[result.error.kind] += 1
                    counts.last = result.error
        self._stop_if_too_many()

    def remember(self, failed: Iterable[bool]) -> None:
        """Take what an earlier process has seen into the latest completions."""
        self._latest.extend(failed)

    def state(self) -> dict[str, Any]:
        """What decides about stopping, as plain values: an interrupted run goes on counting where it was."""
        return {"latest": list(self._latest), "failed": dict(self.counts.failed)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._latest.clear()
        self._latest.extend(state["latest"])
        self.counts.failed = Counter(state["failed"])

    def _stop_if_too_many(self) -> None:
        failed, seen = sum(self._latest), len(self._latest)
        if failed <= self.max_error_fraction * max(seen, SETTLED):
            return
        kinds = ", ".join(f"{kind} {n}" for kind, n in self.counts.failed.most_common())
        raise RewardError(
            "PL706",
            f"{failed} of the latest {seen} completions have no reward, after {self.retries} retries each ({kinds}); "
            f"the last one: {self.counts.last}",
            where=self.reward.name,
            mend="mend what scores; or allow more with max_reward_error_fraction "
            f"(now {self.max_error_fraction:g}), knowing that what is left out may not be left out by chance",
        )


def guarded(reward: Reward, samples: Sequence[Sample]) -> list[RewardResult]:
    """`reward.score`, where an exception or a wrong number of results is a failure of every sample.

    Raises:
        PlauditError: what the reward itself raises of these: it cannot work here at all.
    """
    if not samples:
        return []
    start = time.perf_counter()
    try:
        results = list(reward.score(samples))
    except PlauditError:
        raise
    except OF_SOMEBODY_ELSE as error:  # what it raises is kept and shown
        return _all_failed(samples, "exception", f"{type(error).__name__}: {error}", start)
    if len(results) != len(samples) or not all(isinstance(r, RewardResult) for r in results):
        return _all_failed(samples, "bad_reply", f"{len(results)} results for {len(samples)} answers", start)
    share = (time.perf_counter() - start) / len(samples)
    return [r if r.seconds else r.timed(share) for r in results]


def _all_failed(samples: Sequence[Sample], kind: str, message: str, start: float) -> list[RewardResult]:
    share = (time.perf_counter() - start) / len(samples)
    return [RewardResult.failed(kind, message, seconds=share) for _ in samples]  # type: ignore[arg-type]
