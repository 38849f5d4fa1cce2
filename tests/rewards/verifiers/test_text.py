"""Verifiers of text: exact, choice, patterns, tags, length, repetition, language."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from plaudit.data.turns import parse_turns
from plaudit.errors import ConfigError
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.registry import reward_class
from plaudit.rewards.verifiers.choice import chosen
from plaudit.rewards.verifiers.exact import word_f1
from plaudit.rewards.verifiers.reading import boxes, tagged


def score(kind: str, completion: str, row: dict[str, Any] | None = None, **options: Any) -> RewardResult:
    cls = reward_class(kind)
    tokens = options.pop("tokens_of_answer", None)
    return cls(cls.Options(**options)).score([Sample("q", completion, row or {}, tokens)])[0]


def value(*args: Any, **options: Any) -> float | str:
    result = score(*args, **options)
    return result.error.kind if result.error is not None else float(result.value or 0)


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("<think>no</think> yes", " yes"),
        ("no</think>yes", "yes"),
        ("<think>never ends yes", ""),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a</think>b<think>c", ""),
        ("plain", "plain"),
        ("<Thinking>a</THINKING>b", "b"),
        ("[THINK]no[/THINK]yes", "yes"),
        ("[THINK]never ends yes", ""),
        ("a [think] in the text", "a [think] in the text"),
        ("◁think▷no◁/think▷yes", "yes"),
        ("◁think▷never ends yes", ""),
        ("<seed:think>no</seed:think>yes", "yes"),
        ("<seed:think>never ends yes", ""),
        ("<thought>no</thought>yes", "yes"),
        ("<thought>\nnever ends yes", ""),
        ("<|START_THINKING|>no<|END_THINKING|>yes", "yes"),
        ("<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>yes<|return|>", "yes"),
        ("<|channel|>analysis<|message|>no<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        ("<|channel|>final<|message|>yes", "yes"),
        ("<|channel|>analysis<|message|>never ends yes", ""),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>commentary to=f<|message|>b<|call|>", ""),
        ("<|channel|>final<|message|>a<|end|><|channel|>analysis<|message|>b", ""),
    ],
)
def test_what_is_behind_the_thought(text: str, final: str) -> None:
    assert Sample("q", text).final == final


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>\n", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<seed:think>", "</seed:think>"),
        ("<|channel|>analysis<|message|>", "<|end|><|channel|>final<|message|>"),
    ],
)
def test_a_thought_that_the_prompt_opened(opening: str, closing: str) -> None:
    prompt = f"q<|start|>assistant\n{opening}"
    assert Sample(prompt, "never ends yes").final == ""
    assert Sample(prompt, f"no{closing}yes").final == "yes"


@pytest.mark.parametrize(
    "part", ["<|channel|>", "<|channel|>analysis", "<|channel|>a<|constrain|>", "<think", "[THINK"]
)
def test_marks_without_end_are_read_in_linear_time(part: str) -> None:
    start = time.perf_counter()
    assert Sample(part * 20_000, part * 20_000).final
    assert time.perf_counter() - start < 2


def test_the_text_of_a_chat_is_the_assistant_s() -> None:
    turns = parse_turns([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "x"}])
    assert Sample("q", turns).text == "a"


def test_boxes_and_tags() -> None:
    assert boxes(r"\boxed{\frac{1}{2}} and \boxed{ 3 } and \fbox{4} and \boxed{5") == [r"\frac{1}{2}", "3", "4"]
    assert boxes(r"\boxed{\{1\}}") == [r"\{1\}"]
    assert tagged("<answer> 4 </answer>", "answer") == "4"
    for text in ("<answer>4", "<answer>4</answer><answer>5</answer>", "</answer>4<answer>", ""):
        assert tagged(text, "answer") is None


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Paris", "paris", 1.0),
        (" the Paris. ", "Paris", 1.0),
        ("Paris or London", "Paris", 0.0),
        ("It is Paris", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("-5", "5", 0.0),
        ("0.5", "0.6", 0.0),
        ("٥", "5", 0.0),
        ("５", "5", 0.0),
        ("+", "+", 1.0),
        ("+", "-", 0.0),
        ("anything", ["x", "anything"], 1.0),
        ("5", 5, 1.0),
        ("x", "", "bad_row"),
        ("x", [], "bad_row"),
        ("x", ["x", ""], "bad_row"),
        ("x", None, "bad_row"),
    ],
)
def test_exact(answer: str, reference: Any, expected: float | str) -> None:
    assert value("exact", answer, {"answer": reference}) == expected


def test_exact_modes() -> None:
    assert value("exact", "a  b", {"answer": "a b"}, normalise="space") == 1
    assert value("exact", "A b", {"answer": "a b"}, normalise="space") == 0
    assert value("exact", "a  b", {"answer": "a b"}, normalise="none") == 0
    assert value("exact", "it is <answer>4</answer>", {"gold": "4"}, tag="answer", column="gold") == 1
    assert value("exact", "<answer>4</answer><answer>5</answer>", {"answer": "4"}, tag="answer") == 0


@pytest.mark.parametrize("kind", ["exact", "choice"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>B</answer>", 1),
        ("<think>C</think>\n<answer> B </answer>\n", 1),
        ("It is C, or so. <answer>B</answer>", 1),
        ("<answer>B</answer> <answer>B</answer>", 1),
        ("<answer>B</answer> <answer>C</answer>", 0),
        ("<answer>C</answer> <answer>B</answer>", 0),
        ("<answer>B</answer> <answer>C", 0),
        ("<answer>B</answer> C</answer>", 0),
        ("<answer><answer>B</answer></answer>", 0),
        ("B <answer></answer>", 0),
        ("<answer></answer> <answer>B</answer>", 0),
        ("<think><answer>B</answer></think>C", 0),
        ("<think><answer>B</answer>", 0),
        ("<answer>B", 0),
        ("B</answer>", 0),
    ],
)
def test_the_answer_element_is_read_without_being_asked_for(kind: str, text: str, expected: float) -> None:
    assert value(kind, text, {"answer": "B"}) == expected
    assert value(kind, text, {"answer": "<answer>B</answer>"}) == expected


def test_what_the_format_reward_asks_for_is_what_exact_reads() -> None:
    text = "<think>3 + 4</think><answer>7</answer>"
    assert value("format", text) == 1
    assert value("exact", text, {"answer": "7"}) == 1


def test_a_reference_in_an_answer_element() -> None:
    assert value("exact", "42", {"answer": "<answer>42</answer>"}) == 1
    assert value("exact", "42", {"answer": "<think>6 · 7</think>\n<answer>42</answer>"}) == 1
    assert value("exact", "<answer>42</answer>", {"answer": 42}) == 1
    for reference in ("<answer> </answer>", "<answer>41</answer> <answer>42</answer>"):
        assert value("exact", "", {"answer": reference}) == "bad_row"


def test_f1_of_words() -> None:
    """Said 3 words, wanted 2, shared 1: precision 1/3, recall 1/2, F1 = 2·1/5."""
    assert word_f1("big red car", "red house") == pytest.approx(0.4)
    assert word_f1("red red red", "red house") == pytest.approx(2 / 5)  # a word said three times is shared once
    assert word_f1("the a an", "house") == 0
    assert value("exact", "red big car", {"answer": ["red house", "red car"]}, partial=True) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B. because", "B"),
        ("B) 3", "B"),
        ("The answer is (B).", "B"),
        ("the answer is: b", "B"),
        ("**Answer: B**", "B"),
        ("Answer: B. The others are smaller, as A is 1.", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        ("First I thought the answer is A. No: the answer is B.", "B"),
        ("A train leaves at noon.", ""),
        ("I think so.", ""),
        ("Because of it.", ""),
        ("The answer is B or C.", "BC"),
        ("The answer is A or B.", "AB"),
        ("The answer is (A), (B), (C).", "ABC"),
        ("A, B, C, D", "ABCD"),
        ("B or C", "BC"),
        (r"\boxed{A} \boxed{B}", "AB"),
        (r"\boxed{A, B}", "AB"),
        (r"\boxed{}", ""),
        ("The answer is Z.", ""),
        ("", ""),
        ("The answer is (В).", ""),  # a Cyrillic letter
        ("$B$", "B"),
        ("$B$.", "B"),
        (r"\(B\)", "B"),
        (r"$\text{B}$", "B"),
        (r"$\boxed{B}$", "B"),
        ("The answer is $B$.", "B"),
        (r"The answer is \(\text{B}\).", "B"),
        ("The answer is $B$ or $C$.", "BC"),
        ("$A$ or $B$", "AB"),
        ("$B", "B"),
        ("So, B is the correct answer.", "B"),
        ("Thus B is correct.", "B"),
        ("Thus **B** is correct.", "B"),
        ("Hence (B) is right, because C is smaller.", "B"),
        ("B is the correct answer I think.", "B"),
        ("A is too small. So B is the best choice.", "B"),
        ("Therefore A is correct.", "A"),
        ("B is correct, A is wrong.", "B"),
        ("So B or C is correct.", "BC"),
        ("A, B and C are correct.", "ABC"),
        ("B is correct, and so is C.", "BC"),
        ("B is correct. C is correct.", "BC"),
        ("The answer is (C). For x alone B is correct.", "C"),
        ("It is not true that B is correct. So C is correct.", "C"),
        ("If B is correct, I am happy.", ""),
        ("Is it that B is correct?", ""),
        ("B is right of C on the line.", ""),
        ("A B is correct.", "B"),
        ("Z is correct.", ""),
    ],
)
def test_the_letters_that_an_answer_settles_on(text: str, letters: str) -> None:
    assert "".join(sorted(chosen(text, 4))) == letters


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        ({"answer": "B"}, {}, 1.0),
        ({"answer": "(b)"}, {}, 1.0),
        ({"answer": 1}, {}, 1.0),
        ({"answer": 2}, {"numbers_from": 1}, 1.0),
        ({"answer": 1.0}, {}, 1.0),
        ({"answer": "1.0"}, {}, 1.0),
        ({"answer": 1.5}, {}, "bad_row"),
        ({"answer": float("nan")}, {}, "bad_row"),
        ({"answer": "$B$"}, {}, 1.0),
        ({"answer": "<answer>B</answer>"}, {}, 1.0),
        ({"answer": "<answer>B</answer><answer>C</answer>"}, {}, "bad_row"),
        ({"answer": "C"}, {}, 0.0),
        ({"answer": "Z"}, {}, "bad_row"),
        ({"answer": "D", "choices": ["a", "b", "c"]}, {}, "bad_row"),
        ({"answer": 3, "choices": ["a", "b", "c"]}, {}, "bad_row"),
        ({"answer": "B", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, {}, 1.0),
        ({"answer": ""}, {}, "bad_row"),
        ({"answer": "B", "choices": 1}, {}, "bad_row"),
        ({"key": "B"}, {"column": "key", "choices": 2}, 1.0),
    ],
)
def test_choice(row: dict[str, Any], options: dict[str, Any], expected: float | str) -> None:
    assert value("choice", "The answer is B.", row, **options) == expected


@pytest.mark.parametrize(
    "part", ["A, ", "A is ", "$", "\\text{", "(*", "A or ", "answer ", "the answer is $", "A is correct and "]
)
def test_letters_without_end_are_read_quickly(part: str) -> None:
    start = time.perf_counter()
    chosen(part * (200_000 // len(part)), 4)
    assert time.perf_counter() - start < 2


def test_regex() -> None:
    assert value("regex", "<think>42</think>x", pattern="42") == 0
    assert value("regex", "<think>42</think>x", pattern="42", over="all") == 1
    assert value("regex", "a 42", pattern=r"\d+", match="whole") == 0
    assert value("regex", "sorry", pattern="SORRY", forbid=True, ignore_case=True) == 0
    with pytest.raises(ConfigError, match="no regular expression"):
        score("regex", "x", pattern="(")


def test_a_pattern_that_takes_for_ever_is_no_match() -> None:
    """The text does it, so that leaving its group out would be the text's choice."""
    slow = score("regex", "a" * 60 + "ed", pattern="(?:a|a|aa)+d", seconds=0.2)
    assert (slow.value, slow.note) == (0, "the pattern took more than 0.2 s")
    assert value("regex", "a" * 60 + "d", pattern="(?:a|a|aa)+d", seconds=5) == 1


@pytest.mark.parametrize(
    ("text", "strict", "share"),
    [
        ("<think>a</think><answer>b</answer>", 1, 1),
        ("\n<think>a</think>\n\n<answer>b</answer> \n", 1, 1),
        ("<think>a</think><answer>b</answer> bye", 0, 4 / 5),
        ("<think>a</think><answer></answer>", 0, 4 / 5),
        ("<answer>b</answer><think>a</think>", 0, 4 / 5),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 2 / 5),
        ("nothing", 0, 0),
    ],
)
def test_format(text: str, strict: float, share: float) -> None:
    assert value("format", text) == strict
    assert value("format", text, partial=True) == pytest.approx(share)


def test_format_with_text_outside_and_a_tag_that_the_prompt_opened() -> None:
    assert value("format", "so <answer>b</answer> bye", tags=("answer",), outside="anything") == 1
    cls = reward_class("format")
    opened = Sample("question\n<think>\n", "a</think><answer>b</answer>")
    assert cls().score([opened])[0].value == 1
    with pytest.raises(ValidationError, match="without brackets"):
        cls.Options(tags=("<think>",))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0), (25, 0.5), (30, 0.0), (99, 0.0)]
)
def test_length_falls_over_the_slack(tokens: int, expected: float) -> None:
    assert value("length", "x", tokens_of_answer=tokens, least=10, most=20, slack=10) == expected


def test_length_units_and_refusals() -> None:
    assert value("length", "a b c", unit="words", most=3) == 1
    assert value("length", "a b c d", unit="words", most=3) == 0
    assert value("length", "abcd", unit="characters", most=3) == 0
    assert value("length", "abcd", most=3) == "bad_row"  # nobody counted tokens
    for options in ({}, {"least": 5, "most": 4}):
        with pytest.raises(ValidationError):
            reward_class("length").Options(**options)


def test_repetition() -> None:
    """'a b a b a': the pairs ab, ba, ab, ba; two of four are new."""
    assert value("repetition", "a b a b a", ngram=2) == 0.5
    assert value("repetition", "all words are new here") == 1
    assert value("repetition", "") == 1
    assert float(value("repetition", "again " * 300)) < 0.01
    assert value("repetition", "啊啊啊啊", unit="characters", ngram=1) == 0.25


def test_language() -> None:
    german = "Das Wetter ist heute schön, und wir gehen zusammen in den Wald."
    assert value("language", german, language="de") == 1
    assert value("language", german, language="en") == 0
    assert value("language", f"```\n{german}\n```", language="de") == 0  # too few letters outside of the code
    assert value("language", "Ja", language="de") == 0
    assert float(value("language", german, language="de", soft=True)) > 0.5
    with pytest.raises(ConfigError, match="'xx' is not known"):
        score("language", german, language="xx")
