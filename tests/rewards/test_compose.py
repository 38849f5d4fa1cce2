"""Sums, gates, conditions, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from plaudit.rewards.cache import Cached, content_key
from plaudit.rewards.compose import Composite, Part
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample, SampleReward
from plaudit.rewards.function import FunctionOptions, FunctionReward


class Says(SampleReward):
    """A fixed value, a failure, or what a function of the text says; counts what it is asked."""

    kind, title = "says", "test"

    def __init__(self, name: str, value: Any, *, pure: bool = True) -> None:
        super().__init__(RewardOptions())
        self.name, self.value, self.pure = name, value, pure
        self.asked: list[str] = []

    def one(self, sample: Sample) -> RewardResult:
        self.asked.append(sample.text)
        found = self.value(sample.text) if callable(self.value) else self.value
        return found if isinstance(found, RewardResult) else RewardResult.of(found, parts={"seen": 1})


def score(parts: Sequence[Part], *texts: str, row: dict[str, Any] | None = None, **options: Any) -> list[RewardResult]:
    return Composite(parts, **options).score([Sample("q", t, row or {}) for t in texts])


def test_a_weighted_sum_with_its_parts() -> None:
    [result] = score([Part(Says("a", 0.5), 2.0), Part(Says("b", 1.0), -0.25)], "x")
    assert result.value == 2 * 0.5 - 0.25
    assert dict(result.parts) == {"a": 0.5, "a/seen": 1, "b": 1.0, "b/seen": 1}


def test_a_gate_that_holds_adds_nothing_and_one_that_does_not_decides() -> None:
    gate, costly = Says("format", lambda t: float(t == "good")), Says("judge", 0.7)
    good, bad = score([Part(gate, at_least=1.0, otherwise=-1.0), Part(costly)], "good", "bad")
    assert (good.value, bad.value) == (0.7, -1.0)
    assert costly.asked == ["good"]  # nobody is paid for the other
    assert "judge" not in bad.parts
    assert "format is below 1" in bad.note


def test_gates_are_asked_in_their_order() -> None:
    first, second = Says("a", 0.0), Says("b", 0.0)
    [result] = score(
        [Part(first, at_least=1, otherwise=-1), Part(second, at_least=1, otherwise=-2), Part(Says("c", 1.0))], "x"
    )
    assert result.value == -1
    assert second.asked == []


def test_an_error_in_a_part_is_an_error_of_the_whole_with_its_name() -> None:
    [result] = score([Part(Says("a", 1.0)), Part(Says("b", RewardResult.failed("timeout", "late")))], "x")
    assert result.error is not None
    assert (result.error.kind, result.error.message) == ("timeout", "b: late")


def test_an_error_behind_a_closed_gate_does_not_matter() -> None:
    broken = Says("b", RewardResult.failed("crash", "x"))
    [result] = score([Part(Says("a", 0.0), at_least=1), Part(broken)], "x")
    assert result.value == 0


def test_parts_apply_to_the_rows_that_they_are_for() -> None:
    parts = [Part(Says("math", 1.0), when={"task": "math"}), Part(Says("code", 2.0), when={"task": ["code", "sql"]})]
    assert [score(parts, "x", row={"task": t})[0].value for t in ("math", "code", "sql")] == [1, 2, 2]
    error = score(parts, "x", row={"task": "poem"})[0].error
    assert error is not None
    assert error.kind == "bad_row"


def test_shaping_comes_last_and_the_sum_stays_in_the_log() -> None:
    def half(value: float, sample: Sample) -> float:
        return value / 2

    def minus_length(value: float, sample: Sample) -> float:
        if not sample.text:
            raise BadRow("no text")
        return value - len(sample.text)

    whole, empty = score([Part(Says("a", 3.0))], "xx", "", shaping=[half, minus_length])
    assert (whole.value, whole.parts["total"]) == (1.5 - 2, 3.0)
    assert empty.error is not None
    assert empty.error.kind == "bad_row"


def test_a_part_that_raises_fails_its_samples_and_not_the_others() -> None:
    class Broken(Reward):
        kind, title = "broken", "test"

        def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
            raise ZeroDivisionError("x")

    results = score([Part(Broken(), when={"only": 1}), Part(Says("a", 1.0))], "x")
    assert results[0].value == 1
    results = score([Part(Broken()), Part(Says("a", 1.0))], "x")
    assert results[0].error is not None
    assert results[0].error.kind == "exception"


def test_the_same_content_is_scored_once() -> None:
    inner = Says("a", lambda t: len(t))
    cached = Cached(inner)
    samples = [Sample("q", t, {"answer": "1", "sample": i, "logprob": -i}) for i, t in enumerate(["x", "yy", "x"])]
    assert [r.value for r in cached.score(samples)] == [1, 2, 1]
    assert [r.value for r in cached.score(samples[::-1])] == [1, 2, 1]
    assert inner.asked == ["x", "yy"]
    assert cached.hits == 3


@pytest.mark.parametrize(
    "other",
    [
        Sample("r", "x", {"answer": "1"}),
        Sample("q", "y", {"answer": "1"}),
        Sample("q", "x", {"answer": "2"}),
        Sample("q", "x", {"answer": 1}),
        Sample("q", "x", {}),
        Sample("q", "x", {"answer": "1"}, tokens=3),
        Sample("q", "x", {"answer": "1"}, finish_reason="length"),
    ],
)
def test_other_content_has_another_key(other: Sample) -> None:
    sample = Sample("q", "x", {"answer": "1"})
    assert content_key("f", sample) == content_key("f", Sample("q", "x", {"answer": "1"}))
    assert content_key("f", sample) != content_key("f", other)
    assert content_key("f", sample) != content_key("g", sample)


def test_failures_are_never_remembered() -> None:
    replies = iter([RewardResult.failed("timeout", "late"), RewardResult.of(1)])
    cached = Cached(Says("a", lambda t: next(replies)))
    assert cached.score([Sample("q", "x")])[0].error is not None
    assert cached.score([Sample("q", "x")])[0].value == 1


def test_memory_is_bounded() -> None:
    inner = Says("a", 1.0)
    cached = Cached(inner, size=2)
    for text in ("1", "2", "1", "3", "1", "2"):
        cached.score([Sample("q", text)])
    assert inner.asked == ["1", "2", "3", "2"]  # 1 was used all the time, 2 went when 3 came


def test_what_is_not_pure_is_asked_every_time() -> None:
    made = FunctionReward(FunctionOptions(function="t:f"), lambda completion: 1.0)
    cached = Cached(made)
    cached.score([Sample("q", "x"), Sample("q", "x")])
    assert cached.hits == 0
