"""Where answers and references are found, whose fault it is, options, and numbers in all their spellings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.data.turns import Message
from plaudit.errors import ConfigError
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.verifiers.math import MathReward
from plaudit.rewards.verifiers.math import reward as module

# An integral that sympy works on for minutes. Against a number it would be no answer at once.
SLOW = r"\boxed{\int e^{x^2} \sin(x^3) \log(x) dx}"


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    made = MathReward(MathReward.Options(workers=2, cpu_seconds=1))
    yield made
    made.close()


def one(reward: MathReward, answer: str, row: dict[str, Any]) -> RewardResult:
    [result] = reward.score([Sample("question", answer, row)])
    return result


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": 72}, "72"),
        ({"answer": 0.5}, "1/2"),
        ({"answer": "Natalia sold 48/2 = 24 clips.\n48+24 = 72\n#### 72"}, "72"),
        ({"answer": "He pays $1,200.\n#### 1,200"}, "1200"),
        ({"solution": r"We get $x=3$, so \boxed{\frac{3}{4}}."}, "3/4"),
        ({"solution": r"Not \boxed{1}, but \boxed{2}."}, "2"),
        ({"ground_truth": "7"}, "7"),
        ({"final_answer": "7"}, "7"),
        ({"target": "7"}, "7"),
        ({"label": "7"}, "7"),
        ({"answer": None, "solution": "7"}, "7"),
        ({"answer": "7", "solution": r"\boxed{8}"}, "7"),
        ({"answer": ["7", "8"]}, "8"),
        ({"answer": [r"\log_2 8", r"e^{x}"]}, r"\boxed{3}"),
        ({"answer": "Long talk.\nThe answer is 7."}, "7"),
    ],
)
def test_where_references_are(reward: MathReward, row: dict[str, Any], answer: str) -> None:
    assert one(reward, answer, row).value == 1


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"answer": ""},
        {"answer": "  "},
        {"answer": "$$"},
        {"answer": None},
        {"answer": []},
        {"answer": True},
        {"answer": {"a": 1}},
        {"answer": r"\boxed{}"},
        {"answer": r"\boxed{5"},
        {"answer": r"\boxed{\frac{1}{2}"},
        {"answer": r"\frac{1}{"},
        {"answer": "2^{"},
        {"answer": "(1, 2"},
        {"answer": "nan"},
        {"answer": float("nan")},
        {"answer": "9" * 400},
        {"answer": "x" * 2000},
        {"answer": "٥"},
        {"answer": r"\frac{0}{0}"},
    ],
)
@pytest.mark.parametrize("same", [False, True])
def test_a_reference_that_says_nothing_is_a_bad_row(reward: MathReward, row: dict[str, Any], same: bool) -> None:
    """Whatever is answered: also the reference itself."""
    answer = rf"\boxed{{{row.get('answer')}}}" if same else r"\boxed{5}"
    result = one(reward, answer, row)
    if result.error is None:  # an answer that is none needs no reference
        assert same
        assert result.value == 0
    else:
        assert result.error.kind == "bad_row"
        assert "answer" in result.error.message


def test_a_column_that_is_named_is_the_only_one() -> None:
    reward = MathReward(MathReward.Options(column="gold"))
    assert reward.columns == ("gold",)
    result = one(reward, "5", {"answer": "5"})
    assert result.error is not None
    assert "'gold'" in result.error.message
    assert one(reward, "5", {"gold": "5"}).value == 1


def test_notes_say_what_was_read(reward: MathReward) -> None:
    assert one(reward, r"\boxed{\dfrac12}", {"answer": "3"}).note == r"read '\\frac{1}{2}', expected '3'"
    assert one(reward, r"\boxed{5", {"answer": "3"}).note == "the box is cut off"
    assert one(reward, "Well,\nI do not know", {"answer": "3"}).note.startswith("no \\boxed")
    assert "read" not in one(reward, "3", {"answer": "3"}).note


def test_messages(reward: MathReward) -> None:
    chat = [Message(role="user", content="1+1?"), Message(role="assistant", content=r"It is \boxed{2}.")]
    [result] = reward.score([Sample("q", chat, {"answer": "2"})])
    assert result.value == 1


@pytest.mark.parametrize(
    ("extract", "answer", "value"),
    [
        ("auto", r"\boxed{5}", 1),
        ("auto", "The answer is 4. The answer is 5.", 1),
        ("auto", "The answer is 5. The answer is 4.", 0),
        ("auto", "So it has\nto be 5.", 0),
        ("boxed", r"\boxed{5}", 1),
        ("boxed", "The answer is 5.", 0),
        ("boxed", "#### 5", 0),
        ("last", "So it has\nto be 5.", 1),
        ("last", "So it has\nto be $x = 5$, clearly.", 1),
        ("last", "It is 5, not\n4", 0),
        ("last", r"\boxed{4} and not 5", 0),
    ],
)
def test_ways_to_extract(extract: Any, answer: str, value: int) -> None:
    assert one(MathReward(MathReward.Options(extract=extract)), answer, {"answer": "5"}).value == value


def test_the_last_box_where_that_is_asked_for() -> None:
    text = r"First \boxed{4}, then \boxed{5}."
    assert one(MathReward(), text, {"answer": "5"}).value == 0
    assert one(MathReward(), text, {"answer": "4, 5"}).value == 1
    assert one(MathReward(MathReward.Options(boxed="last")), text, {"answer": "5"}).value == 1


def test_digits_of_decimals() -> None:
    assert one(MathReward(), "0.333", {"answer": "1/3"}).value == 0
    three = MathReward(MathReward.Options(float_digits=3))
    assert one(three, "0.333", {"answer": "1/3"}).value == 1
    assert one(three, "0.334", {"answer": "1/3"}).value == 0
    assert one(three, "0.33", {"answer": "1/3"}).value == 0


def test_what_an_answer_does_to_itself_is_wrong_and_undecided(reward: MathReward) -> None:
    results = reward.score(
        [Sample("q", a, {"answer": r"\sqrt{5}"}) for a in (SLOW, r"\boxed{\sin 0 + \sqrt{5}}", SLOW)]
    )
    assert [r.value for r in results] == [0, 1, 0]
    assert [dict(r.parts) for r in results] == [{"undecided": 1}, {}, {"undecided": 1}]
    assert "processor time" in results[0].note


def test_memory_is_the_answers_own_doing_too() -> None:
    reward = MathReward(MathReward.Options(workers=1, memory_gib=0.004))
    result = one(reward, r"\boxed{\sin 0 + (2^{99999})^{9999}}", {"answer": "5"})
    reward.close()
    assert (result.value, dict(result.parts)) == (0, {"undecided": 1})
    assert "memory" in result.note


def test_the_clock_is_not_the_answers_fault() -> None:
    reward = MathReward(MathReward.Options(workers=1, wall_seconds=0.2, cpu_seconds=30))
    result = one(reward, SLOW, {"answer": r"\sqrt{5}"})
    assert result.value is None
    assert result.error is not None
    assert result.error.kind == "timeout"
    assert result.error.can_pass
    reward.close()


def test_off_the_main_thread_and_from_several_at_once(reward: MathReward) -> None:
    """Where a timer of signals raises, and every answer was silently wrong."""
    found: dict[int, list[float | None]] = {}

    def work(number: int) -> None:
        rows = [(rf"\boxed{{\sin^2({number}x) + {k}}}", rf"{k + 1} - \cos^2({number}x)") for k in range(6)]
        rows[number % 6] = (r"\boxed{\cos x}", r"\sin x")
        found[number] = [r.value for r in reward.score([Sample("q", a, {"answer": g}) for a, g in rows])]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [float(k != number % 6) for k in range(6)] for number in range(4)}


def test_the_same_again_after_close(reward: MathReward) -> None:
    sample = Sample("q", r"\boxed{\log_2 8}", {"answer": r"\log_3 27"})
    assert reward.score([sample])[0].value == 1
    reward.close()
    assert reward.score([sample])[0].value == 1


def test_no_samples(reward: MathReward) -> None:
    assert reward.score([]) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("sympy", "a_package_that_nobody_has"))
    with pytest.raises(ConfigError, match="a_package_that_nobody_has") as caught:
        MathReward()
    assert caught.value.code == "PL103"


def test_options_are_part_of_the_fingerprint() -> None:
    assert MathReward().pure
    assert MathReward().fingerprint() == MathReward().fingerprint()
    assert MathReward().fingerprint() != MathReward(MathReward.Options(column="answer")).fingerprint()
    assert MathReward().fingerprint() != MathReward(MathReward.Options(float_digits=4)).fingerprint()


def spellings(value: Fraction) -> list[str]:
    """Ways to write a fraction, all exact."""
    a, b = value.numerator, value.denominator
    sign, size = "-" if a < 0 else "", abs(a)
    found = [
        f"{a}/{b}",
        rf"\frac{{{a}}}{{{b}}}",
        rf"{sign}\dfrac{{{size}}}{{{b}}}",
        rf"\frac{{{-a}}}{{{-b}}}",
        rf"{sign}\frac{{{3 * size}}}{{{3 * b}}}",
        rf"x = {a}/{b}",
        rf"{sign}\left(\frac{{{size}}}{{{b}}}\right)",
        rf"{sign}\frac{{{size}}}{{{b}}}\text{{ cm}}",
    ]
    if b == 1:
        found += [str(a), f"{a:,}", f"{a}.0", f"{a}.", f"{a}\\%", rf"\${a}", f"{a:,}".replace(",", "{,}")]
    if size > b > 1:
        found.append(rf"{sign}{size // b}\frac{{{size % b}}}{{{b}}}")
    if 10**6 % b == 0:
        found.append(f"{float(value):.6f}")
    return found


VALUES = st.builds(Fraction, st.integers(-(10**5), 10**5), st.integers(1, 200))


@settings(max_examples=150, deadline=None)
@given(value=VALUES, data=st.data())
def test_a_number_is_itself_in_every_spelling(value: Fraction, data: st.DataObject) -> None:
    gold, answer = (data.draw(st.sampled_from(spellings(value))) for _ in range(2))
    result = one(MathReward(), rf"So it is $\boxed{{{answer}}}$.", {"answer": gold})
    assert result.value == 1, (gold, answer, result)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, other=VALUES, data=st.data())
def test_different_numbers_differ_in_every_spelling(value: Fraction, other: Fraction, data: st.DataObject) -> None:
    # Hundredths may be written as percent, and the sign for it left out.
    if len({value, other, value * 100, other * 100}) < 4:
        return
    gold, answer = (data.draw(st.sampled_from(spellings(v))) for v in (value, other))
    result = one(MathReward(), rf"So it is $\boxed{{{answer}}}$.", {"answer": gold})
    assert result.value == 0, (gold, answer, result)


@pytest.mark.parametrize("text", ["<\x00", "5\x00", "\x00=5", "\\cup\x00", "5<\x00<\x00", "5\x7f"])
def test_control_characters_are_no_answer(text: str) -> None:
    for answer in (text, rf"\boxed{{{text}}}"):
        found = one(MathReward(), answer, {"answer": "5"})
        assert found.value == 0, found
    assert one(MathReward(), "\x00 so \\boxed{5}", {"answer": "5"}).value == 1


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60), gold=st.sampled_from(["5", r"\frac12", "(1,2)", "x+1", "B"]))
def test_no_text_breaks_the_reading(text: str, gold: str) -> None:
    for answer in (text, rf"\boxed{{{text}}}"):
        found = MathReward().decided(Sample("q", answer, {"answer": gold}))
        assert isinstance(found, list) or found.error is None


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="123xyπ+-*/^_=<>(){}[]|,.;:!%$ \\abfrcsqtopme", max_size=50))
def test_no_formula_breaks_the_reading(text: str) -> None:
    for gold in ("5", "x^2", r"\{1,2\}", "x=5"):
        found = MathReward().decided(Sample("q", rf"\boxed{{{text}}}", {"answer": gold}))
        assert isinstance(found, list) or found.error is None
