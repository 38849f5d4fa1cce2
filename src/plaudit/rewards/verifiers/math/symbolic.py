"""Arithmetic whose values are sympy's, for what is written as the grammar knows it: a tenth of the time that a general
parser of LaTeX takes. Runs in worker processes alone."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import sympy

from plaudit.rewards.verifiers.math.exact import Unsupported
from plaudit.rewards.verifiers.math.grammar import Grammar

_FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "ln": sympy.log, "exp": sympy.exp,
}  # fmt: skip
_CONSTANTS = {"e": sympy.E, "i": sympy.I, r"\pi": sympy.pi, r"\infty": sympy.oo}
_NO_POINTS = (
    sympy.Sum,
    sympy.Product,
    sympy.Integral,
    sympy.factorial,
    sympy.binomial,
    sympy.floor,
    sympy.ceiling,
    sympy.Mod,
)
"""Functions of whole numbers, which say nothing at other points, or take their time there."""
_DIGITS = 40


class _SympyArithmetic:
    """Values are expressions of sympy; variables are real."""

    def number(self, value: Fraction) -> Any:
        return sympy.Rational(value.numerator, value.denominator)

    def symbol(self, name: str) -> Any:
        return _CONSTANTS.get(name) or sympy.Symbol(name, real=True)

    def rational(self, value: Any) -> Fraction | None:
        return Fraction(int(value.p), int(value.q)) if value.is_Rational else None

    def raised(self, base: Any, exponent: Any) -> Any:
        return base**exponent

    def function(self, name: str, inside: Any, base: Any | None) -> Any:
        if base is not None:
            return sympy.log(inside) / sympy.log(base)
        if name not in _FUNCTIONS:
            raise Unsupported("a logarithm without a base")
        return _FUNCTIONS[name](inside)

    def absolute(self, value: Any) -> Any:
        return sympy.Abs(value)

    def factorial(self, value: Any) -> Any:
        return sympy.factorial(value)

    def binomial(self, upper: Any, lower: Any) -> Any:
        return sympy.binomial(upper, lower)

    def charge(self, value: Any) -> None:
        """The process has limits."""


def parsed(text: str) -> tuple[Any, bool]:
    """(the expression, whether a decimal is in it).

    Raises:
        Unsupported: it is not written as the grammar knows it.
    """
    parser = Grammar(text, _SympyArithmetic())
    value = parser.whole()
    if value.has(sympy.nan, sympy.zoo):
        raise Unsupported("no number")
    return value, parser.decimal


def differ_somewhere(one: Any, other: Any) -> bool:
    """Whether two expressions certainly are different functions: at some point both have values, far apart.

    Equal functions are equal at every point, so a point is a proof of the contrary, and a much cheaper one than none
    from simplifying. The other way round points prove nothing, and are not asked.
    """
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    if not names or one.has(*_NO_POINTS) or other.has(*_NO_POINTS):
        return False
    rng = random.Random(len(names))
    for _ in range(2):
        point = {name: sympy.Rational(rng.randrange(101, 997), rng.randrange(101, 499)) for name in names}
        a, b = (sympy.N(v.subs(point), _DIGITS) for v in (one, other))
        if not all(v.is_number and v.is_finite for v in (a, b)):
            continue
        size = max(abs(a), abs(b))
        if size > 0 and abs(a - b) > size * sympy.Float(10, _DIGITS) ** (-_DIGITS // 2):
            return True
    return False
