"""SPPO: the hard form on certain labels, the soft one where a row has a preference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.methods.base import Batch, Scored
from plaudit.methods.sppo import SPPO, SPPOConfig
from tests.methods.pair_oracles import Oracle, PairOracles, at, configured
from tests.methods.views import group

CASES = {"narrow": {"beta": 0.1}}


class TestSPPO(PairOracles):
    oracle = Oracle(
        method=SPPO,
        at_reference=(50.0, -10.0, 10.0),
        values={(0.3, -0.2): 45.13, (-4.0, 7.0): 225.0, (12.0, -9.0): 65.0},
        cases={"wide": {"beta": 2.0}},
        wrong=[{"eta": 1000.0}],
    )


def test_default_of_the_paper() -> None:
    """η = 1000."""
    assert 1 / SPPOConfig().beta == pytest.approx(1000, rel=1e-15)


@pytest.mark.parametrize("preference", [1.0, 0.8, 0.5, 0.3])
def test_optimum(preference: float) -> None:
    """0 at ρ = ±η(p − ½); at p = ½ that is the reference."""
    method = configured(SPPO, {"beta": 0.1})
    target = (preference - 0.5) / 0.1
    assert at(method, target, -target, preference=preference) == pytest.approx((0, 0, 0), abs=1e-12)
    value, chosen, rejected = at(method, 0.0, 0.0, preference=preference)
    assert (value, chosen, rejected) == pytest.approx((2 * target**2, -2 * target, 2 * target), abs=1e-12)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.05, 2))
def test_swapping_the_answers(w: float, l: float, beta: float) -> None:  # noqa: E741
    """L(swapped) − L = 2h/β; and swapping the answers together with p changes nothing."""
    method = configured(SPPO, {"beta": beta})
    assert at(method, l, w)[0] - at(method, w, l)[0] == pytest.approx(2 * (w - l) / beta, abs=1e-9)
    one, other = at(method, w, l, preference=0.8)[0], at(method, l, w, preference=0.2)[0]
    assert one == pytest.approx(other, rel=1e-9)


def test_the_authors_code() -> None:
    """Half of the sum, with the judge's probability on both sides (their sppo_single)."""
    w, l, beta, p = 1.7, -0.4, 0.01, 0.83  # noqa: E741
    theirs = ((w - (1 / beta) * (p - 0.5)) ** 2 + (l + (1 / beta) * (p - 0.5)) ** 2) / 2
    assert at(configured(SPPO, {"beta": beta}), w, l, preference=p)[0] == pytest.approx(2 * theirs, rel=1e-14)


def test_rows_without_a_preference_are_certain() -> None:
    groups = [group([3, 5]), group([2, 2])]
    groups[1].preference = 0.7
    batch = Batch(groups)

    def score(role: Any, asked: Any) -> list[list[Scored]]:
        return [[Scored(logprobs=np.zeros(len(c.token_ids), np.float32)) for c in g.completions] for g in asked]

    SPPO().prepare_batch(batch, score, np.random.default_rng(0))
    assert [column.tolist() for column in batch.per_completion["preference"]] == [
        [1.0, 1.0],
        pytest.approx([0.7, 0.7]),
    ]


def test_the_authors_hard_form_at_the_reference() -> None:
    """Half of ours: ¼β⁻² = 25 and a slope of −η/2 = −5 for β = 0.1."""
    value, chosen, rejected = at(configured(SPPO, {"beta": 0.1}), 0.0, 0.0)
    assert (value / 2, chosen / 2, rejected / 2) == pytest.approx((25.0, -5.0, 5.0), abs=1e-12)
