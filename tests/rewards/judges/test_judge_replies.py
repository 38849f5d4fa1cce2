"""What a reply is worth: by hand, in text and in probabilities."""

from __future__ import annotations

import math

import pytest

from plaudit.rewards.contract import Failure
from plaudit.rewards.judges.backend import Reply
from plaudit.rewards.judges.choices import Position, option_logprobs
from plaudit.rewards.judges.verdicts import preference_of, score_of

SCALE = (1, 10)
LABELS = [str(n) for n in range(1, 11)]


def position(text: str, probabilities: dict[str, float]) -> Position:
    return Position(text, [(t, math.log(p)) for t, p in probabilities.items()])


def chances(positions: list[Position], options: list[str]) -> dict[str, float]:
    return {o: math.exp(v) for o, v in option_logprobs(positions, options).items() if v > -math.inf}


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7", 7),
        (" 7.\n", 7),
        ("**7**", 7),
        ("[[7]]", 7),
        ("[[ 7.5 ]]", 7.5),
        ("Score: 7", 7),
        ("It is fine.\n\n**Score:** 7/10", 7),
        ("Rating: 10.", 10),
        ("My score is 3 because it is wrong.", 3),
        ("[[7]], as I said: [[7]]. Score: 7/10", 7),
        ("<think>Score: 2? No.</think>[[9]]", 9),
        ("[THINK]Score: 2? No.[/THINK][[9]]", 9),
        ("<|channel|>analysis<|message|>[[2]]?<|end|><|channel|>final<|message|>[[9]]", 9),
    ],
)
def test_the_one_score_of_a_text(text: str, score: float) -> None:
    assert score_of(Reply(text), SCALE, 0.5) == (score, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot judge this.",
        "[[7]] or [[8]]",
        "Score: 7 ... Score: 8",
        "Score: 3, so [[10]]",
        "[[11]]",
        "[[0]]",
        "-7",
        "Score: 7/100",
        "[[seven]]",
        "[[nan]]",
        "7 of 10 points are about 70%",
        "Score: A",
        "There are 7 mistakes.",
    ],
)
def test_a_text_without_exactly_one_score(text: str) -> None:
    found = score_of(Reply(text), SCALE, 0.5)
    assert isinstance(found, Failure)
    assert found.kind == "bad_reply"


@pytest.mark.parametrize(
    ("text", "p"), [("A", 1.0), ("[[B]]", 0.0), ("C", 0.5), ("Both are good. Verdict: A", 1.0), ("**[[C]]**", 0.5)]
)
def test_the_one_preference_of_a_text(text: str, p: float) -> None:
    assert preference_of(Reply(text), 0.5) == (p, None)


@pytest.mark.parametrize("text", ["", "D", "[[A]] or [[B]]", "The verdict is a tie.", "A or B", "Answer", "[[7]]"])
def test_a_text_without_exactly_one_preference(text: str) -> None:
    found = preference_of(Reply(text), 0.5)
    assert isinstance(found, Failure)
    assert found.kind == "bad_reply"


def test_the_expectation_over_labels_by_hand() -> None:
    options = dict.fromkeys(LABELS, -math.inf) | {"2": math.log(0.1), "5": math.log(0.3), "8": math.log(0.4)}
    score, mass = score_of(Reply("8", options), SCALE, 0.5)  # type: ignore[misc]
    assert mass == pytest.approx(0.8)
    assert score == pytest.approx((2 * 0.1 + 5 * 0.3 + 8 * 0.4) / 0.8)
    assert isinstance(score_of(Reply("8", options), SCALE, 0.81), Failure)


def test_a_tie_counts_half() -> None:
    options = {"A": math.log(0.3), "B": math.log(0.4), "C": math.log(0.2)}
    p, mass = preference_of(Reply("B", options), 0.5)  # type: ignore[misc]
    assert (p, mass) == (pytest.approx((0.3 + 0.1) / 0.9), pytest.approx(0.9))


@pytest.mark.parametrize("logprob", [-math.inf, math.nan])
def test_nothing_on_the_labels_is_no_verdict_at_any_threshold(logprob: float) -> None:
    assert isinstance(preference_of(Reply("", dict.fromkeys("ABC", logprob)), 0.0), Failure)


def test_variants_of_a_label_are_added_up() -> None:
    found = chances([position("7", {"7": 0.3, " 7": 0.2, "[[7": 0.1, "8": 0.1, "seven": 0.2})], LABELS)
    assert found == {"7": pytest.approx(0.6), "8": pytest.approx(0.1)}


@pytest.mark.parametrize(
    "before", [["[["], ["\n", "**"], ["Score", ":", " "], ["<think>", "10", "?", "</think>", "\n"]]
)
def test_formatting_before_the_verdict_is_passed_over(before: list[str]) -> None:
    lead = [position(t, {t: 0.9}) for t in before]
    assert chances([*lead, position("4", {"4": 0.7, "5": 0.3})], LABELS) == pytest.approx({"4": 0.7, "5": 0.3})


def test_a_reply_that_is_no_verdict_has_its_first_position() -> None:
    found = chances([position("Well", {"Well": 0.8, "4": 0.1}), position("4", {"4": 1.0})], LABELS)
    assert found == {"4": pytest.approx(0.1)}
    assert chances([], LABELS) == {}


def test_ten_is_one_token_where_the_tokenizer_has_such() -> None:
    found = chances([position("1", {"1": 0.5, "10": 0.3, "2": 0.1})], LABELS)
    assert found == {"1": pytest.approx(0.5), "10": pytest.approx(0.3), "2": pytest.approx(0.1)}
    found = chances([position("9", {"9": 0.6, "1": 0.3, "10": 0.1})], LABELS)  # also where the reply was another
    assert found == {"9": pytest.approx(0.6), "1": pytest.approx(0.3), "10": pytest.approx(0.1)}
    # another number of two digits shows the same
    assert chances([position("1", {"1": 0.5, "12": 0.1})], LABELS) == {"1": pytest.approx(0.5)}


def test_ten_in_two_tokens_is_told_from_one_by_the_next_position() -> None:
    reply = [position("1", {"1": 0.6, "9": 0.4}), position("0", {"0": 0.75, "<|end|>": 0.2, "5": 0.05})]
    found = chances(reply, LABELS)
    assert found == {"1": pytest.approx(0.6 * 0.25), "10": pytest.approx(0.6 * 0.75), "9": pytest.approx(0.4)}


def test_what_nothing_decides_counts_for_no_option() -> None:
    found = chances([position("9", {"9": 0.7, "1": 0.3}), position("<|end|>", {"<|end|>": 1.0})], LABELS)
    assert found == {"9": pytest.approx(0.7)}
    # the reply ended: it was "1"
    assert chances([position("1", {"1": 0.8, "2": 0.2})], LABELS) == pytest.approx({"1": 0.8, "2": 0.2})


def test_three_digits_of_a_tokenizer_that_has_single_ones() -> None:
    labels = [str(n) for n in range(101)]
    reply = [position("1", {"1": 0.9}), position("0", {"0": 0.8, "5": 0.1}), position("0", {"0": 0.5})]
    found = chances(reply, labels)
    expected = {"100": 0.9 * 0.8 * 0.5, "10": 0.9 * 0.8 * 0.5, "15": 0.9 * 0.1, "1": 0.9 * 0.1}
    assert found == pytest.approx(expected)
