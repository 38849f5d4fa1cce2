"""Failures are never scores: retries, groups left out, the stop, and overlap with generation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.contract import (
    Failure,
    Reward,
    RewardOptions,
    RewardResult,
    Sample,
    SampleReward,
)
from plaudit.rewards.function import FunctionOptions, FunctionReward
from plaudit.rewards.scoring import Scoring, guarded


class Worth(SampleReward):
    """The number that the answer is."""

    kind = "worth"
    title = "test"

    def one(self, sample: Sample) -> RewardResult:
        return RewardResult.of(float(sample.text))


class Injected(Reward):
    """The reward inside, with exceptions, time-outs and values that are no numbers among its results."""

    kind = "injected"
    title = "test"

    def __init__(self, share: float, seed: int = 0) -> None:
        super().__init__(RewardOptions())
        self.share, self.random, self.inner = share, np.random.default_rng(seed), Worth()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        results = self.inner.score(samples)
        for i in range(len(results)):
            if self.random.random() < self.share:
                results[i] = self._broken(int(self.random.integers(4)))
        return results

    def _broken(self, which: int) -> RewardResult:
        kinds = (
            RewardResult.failed("exception", "ValueError: injected"),
            RewardResult.failed("timeout", "injected"),
            RewardResult.of(float("nan")),
            RewardResult.of(float("inf")),
        )
        return kinds[which]


def groups(count: int, size: int = 4, seed: int = 1) -> list[list[Sample]]:
    random = np.random.default_rng(seed)
    return [[Sample("q", str(round(v, 6))) for v in random.normal(1.0, 1.0, size)] for _ in range(count)]


def test_a_result_is_a_value_or_an_error() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        RewardResult(None)
    with pytest.raises(ValueError, match="exactly one"):
        RewardResult(1.0, Failure("crash", "x"))
    with pytest.raises(ValueError, match="finite"):
        RewardResult(float("nan"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_what_is_not_finite_is_an_error(value: float) -> None:
    result = RewardResult.of(value)
    assert result.value is None
    assert result.error is not None
    assert result.error.kind == "not_finite"


@pytest.mark.parametrize("value", [None, "0.5", b"1", [1.0, 2.0], {}, object()])
def test_what_is_no_number_is_an_error(value: object) -> None:
    error = RewardResult.of(value).error
    assert error is not None
    assert error.kind == "bad_reply"


def test_a_part_that_is_not_finite_is_an_error_too() -> None:
    result = RewardResult.of(1.0, parts={"a": 1.0, "b": float("nan")})
    assert result.error is not None
    assert "'b'" in result.error.message


def test_numbers_of_numpy_and_booleans_are_values() -> None:
    assert [RewardResult.of(v).value for v in (np.float32(0.5), np.int64(2), True, np.array(0.25))] == [0.5, 2, 1, 0.25]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_injected_failures_leave_the_mean_unbiased(retries: int) -> None:
    """10 % failures. The mean over what is left has the mean of all, within four standard errors of its own."""
    asked = groups(1500)
    scoring = Scoring(Injected(0.1), retries=retries, max_error_fraction=0.5)
    scored = scoring.score(asked)
    everything = [float(s.text) for g in asked for s in g]
    left = [v for g in scored if g.usable for v in g.values]
    error = np.std(everything) / np.sqrt(len(left))
    assert abs(np.mean(left) - np.mean(everything)) < 4 * error
    expected = 1 - (1 - 0.1 ** (retries + 1)) ** 4  # a group of four has a hole
    excluded = scoring.counts.excluded / len(asked)
    assert excluded == pytest.approx(expected, abs=4 * np.sqrt(expected / len(asked)) + 1e-9)


def test_a_failure_as_zero_would_have_been_noticed() -> None:
    """The test above can fail: with failures as 0 the same mean is off by more than its tolerance."""
    values = [float(s.text) for g in groups(1500) for s in g]
    random = np.random.default_rng(0)
    as_zero = [0.0 if random.random() < 0.1 else v for v in values]
    assert abs(np.mean(as_zero) - np.mean(values)) > 4 * np.std(values) / np.sqrt(len(values))


def test_the_run_stays_alive_at_the_default_limit() -> None:
    scoring = Scoring(Injected(0.1))
    scoring.score(groups(2000))
    assert scoring.counts.retried > 500
    assert 0 < scoring.counts.failed.total() < 40  # 0.1 % of 8000 after two retries
    assert set(scoring.counts.failed) <= {"exception", "timeout", "not_finite"}


def test_past_the_limit_it_stops_and_says_why() -> None:
    scoring = Scoring(Injected(0.5), retries=0)
    with pytest.raises(RewardError, match="PL706") as caught:
        scoring.score(groups(200))
    text = str(caught.value)
    assert "completions have no reward" in text
    assert "max_reward_error_fraction" in text
    assert "injected" in text


def test_a_late_failure_is_not_drowned_in_a_long_run() -> None:
    reward = Injected(0.0)
    scoring = Scoring(reward, retries=0)
    scoring.score(groups(3000))
    reward.share = 1.0
    with pytest.raises(RewardError, match="PL706"):
        scoring.score(groups(20))


def test_a_single_early_failure_does_not_stop_a_run() -> None:
    reward = Injected(1.0)
    scoring = Scoring(reward, retries=0)
    [scored] = scoring.score([[Sample("q", "1")]])
    assert not scored.usable
    with pytest.raises(RewardError, match="PL706"):
        Scoring(reward, retries=0, max_error_fraction=0).score([[Sample("q", "1")]])


def test_bad_rows_are_not_tried_again() -> None:
    calls = 0

    class Bad(SampleReward):
        kind, title = "bad", "test"

        def one(self, sample: Sample) -> RewardResult:
            nonlocal calls
            calls += 1
            return RewardResult.failed("bad_row", "no answer")

    [scored] = Scoring(Bad(), retries=5).score([[Sample("q", "a")]])
    assert calls == 1
    assert not scored.usable


def test_only_what_failed_is_scored_again() -> None:
    seen: list[list[str]] = []

    class Flaky(Reward):
        kind, title = "flaky", "test"

        def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
            seen.append([s.text for s in samples])
            first = len(seen) == 1
            return [
                RewardResult.failed("timeout", "late") if first and s.text == "2" else RewardResult.of(float(s.text))
                for s in samples
            ]

    [scored] = Scoring(Flaky()).score([[Sample("q", t) for t in "123"]])
    assert seen == [["1", "2", "3"], ["2"]]
    assert scored.values == [1, 2, 3]
    assert [r.attempts for r in scored.results] == [1, 2, 1]


def test_an_exception_or_a_wrong_number_of_results_is_a_failure_of_all() -> None:
    class Raises(Reward):
        kind, title = "raises", "test"

        def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
            raise KeyError("gone")

    class Short(Reward):
        kind, title = "short", "test"

        def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
            return [RewardResult.of(1)]

    two = [Sample("q", "1"), Sample("q", "2")]
    assert [r.error.kind if r.error else None for r in guarded(Raises(), two)] == ["exception"] * 2
    assert [r.error.kind if r.error else None for r in guarded(Short(), two)] == ["bad_reply"] * 2


def test_scoring_overlaps_with_generation() -> None:
    """Ten items that take 0.05 s to make and 0.05 s to score: together about as long as one of the two alone."""

    class Slow(SampleReward):
        kind, title = "slow", "test"

        def one(self, sample: Sample) -> RewardResult:
            time.sleep(0.05)
            return RewardResult.of(1)

    def made() -> Iterator[Sample]:
        for _ in range(10):
            time.sleep(0.05)
            yield Sample("q", "a")

    start = time.perf_counter()
    found = list(Scoring(Slow()).stream(made(), lambda s: [[s]]))
    seconds = time.perf_counter() - start
    assert len(found) == 10
    assert 0.5 <= seconds < 0.85  # one after the other it would be 1.0


def test_a_stream_keeps_the_order_and_counts_in_it() -> None:
    class Uneven(SampleReward):
        kind, title = "uneven", "test"

        def one(self, sample: Sample) -> RewardResult:
            time.sleep(0.02 if int(sample.text) % 2 else 0)
            return RewardResult.of(float(sample.text))

    scoring = Scoring(Uneven())
    items = [Sample("q", str(i)) for i in range(12)]
    found = [(s.text, g[0].values[0]) for s, g in scoring.stream(items, lambda s: [[s]], ahead=3)]
    assert found == [(str(i), float(i)) for i in range(12)]
    assert scoring.counts.completions == 12


def test_a_stream_that_is_left_ends_its_threads() -> None:
    stream = Scoring(Worth()).stream((Sample("q", str(i)) for i in range(100)), lambda s: [[s]])
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator
    deadline = time.monotonic() + 5
    while any(t.name.startswith("reward") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.name.startswith("reward") for t in threading.enumerate())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="PL102"):
        Scoring(Worth(), retries=-1)
    with pytest.raises(ConfigError, match="PL102"):
        Scoring(Worth(), max_error_fraction=1.5)


@pytest.mark.parametrize("retries", [0, 2])
def test_any_function_may_fail_without_a_default(retries: int) -> None:
    """The same through a user's function: raising, taking too long, None, NaN and infinity, 10 % together."""
    random = np.random.default_rng(3)

    def reward(completion: str) -> float | None:
        draw = random.random()
        if draw < 0.025:
            raise RuntimeError("injected")
        if draw < 0.03:
            time.sleep(0.5)
        if 0.03 < draw < 0.055:
            return None
        if 0.055 < draw < 0.1:
            return float("nan" if draw < 0.08 else "-inf")
        return float(completion)

    asked = groups(500)
    options = FunctionOptions(function="test:reward", timeout=0.1)
    scoring = Scoring(FunctionReward(options, reward), retries=retries, max_error_fraction=0.5)
    scored = scoring.score(asked)
    everything = [float(s.text) for g in asked for s in g]
    left = [v for g in scored if g.usable for v in g.values]
    assert abs(np.mean(left) - np.mean(everything)) < 4 * np.std(everything) / np.sqrt(len(left))
    for group, found in zip(asked, scored, strict=True):
        assert all(r.value in (None, float(s.text)) for s, r in zip(group, found.results, strict=True))
    if retries:
        assert scoring.counts.retried > 100
    else:
        assert set(scoring.counts.failed) == {"exception", "timeout", "bad_reply", "not_finite"}
        assert 0.25 < scoring.counts.excluded / len(asked) < 0.45  # a group of four has a hole: 0.34
