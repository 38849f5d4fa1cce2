"""Mixing and splitting are pure functions; their promises hold for any sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.data.mixing import epoch_order, epoch_size
from plaudit.data.splits import split_by_prompt
from plaudit.errors import DataError
from plaudit.types import Completion, PromptGroup, Source

SIZES = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.1, 0.5, 1.0, 1.5, 2.0, 3.0])), min_size=1, max_size=4)


@given(SIZES, st.integers(0, 2**31), st.integers(0, 5), st.booleans())
def test_each_row_is_seen_weight_times(mix: list[tuple[int, float]], seed: int, epoch: int, shuffle: bool) -> None:
    sizes, weights = [m[0] for m in mix], [m[1] for m in mix]
    order = epoch_order(sizes, weights, seed, epoch, shuffle)
    assert order == epoch_order(sizes, weights, seed, epoch, shuffle)
    assert len(order) == epoch_size(sizes, weights)
    counts, start = Counter(order), 0
    for size, weight in mix:
        seen = [counts[start + i] for i in range(size)]
        assert sum(seen) == max(1, int(size * weight + 0.5))
        assert max(seen) - min(seen) <= 1
        start += size
    assert max(order) < start


def test_two_half_epochs_see_every_row_once() -> None:
    first, second = (epoch_order([10], [0.5], 3, epoch) for epoch in (0, 1))
    assert sorted(first + second) == list(range(10))
    assert first != epoch_order([10], [0.5], 4, 0)


def test_order_without_and_with_shuffling() -> None:
    assert epoch_order([2, 2], [1, 2], 0, 0, shuffle=False) == [0, 1, 2, 3, 2, 3]
    shuffled = [epoch_order([50], [1], 0, epoch) for epoch in (0, 1)]
    assert shuffled[0] != shuffled[1]
    assert shuffled[0] != list(range(50))
    assert sorted(shuffled[0]) == list(range(50))


def group(prompt: str, row: int | None = None) -> PromptGroup:
    source = None if row is None else Source("f", row)
    return PromptGroup(np.zeros(1, dtype=np.int32), [], prompt_text=prompt, source=source)


def test_split_keeps_prompts_whole_and_is_stable() -> None:
    groups = [group(f"prompt {i % 200}", i) for i in range(600)]
    train, held_out = split_by_prompt(groups, 0.2)
    assert sorted(train + held_out) == list(range(600))
    assert {i % 200 for i in train}.isdisjoint({i % 200 for i in held_out})
    assert 0.1 < len(held_out) / 600 < 0.3
    more = [group("new first row", 999), *groups]
    _, later = split_by_prompt(more, 0.2)
    assert {i - 1 for i in later if i} == set(held_out)
    _, larger = split_by_prompt(groups, 0.4)
    assert set(held_out) < set(larger)


def test_groups_of_one_row_stay_together() -> None:
    groups = [group(f"row {i} turn {t}", i) for i in range(100) for t in range(3)]
    train, held_out = split_by_prompt(groups, 0.3)
    assert {i // 3 for i in train}.isdisjoint({i // 3 for i in held_out})


def test_texts_without_a_prompt_are_split_by_what_they_say() -> None:
    def text(i: int) -> PromptGroup:
        tokens = np.array([i, 1, 2], dtype=np.int32)
        return PromptGroup(np.zeros(0, dtype=np.int32), [Completion(tokens, np.ones(3, dtype=bool))])

    train, held_out = split_by_prompt([text(i % 100) for i in range(200)], 0.3)
    assert {i % 100 for i in train}.isdisjoint({i % 100 for i in held_out})
    assert 0.1 < len(held_out) / 200 < 0.5


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(DataError, match=r"(?s)PL207.*leaves no evaluation rows: there are 1 different prompts"):
        split_by_prompt([group("hello there")], 0.001)
    assert split_by_prompt([group("hello")], 0.0) == ([0], [])
