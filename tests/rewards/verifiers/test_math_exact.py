"""Exact arithmetic: by hand, against numbers, and its limits."""

from __future__ import annotations

import cmath
import math
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.rewards.verifiers.math.compare import exactly
from plaudit.rewards.verifiers.math.exact import Exact, TooBig, Unsupported, number, square_root, symbol
from plaudit.rewards.verifiers.math.expression import parse
from plaudit.rewards.verifiers.math.notation import normalise, squeezed


def value(text: str) -> Exact:
    return parse(normalise(text)).value


def approximately(of: Exact, point: dict[str, float]) -> complex:
    """The value at a point, in floating point."""

    def total(part: Any) -> complex:
        result = 0j
        for (radicand, powers), c in part.items():
            term = complex(c.numerator / c.denominator) * cmath.sqrt(radicand)
            for name, k in powers:
                term *= point[name] ** float(k)
            result += term
        return result

    return total(of.upper) / total(of.lower)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/2 + 1/3", Fraction(5, 6)),
        ("2^{-3}", Fraction(1, 8)),
        ("2^10", Fraction(1024)),
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        ("2 - - 3", Fraction(5)),
        ("6/2/3", Fraction(1)),
        (r"6 \div 2 \times 3", Fraction(9)),
        (r"3\frac12", Fraction(7, 2)),
        (r"-3\frac12", Fraction(-7, 2)),
        (r"3\cdot\frac12", Fraction(3, 2)),
        (r"\sqrt{2}\sqrt{8}", Fraction(4)),
        (r"\sqrt{-4}\sqrt{-9}", Fraction(-6)),
        (r"(1+i)^2(1-i)^2", Fraction(4)),
        (r"\frac{\sqrt2+1}{\sqrt2+1}", Fraction(1)),
        ("27^{2/3}", Fraction(9)),
        ("5!/3!", Fraction(20)),
        (r"\binom{6}{2}", Fraction(15)),
        ("|3-5|", Fraction(2)),
        ("1.25e2", Fraction(125)),
        (".5", Fraction(1, 2)),
        (r"\frac{x^2-1}{x-1} - x - 1 + 3", Fraction(3)),
    ],
)
def test_numbers_by_hand(text: str, expected: Fraction) -> None:
    assert value(text).equals(number(expected))


@pytest.mark.parametrize(
    "text",
    ["", "+", "1+", "(1", "1)", "1 2", "1/2x", "2^3^4", "x!y!!^", r"\frac{1}", r"\foo", "f(x)", r"\sin 2(x)",
     "1/0", "0^{-1}", r"\sqrt[x]{2}", r"\frac{5x-5x}{x-x}", r"\sin^{-1} x", "a_{b+c}", "(x+y+z+w)^{30}"],
)  # fmt: skip
def test_what_it_cannot_say(text: str) -> None:
    with pytest.raises(Unsupported):
        parse(normalise(text))


@pytest.mark.parametrize("text", ["9^{9^9}", "2^{5000}", "1000!", r"\binom{2000}{1000}", "(10^{900})^{900}"])
def test_numbers_that_nobody_means(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TooBig):
        parse(normalise(text))
    assert time.perf_counter() - start < 0.5


def test_roots_are_taken_apart() -> None:
    assert square_root(number(72)).equals(number(6) * square_root(number(2)))
    assert square_root(number(Fraction(1, 3))).equals(square_root(number(3)) / number(3))
    assert square_root(number(999983 * 4)).equals(number(2) * square_root(number(999983)))
    assert not square_root(number(2)).equals(number(Fraction(141421356237, 10**11)))


def test_multiples() -> None:
    x, one = symbol("x"), number(1)
    assert (x + one).is_multiple_of(number(2) * x + number(2))
    assert not (x + one).is_multiple_of(x + -one)
    assert number(0).is_multiple_of(number(0))
    assert not number(0).is_multiple_of(one)


LEAVES = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["x", "y", r"\sqrt{2}", r"\sqrt{3}", r"\sqrt{6}", "i", r"\frac{1}{2}", "0.5", r"\pi"]),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", r"\cdot "]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        st.tuples(inner, inner).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
        st.tuples(inner, st.integers(-2, 3)).map(lambda t: f"({t[0]})^{{{t[1]}}}"),
    ),
    max_leaves=8,
)


def number_of(text: str, point: dict[str, float]) -> complex:
    """The same text as Python computes it."""
    for name in (r"\sqrt{2}", r"\sqrt{3}", r"\sqrt{6}"):
        text = text.replace(name, f"({math.sqrt(int(name[6]))!r})")
    text = text.replace(r"\frac{", "(").replace("}{", ")/(").replace("^{", "**(").replace("}", ")")
    text = text.replace(r"\cdot", "*").replace(r"\pi", "p").replace("i", "1j")
    return complex(eval(text, {"__builtins__": {}}, {"x": point["x"], "y": point["y"], "p": math.pi}))


@settings(max_examples=200, deadline=None)
@given(text=EXPRESSIONS)
def test_values_are_those_of_floating_point(text: str) -> None:
    point = {"x": 1.7320, "y": 0.4142, r"\pi": math.pi}
    try:
        expected = number_of(text, point)
        found = approximately(parse(normalise(text)).value, point)
    except (ZeroDivisionError, OverflowError, Unsupported):
        return
    if abs(expected) < 1e6:  # where the two differ by more than rounding, they differ much
        assert abs(found - expected) < 1e-3 * max(1, abs(expected))


@settings(max_examples=150, deadline=None)
@given(one=EXPRESSIONS, other=EXPRESSIONS)
def test_equality_agrees_with_points(one: str, other: str) -> None:
    try:
        left, right = parse(normalise(one)).value, parse(normalise(other)).value
        same = left.equals(right)
        points = [{"x": a, "y": b, r"\pi": math.pi} for a, b in ((1.7321, 0.4143), (2.2361, 3.3166))]
        differences = [abs(approximately(left, p) - approximately(right, p)) for p in points]
    except (ZeroDivisionError, OverflowError, Unsupported):
        return
    if max(differences) > 1e-3:
        assert not same
    elif same:
        assert max(differences) < 1e-3


@pytest.mark.parametrize(
    ("gold", "answer", "decision"),
    [
        ("1/3", "0.333333", True),
        ("1/3", "0.3333333333", True),
        ("1/3", "0.333334", False),
        ("1/3", "0.33333", False),
        ("0.333333", "0.3333333333", True),
        ("123456.7", "123456.8", False),
        ("1234567", "1234567.4", False),
        (r"\sqrt{2}", "1.414214", None),
        (r"\ln 2", "1", None),
        (r"\sin x", r"\cos x", None),
        (r"\sin x", "y", None),
        ("e^x", "e^{2x}", False),
        ("word", "ward", False),
    ],
)
def test_decisions(gold: str, answer: str, decision: bool | None) -> None:
    assert exactly(normalise(gold), normalise(answer), 6) is decision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\left( \dfrac12 ,\, x² \right)", r"( \frac{1}{2} , x^{2} )"),
        ("½ × √2", r"\frac{1}{2} \times \sqrt{2}"),
        (r"$\mathrm{B}$", "{B}"),
        (r"3\%.", "3%"),
        (r"1 \text{ or } 2", "1 or 2"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_one_notation(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_blanks_between_numbers_count() -> None:
    assert squeezed("4 2") != squeezed("42")
    assert squeezed("x + 1") == squeezed("x+1")
