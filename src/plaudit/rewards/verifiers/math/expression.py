"""LaTeX and plain notation of arithmetic → exact numbers. What is not arithmetic is left to others."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from plaudit.rewards.verifiers.math.exact import (
    IMAGINARY,
    Exact,
    TooBig,
    Unsupported,
    number,
    symbol,
)
from plaudit.rewards.verifiers.math.functions import constant_power, logarithm, power, trigonometric
from plaudit.rewards.verifiers.math.grammar import Grammar

_MOST_FACTORIAL = 170
_MOST_EXPONENT = 100_000
_MOST_WORK = 5000


@dataclass(frozen=True, slots=True)
class Parsed:
    """An expression that was understood.

    Attributes:
        value: what it is.
        decimal: whether a decimal point is in it.
        places: digits behind the point, where the expression is a single decimal number; else None.
        digits: significant digits of it, likewise.
    """

    value: Exact
    decimal: bool = False
    places: int | None = None
    digits: int = 0
    certain: bool = True
    """Whether what is not equal to it in this form is not equal to it."""


_LONE_DECIMAL = re.compile(r"[-+]?\s*(\d*)\.(\d+)")


def parse(text: str) -> Parsed:
    """The exact value of a normalised text (see `plaudit.rewards.verifiers.math.notation`).

    Raises:
        Unsupported: it is not of this arithmetic, or is no expression at all.
        TooBig: it needs numbers of more digits than anybody's answer has.
    """
    arithmetic = _ExactArithmetic()
    parser = Grammar(text, arithmetic)
    value = parser.whole()
    lone = _LONE_DECIMAL.fullmatch(text.strip())
    if lone is None:
        return Parsed(value, parser.decimal, certain=arithmetic.certain)
    return Parsed(value, True, len(lone[2]), len((lone[1] + lone[2]).lstrip("0")))


def scaled(of: Parsed, power: int) -> Parsed:
    """10^power times as much."""
    if power == 0:
        return of
    value = of.value * number(Fraction(10) ** power)
    places = None if of.places is None else max(of.places - power, 0)
    return Parsed(value, of.decimal, places, of.digits, of.certain)


class _ExactArithmetic:
    """Values are exact numbers. One object reads one expression."""

    def __init__(self) -> None:
        self.certain = True
        self._work = 0

    def number(self, value: Fraction) -> Exact:
        return number(value)

    def symbol(self, name: str) -> Exact:
        return IMAGINARY if name == "i" else symbol(name)

    def rational(self, value: Exact) -> Fraction | None:
        return value.rational

    def raised(self, base: Exact, exponent: Exact) -> Exact:
        if exponent.rational is None:
            value, certain = power(base, exponent)
        else:
            _check_exponent(base, exponent.rational)
            value, certain = constant_power(base, exponent.rational)
        self.certain &= certain
        self.charge(value, 1 if len(base.upper) == len(base.lower) == 1 else 10)
        return value

    def function(self, name: str, inside: Exact, base: Exact | None) -> Exact:
        if name == "exp":
            return self.raised(symbol("e"), inside)
        self.certain = False
        if base is not None:
            return logarithm(inside, "ln") / logarithm(base, "ln")
        if name in ("ln", "log"):
            return logarithm(inside, name)
        return trigonometric(name, inside)

    def absolute(self, value: Exact) -> Exact:
        if value.rational is None:
            raise Unsupported("the absolute value of what is no number")
        return number(abs(value.rational))

    def factorial(self, value: Exact) -> Exact:
        n = value.rational
        if n is None or n.denominator != 1 or n < 0:
            raise Unsupported("a factorial of no natural number")
        if n > _MOST_FACTORIAL:
            raise TooBig(f"a factorial above {_MOST_FACTORIAL}!")
        return number(math.factorial(int(n)))

    def binomial(self, upper: Exact, lower: Exact) -> Exact:
        n, k = upper.rational, lower.rational
        if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
            raise Unsupported("a binomial of no natural numbers")
        if n > 1000:
            raise TooBig("a binomial above 1000")
        return number(math.comb(int(n), int(k)))

    def charge(self, value: Exact, times: int = 1) -> None:
        """Long sums multiplied again and again would take their time."""
        self._work += times * (len(value.upper) + len(value.lower))
        if self._work > _MOST_WORK:
            raise Unsupported("too much to multiply out")


def _check_exponent(base: Exact, exponent: Fraction) -> None:
    if abs(exponent) > _MOST_EXPONENT and base.rational is not None and base.rational not in (0, 1, -1):
        raise TooBig(f"an exponent above {_MOST_EXPONENT}")
