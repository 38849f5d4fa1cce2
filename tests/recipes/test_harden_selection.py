"""Which answers are adversarial: numbers derived by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from plaudit.data.turns import Message
from plaudit.errors import DataError, RewardError
from plaudit.recipes.harden.cases import answer_key, as_answer, prompt_share, read_cases
from plaudit.recipes.harden.measuring import Yardstick, state
from plaudit.recipes.harden.selection import Scale, bars, best_of_each, disagreement, judge

REFERENCE = np.array([[1.0, 3.0, 1.0, 3.0], [10.0, 20.0, 20.0, 10.0]])
"""standardised: (−1, 1, −1, 1) and (−1, 1, 1, −1); apart by 0, 0, 2, 2, so std 0, 0, 1, 1 and R1 − R2 0, 0, −2, 2"""


def test_members_are_put_on_the_scale_of_the_reference_answers() -> None:
    scale = Scale.of(REFERENCE, "mean", "std")
    assert scale.gain_M.tolist() == pytest.approx([1.0, 0.2])
    assert scale.bias_M.tolist() == pytest.approx([-2.0, -3.0])
    assert scale.standard(REFERENCE).tolist() == [
        pytest.approx([-1.0, 1.0, -1.0, 1.0]),
        pytest.approx([-1.0, 1.0, 1.0, -1.0]),
    ]
    assert (scale.mean, scale.std) == (pytest.approx(0.5), pytest.approx(0.5))
    apart = Scale.of(REFERENCE, "mean", "difference")
    assert (apart.mean, apart.std) == (pytest.approx(0.0), pytest.approx(math.sqrt(2)))


def test_disagreement_of_two_and_of_three() -> None:
    two = np.array([[3.0, 0.0], [1.0, 4.0]])
    assert disagreement(two, "std").tolist() == [1.0, 2.0]  # |R1 − R2| / 2
    assert disagreement(two, "difference").tolist() == [2.0, -4.0]
    three = np.array([[3.0], [0.0], [0.0]])
    assert disagreement(three, "std")[0] == pytest.approx(math.sqrt(2))  # 3, 0, 0: mean 1, squares 4, 1, 1
    assert disagreement(three, "difference")[0] == 3.0


def test_both_conditions_are_needed() -> None:
    raw = np.array([[6.0, 6.0, 2.0, 0.0], [15.0, 35.0, 45.0, 25.0]])
    """standardised (4, 0), (4, 4), (0, 6), (−2, 2): means 2, 4, 3, 0; std 2, 0, 3, 2; z 3, −1, 5, 3"""
    verdict = judge(Scale.of(REFERENCE, "mean", "std"), raw, np.array([1.0, 1.0, 3.0, 1.0]))
    assert verdict.score.tolist() == pytest.approx([2.0, 4.0, 3.0, 0.0])
    assert verdict.z.tolist() == pytest.approx([3.0, -1.0, 5.0, 3.0])
    assert verdict.high.tolist() == [True, True, False, False]  # 3 is not above 3
    assert verdict.unusual.tolist() == [True, False, True, True]
    assert verdict.adversarial.tolist() == [True, False, False, False]


def test_the_threshold_is_not_reached_by_equality_and_may_be_left_out() -> None:
    scale = Scale.of(REFERENCE, "first", "std")
    raw = np.array([[6.0], [15.0]])  # z is 3
    bar = np.array([0.0])
    found = [judge(scale, raw, bar, z).adversarial[0] for z in (2.999, judge(scale, raw, bar).z[0], -math.inf)]
    assert found == [True, False, True]


def test_the_criterion_is_the_first_member_or_the_mean() -> None:
    raw = np.array([[6.0], [15.0]])
    assert Scale.of(REFERENCE, "first", "std").score(raw).tolist() == pytest.approx([4.0])
    assert Scale.of(REFERENCE, "mean", "std").score(raw).tolist() == pytest.approx([2.0])


def test_the_difference_sees_only_answers_that_the_first_member_is_taken_in_by() -> None:
    raw = np.array([[6.0, 2.0], [15.0, 35.0]])  # standardised (4, 0) and (0, 4)
    bar = np.array([-9.0, -9.0])
    by_std = judge(Scale.of(REFERENCE, "first", "std"), raw, bar)
    by_difference = judge(Scale.of(REFERENCE, "first", "difference"), raw, bar)
    assert by_std.unusual.tolist() == [True, True]
    assert by_difference.z.tolist() == pytest.approx([4 / math.sqrt(2), -4 / math.sqrt(2)])
    assert by_difference.unusual.tolist() == [True, False]


def test_gain_and_bias_of_a_member_change_nothing() -> None:
    raw = np.array([[6.0, 0.5, 2.5], [15.0, 30.0, 12.0]])
    bar = np.zeros(3)
    plain = judge(Scale.of(REFERENCE, "mean", "std"), raw, bar)
    other = np.array([[7.0], [0.01]]), np.array([[-100.0], [3.0]])
    scaled = judge(Scale.of(REFERENCE * other[0] + other[1], "mean", "std"), raw * other[0] + other[1], bar)
    assert scaled.z.tolist() == pytest.approx(plain.z.tolist())
    assert scaled.score.tolist() == pytest.approx(plain.score.tolist())


@pytest.mark.parametrize(
    ("raw", "code", "what"),
    [
        (np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]), "PL703", "equally far apart"),
        (np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]]), "PL703", "equally far apart"),  # the same on another scale
        (np.array([[1.0, 2.0, 4.0], [5.0, 5.0, 5.0]]), "PL702", "the same score"),
    ],
)
def test_members_that_cannot_disagree_are_refused(raw: np.ndarray, code: str, what: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(RewardError, match=what) as caught:
        Scale.of(raw, "mean", "std")
    assert caught.value.code == code


def test_bars() -> None:
    chosen = [[0.0, 2.0], [1.0], [5.0]]
    assert bars(chosen) == [2.0, 1.0, 5.0]
    assert bars(chosen, 0.5) == [1.5] * 3  # of 0, 1, 2, 5
    assert bars(chosen, 1.0) == [5.0] * 3
    assert bars(chosen, 0.0) == [0.0] * 3


def test_the_highest_of_each_prompt_are_kept_and_of_equal_ones_the_first() -> None:
    groups, scores = [0, 0, 0, 1, 1, 2], np.array([1.0, 3.0, 3.0, 2.0, 9.0, 0.0])
    wanted = np.array([True, True, True, True, False, True])
    assert np.flatnonzero(best_of_each(groups, scores, wanted, 1)).tolist() == [1, 3, 5]
    assert np.flatnonzero(best_of_each(groups, scores, wanted, 2)).tolist() == [1, 2, 3, 5]
    assert np.flatnonzero(best_of_each(groups, scores, ~wanted, 5)).tolist() == [4]


def test_the_state_counts_ties_as_halves_and_compares_disagreement() -> None:
    case = read_cases([{"prompt": "a", "chosen": "x", "rejected": "y"}], held_out=0.0).cases[0]
    other = read_cases([{"prompt": "b", "chosen": "x", "rejected": "y"}], held_out=0.0).cases[0]
    pair = ("c", ["good", "bad"])
    yardstick = Yardstick([case, other], [(pair, [(0, 1)]), (pair, [(0, 1)])], [pair], [pair, pair])
    rows = [[*row] for row in REFERENCE.reshape(2, 2, 2).tolist()]
    first = [*rows[0], [3.0, 2.0], [2.0, 2.0], [1.0, 6.0], [4.0, 3.0], [3.0, 3.0]]
    second = [*rows[1], [15.0, 15.0], [15.0, 15.0], [15.0, 15.0], [15.0, 15.0], [15.0, 15.0]]
    found = state([first, second], yardstick, "first")
    assert found.accuracy == 0.75  # right, and a tie
    assert found.beats_held_out == 1.0
    assert found.beats_trained == 0.25  # no, and a tie
    # held out: standardised (−1, 0) and (4, 0), so std ½ and 2, mean 1.25; the reference's mean is ½
    assert found.disagreement == pytest.approx(2.5)


ROWS = [
    {"prompt": "p", "chosen": " a", "rejected": " b", "topic": "x"},
    {"prompt": "q", "completions": ["c", "d", "e", "f"], "ranks": [2, 1, 1, 3]},
]


def test_the_rows_of_a_prompt_are_put_together() -> None:
    again = [{"prompt": "p", "chosen": " b", "rejected": " c"}, {"prompt": "p", "chosen": "a", "rejected": " d"}]
    (p,) = read_cases([ROWS[0], *again], held_out=0.0).cases
    assert (p.chosen, p.rejected, p.extras) == ([" a", " b"], [" b", " c", " d"], {"topic": "x"})
    assert p.reference == [" a", " b", " c", " d"]  # each once
    (q,) = read_cases([ROWS[1]], held_out=0.0).cases
    assert (q.chosen, q.rejected) == (["d", "e"], ["c", "f"])


def test_ties_and_the_limit_are_counted() -> None:
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(50)]
    tie = {"prompt": "t", "chosen": "a", "rejected": "b", "preference": 0.5}
    found = read_cases([*rows, tie], held_out=0.5, limit=20)
    assert (found.tied, found.left_out, len(found.cases)) == (1, 30, 20)
    assert found.notes == ["1 rows are ties and have no chosen answer", "30 prompts are left out: there are more than "
                           "max_prompts"]  # fmt: skip
    # The limit does not choose by the hash that holds out: about half of what is left is held out, and not all of it.
    assert 4 <= sum(c.held_out for c in found.cases) <= 16
    with pytest.raises(DataError, match="all are ties"):
        read_cases([tie], held_out=0.0)


def test_a_prompt_stays_on_its_side_whatever_else_is_there() -> None:
    rows = [{"prompt": f"prompt {i}", "chosen": "a", "rejected": "b"} for i in range(400)]
    sides = {str(c.prompt): c.held_out for c in read_cases(rows, held_out=0.2).cases}
    fewer = {str(c.prompt): c.held_out for c in read_cases(rows[::3], held_out=0.2).cases}
    assert fewer.items() <= sides.items()
    assert 50 < Counter(sides.values())[True] < 110
    assert all(0 <= prompt_share(prompt) < 1 for prompt in sides)
    own = read_cases(rows[:3], held_out=0.0, own_held_out=[("<rows>", 2)]).cases
    assert [c.held_out for c in own] == [False, True, False]


def test_rows_that_policies_could_not_read_are_refused() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "tools": [{"type": "function"}]}
    with pytest.raises(DataError, match="tools") as caught:
        read_cases([row], held_out=0.0)
    assert caught.value.code == "PL204"


def test_answers_have_the_form_of_the_data() -> None:
    assert as_answer("Blue.", " Red.") == " Blue."
    assert as_answer(" Blue.", "Red.") == "Blue."
    assert as_answer("\nBlue. ", "\n\nRed.") == "\n\nBlue. "
    assert as_answer(" Blue.", [Message(role="assistant", content="Red.")]) == [
        Message(role="assistant", content=" Blue.")
    ]
    assert answer_key(" a b ") == answer_key("a b")
    assert answer_key("a b") != answer_key("a  b")
