"""The known reward, by hand."""

from __future__ import annotations

import math

import pytest
from rule import preference_probability, reward

QUESTION = "What is the nearest galaxy to the Milky Way?"


def test_a_short_complete_answer_on_the_question_gets_everything() -> None:
    assert reward(QUESTION, "The nearest large galaxy to ours is Andromeda.", True) == pytest.approx(2.5)


def test_each_part_counts_alone() -> None:
    assert reward(QUESTION, "The nearest large galaxy to ours is Andromeda.", False) == pytest.approx(1.5)  # cut off
    assert reward(QUESTION, "The nearest large galaxy to ours is called", True) == pytest.approx(1.5)  # no full stop
    assert reward(QUESTION, "I have no idea what that could be.", True) == pytest.approx(2.0)  # off the question
    assert reward(QUESTION, "Andromeda.", True) == pytest.approx(1.0)  # one word: complete, but no sentence


def test_brevity_is_full_from_8_to_18_words_and_nothing_at_2_and_36() -> None:
    words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(40)]
    brevity = [reward("zz", " ".join(words[:n]), False) for n in range(41)]
    assert brevity[:3] == [0, 0, 0]
    assert brevity[5] == pytest.approx(0.5)
    assert brevity[8:19] == [1] * 11
    assert brevity[27] == pytest.approx(0.5)
    assert brevity[36:] == [0] * 5


def test_repetition_costs_its_share() -> None:
    # a b c a b c a: the triples abc bca cab abc bca, two of five are repeats
    assert reward("zz", "a b c a b c a", False) == pytest.approx(5 / 6 - 2 / 5)


def test_function_words_do_not_make_an_answer_relevant() -> None:
    assert reward("What would you like?", "You would like what there is, some of each.", True) == pytest.approx(2.0)


def test_preference_probability_is_bradley_terry() -> None:
    assert preference_probability(0, 2) == 0.5
    assert preference_probability(1.0, 2) == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    assert preference_probability(-0.7, 3) == pytest.approx(1 - preference_probability(0.7, 3))
