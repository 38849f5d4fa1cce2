"""The arithmetic of ensembles, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from plaudit.rewards.models.combine import Array, Disagreement, combine, member_std, uncertainty

SCORES = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, -2.0]])


def test_by_hand() -> None:
    assert combine(SCORES, "mean").tolist() == [2.0, 0.0, 0.0]
    assert combine(SCORES, "min").tolist() == [1.0, 0.0, -2.0]
    assert combine(SCORES, "uwo", 0.5).tolist() == [1.5, 0.0, -2.0]  # variances 1, 0, 4
    assert member_std(SCORES).tolist() == [1.0, 0.0, 2.0]


@given(
    arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(1, 6)), elements=st.floats(-1e3, 1e3)),
    st.floats(0, 10),
)
def test_worst_case_and_uncertainty_never_exceed_the_mean(scores: Array, weight: float) -> None:
    mean = combine(scores, "mean")
    assert (combine(scores, "min") <= mean + 1e-9).all()
    assert (combine(scores, "uwo", weight) <= mean).all()
    assert np.array_equal(combine(scores, "uwo", 0.0), mean)


def test_identical_members_are_one() -> None:
    same = np.array([[0.3, -1.7, 12.0]] * 4)
    for how in ("mean", "min", "uwo"):
        assert np.array_equal(combine(same, how), same[0])  # type: ignore[arg-type]


def test_uncertainty_against_the_reference() -> None:
    reference = Disagreement.of(np.array([[0.0] * 20, [2.0] * 19 + [4.0]]))  # std 1 nineteen times, 2 once
    assert reference.mean == pytest.approx(1.05)
    assert 1.0 <= reference.p95 < 2.0
    here = uncertainty(member_std(SCORES), reference)
    assert here.ratio == pytest.approx(1.0 / 1.05)
    assert here.above_p95 == pytest.approx(1 / 3)


def test_uncertainty_of_members_that_never_differed() -> None:
    reference = Disagreement.of(np.array([[1.0, 2.0], [1.0, 2.0]]))
    assert uncertainty(np.zeros(3), reference).ratio == 1.0
    assert uncertainty(np.ones(3), reference).ratio == float("inf")
    assert uncertainty(np.ones(3), reference).above_p95 == 1.0
