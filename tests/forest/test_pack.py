"""Packing: nothing lost, nothing twice, budgets kept, regimes apart, work shared evenly."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.forest.layout import Piece, build_forest, piece_tokens
from plaudit.forest.pack import best_fit, pack, share_out, split_group
from plaudit.types import Completion, PromptGroup
from tests.zoo import Maker

Unit = Literal["completion", "pair", "group"]


def test_best_fit_decreasing() -> None:
    """The textbook case: five lengths, exactly two full bins."""
    bins = best_fit([5, 4, 3, 2, 2], 8)
    assert sorted(sorted(b) for b in bins) == [[0, 2], [1, 3, 4]]


def test_best_fit_takes_the_tightest_bin() -> None:
    """6 and 5 open two bins (room 2 and 3); 2 fits both and must go to the fuller one, so that 3 still fits."""
    assert sorted(sorted(b) for b in best_fit([6, 5, 3, 2], 8)) == [[0, 3], [1, 2]]


def test_an_item_larger_than_the_budget_is_alone() -> None:
    assert sorted(best_fit([20, 3, 3], 8)) == [[0], [1, 2]]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(5, 40))
def test_best_fit_properties(sizes: list[int], budget: int) -> None:
    bins = best_fit(sizes, budget)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    for b in bins:
        assert sum(sizes[i] for i in b) <= budget or len(b) == 1
    # No two bins could be one: otherwise the later one's first item would have fitted.
    loads = sorted(sum(sizes[i] for i in b) for b in bins)
    if len(loads) > 1:
        assert loads[0] + loads[1] > budget


def _group(prompt: int, lengths: list[int], masked: set[int]) -> PromptGroup:
    make = Maker(len(lengths))
    group = make.group(prompt, lengths)
    for k, completion in enumerate(group.completions):
        if k in masked:
            completion.action_mask[:] = False
    return group


groups_strategy = st.lists(
    st.builds(
        _group,
        st.integers(0, 25),
        st.lists(st.integers(1, 18), min_size=1, max_size=7),
        st.sets(st.integers(0, 6), max_size=2),
    ),
    min_size=1,
    max_size=6,
)


def _pieces(groups: list[PromptGroup], budget: int, unit: Unit, bos: int | None, **more: Any) -> list[Piece]:
    return [p for i, g in enumerate(groups) for p in split_group(g, i, budget=budget, unit=unit, bos_id=bos, **more)]


@given(
    groups_strategy,
    st.integers(8, 80),
    st.sampled_from(["completion", "pair", "group"]),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_every_completion_once_within_the_budget(
    groups: list[PromptGroup], budget: int, unit: Unit, bos: int | None, score_last: bool
) -> None:
    pieces = _pieces(groups, budget, unit, bos, score_last=score_last)
    bins = pack(pieces, budget=budget, bos_id=bos, score_last=score_last)
    seen = Counter((p.index, k) for b in bins for p in b for k in p.completions)
    wanted = [(i, k) for i, g in enumerate(groups) for k in range(len(g.completions))]
    assert seen == Counter(wanted)

    size = {"completion": 1, "pair": 2, "group": 99}[unit]
    for members in bins:
        cost = sum(piece_tokens(p, bos, score_last) for p in members)
        assert cost <= budget or (len(members) == 1 and len(members[0].completions) <= size)
        assert cost == build_forest(members, bos_id=bos, score_last=score_last).num_tokens
        assert [p.index for p in members] == sorted(p.index for p in members)
    # Exactly one piece of every packed group carries the prompt's own targets.
    carriers = Counter(p.index for p in pieces if p.prompt_targets)
    assert all(carriers[i] == 1 for i in {p.index for p in pieces})


@given(groups_strategy, st.integers(8, 80), st.sampled_from(["completion", "pair", "group"]))
def test_units_stay_whole(groups: list[PromptGroup], budget: int, unit: Unit) -> None:
    size = {"completion": 1, "pair": 2, "group": 99}[unit]
    for piece in _pieces(groups, budget, unit, None):
        first = piece.completions[0]
        assert first % min(size, len(piece.group.completions)) == 0 or unit == "completion"
        assert piece.completions == tuple(range(first, first + len(piece.completions)))
        ends_group = piece.completions[-1] == len(piece.group.completions) - 1
        assert ends_group or len(piece.completions) % size == 0


@given(groups_strategy, st.integers(8, 80), st.sampled_from(["completion", "pair", "group"]))
def test_regimes_never_share_a_forest(groups: list[PromptGroup], budget: int, unit: Unit) -> None:
    def regime(piece: Piece) -> int:
        return int(len(piece.group.prompt_ids) + max(len(c.token_ids) for c in piece.members()) > 20)

    bins = pack(_pieces(groups, budget, unit, None, regime=regime), budget=budget, bos_id=None, regime=regime)
    for members in bins:
        assert len({regime(p) for p in members}) == 1
    if unit == "completion":  # cut apart as far as the unit allows
        for members in bins:
            for p in members:
                assert len({regime(Piece(p.group, p.index, (k,))) for k in p.completions}) == 1


@given(st.lists(st.integers(1, 100), max_size=40), st.integers(1, 6))
def test_share_out_gives_equal_slots(costs: list[int], ranks: int) -> None:
    shares = share_out(costs, ranks)
    slots = -(-len(costs) // ranks)
    assert len(shares) == ranks
    assert sorted(i for s in shares for i in s) == list(range(len(costs)))
    assert all(len(s) <= slots for s in shares)


def test_share_out_balances_work() -> None:
    shares = share_out([9, 8, 2, 1], 2)
    assert sorted(sum([9, 8, 2, 1][i] for i in s) for s in shares) == [10, 10]


@pytest.mark.parametrize("completions", [2, 8])
def test_computed_tokens_of_typical_data(completions: int) -> None:
    """Lognormal lengths, prompts about 200 and answers about 150 tokens, 8,192 per micro-batch: ≤ 1.02 × unique."""
    rng = np.random.default_rng(0)

    def length(mean: float) -> int:
        return int(np.clip(rng.lognormal(np.log(mean), 0.6), 4, 1500))

    groups = [
        PromptGroup(
            np.zeros(length(200), np.int32),
            [
                Completion(np.zeros(n, np.int32), np.ones(n, np.bool_))
                for n in (length(150) for _ in range(completions))
            ],
        )
        for _ in range(64)
    ]
    bins = pack(_pieces(groups, 8192, "pair", None), budget=8192, bos_id=None)
    computed = sum(piece_tokens(p, None, False) for b in bins for p in b)
    assert computed <= 1.02 * sum(g.unique_tokens for g in groups)
    # The bins are full as well: at most one forest's worth of tokens is wasted over the whole epoch.
    assert len(bins) <= -(-computed // 8192) + 1
