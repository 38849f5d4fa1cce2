"""Exact arithmetic with rational numbers, square roots, i, π and variables: equality is decided, never estimated.

A number is a quotient of two sums of terms c·√r·∏ symbol^k with c rational, r a squarefree integer (−1 is i) and k an
integer. Roots of different squarefree integers are linearly independent over the rational functions, so two sums are
equal exactly if their terms are (Besicovitch 1940), and two quotients exactly if their cross products are. π and e are
symbols: no relation between them and square roots can be written in this form without the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Powers: TypeAlias = tuple[tuple[str, int | Fraction], ...]
Monomial: TypeAlias = tuple[int, Powers]
"""(squarefree radicand, (symbol, exponent) …)"""
Sum: TypeAlias = Mapping[Monomial, Fraction]

MOST_TERMS = 200
MOST_BITS = 4096
_MOST_RADICAND = 10**12
ONE: Monomial = (1, ())


class Unsupported(Exception):
    """This arithmetic cannot say: something else has to."""


class TooBig(Exception):
    """A number of more digits than anybody's answer has."""


@dataclass(frozen=True, slots=True)
class Exact:
    """A quotient of two sums; the lower one is not zero."""

    upper: Sum
    lower: Sum

    @property
    def rational(self) -> Fraction | None:
        """The value, where it is a rational number."""
        if not self.upper:
            return Fraction(0)
        if len(self.upper) == len(self.lower) == 1 and ONE in self.lower and ONE in self.upper:
            return self.upper[ONE] / self.lower[ONE]
        return None

    @property
    def symbols(self) -> set[str]:
        """The names of what is no number; π and e are among them."""
        return {name for part in (self.upper, self.lower) for _, powers in part for name, _ in powers}

    def equals(self, other: Exact) -> bool:
        """Whether both are the same number, or the same function of their symbols."""
        return _times(self.upper, other.lower) == _times(other.upper, self.lower)

    def is_multiple_of(self, other: Exact) -> bool:
        """Whether the quotient of both is a number other than 0."""
        if not (self.upper and other.upper):
            return not self.upper and not other.upper
        left, right = _times(self.upper, other.lower), _times(other.upper, self.lower)
        first = next(iter(left))
        if first not in right:
            return False
        factor = left[first] / right[first]
        return left == {monomial: c * factor for monomial, c in right.items()}

    def __add__(self, other: Exact) -> Exact:
        upper = _plus(_times(self.upper, other.lower), _times(other.upper, self.lower))
        return _quotient(upper, _times(self.lower, other.lower))

    def __neg__(self) -> Exact:
        return Exact({monomial: -c for monomial, c in self.upper.items()}, self.lower)

    def __mul__(self, other: Exact) -> Exact:
        return _quotient(_times(self.upper, other.upper), _times(self.lower, other.lower))

    def __truediv__(self, other: Exact) -> Exact:
        if not other.upper:
            raise Unsupported("division by zero")
        return _quotient(_times(self.upper, other.lower), _times(self.lower, other.upper))

    def __pow__(self, exponent: int) -> Exact:
        base = self if exponent >= 0 else number(1) / self
        return _quotient(_power(base.upper, abs(exponent)), _power(base.lower, abs(exponent)))


def number(value: Fraction | int) -> Exact:
    """A rational number."""
    return Exact({ONE: Fraction(value)} if value else {}, {ONE: Fraction(1)})


def symbol(name: str) -> Exact:
    """A variable, or a constant that no other term can make."""
    return Exact({(1, ((name, 1),)): Fraction(1)}, {ONE: Fraction(1)})


def symbol_power(name: str, exponent: Fraction | int) -> Exact:
    """A power of a symbol; the exponent may be a fraction."""
    if exponent == 0:
        return number(1)
    return Exact({(1, ((name, _plain(exponent)),)): Fraction(1)}, {ONE: Fraction(1)})


def _plain(exponent: Fraction | int) -> Fraction | int:
    return exponent if isinstance(exponent, int) or exponent.denominator > 1 else exponent.numerator


IMAGINARY = Exact({(-1, ()): Fraction(1)}, {ONE: Fraction(1)})


def square_root(of: Exact) -> Exact:
    """√, of rational numbers.

    Raises:
        Unsupported: it is none, or too hard to take apart.
    """
    value = of.rational
    if value is None:
        raise Unsupported("root of what is no number")
    if value == 0:
        return number(0)
    outside, inside = _squarefree(abs(value.numerator) * value.denominator)
    radicand = inside if value > 0 else -inside
    return Exact({(radicand, ()): Fraction(outside, value.denominator)}, {ONE: Fraction(1)})


def rational_power(base: Exact, exponent: Fraction) -> Exact:
    """base^exponent for rational exponents.

    Raises:
        Unsupported: the root is none of this arithmetic.
        TooBig: the result has too many digits.
    """
    if exponent.denominator == 1:
        return base**exponent.numerator
    if exponent.denominator == 2:
        return square_root(base) ** exponent.numerator
    value = base.rational
    if value is None or value <= 0 or exponent.denominator > 64:
        raise Unsupported("a root of higher order")
    roots = [_whole_root(part, exponent.denominator) for part in (value.numerator, value.denominator)]
    return number(Fraction(roots[0], roots[1])) ** exponent.numerator


def _whole_root(value: int, order: int) -> int:
    guess = round(value ** (1 / order)) if value.bit_length() < 900 else 0
    if guess**order != value:
        raise Unsupported("a root that is no rational number")
    return guess


def _squarefree(value: int) -> tuple[int, int]:
    """(a, b) with value = a²·b and b squarefree."""
    root = math.isqrt(value)
    if root * root == value:
        return root, 1
    if value > _MOST_RADICAND:
        raise Unsupported("a large number below a root")
    outside, inside, divisor = 1, 1, 2
    while divisor * divisor * divisor <= value:
        count = 0
        while value % divisor == 0:
            value //= divisor
            count += 1
        outside *= divisor ** (count // 2)
        inside *= divisor ** (count % 2)
        divisor += 1 if divisor == 2 else 2
    root = math.isqrt(value)  # what is left has two prime factors at most
    return (outside * root, inside) if root * root == value else (outside, inside * value)


def _plus(left: Sum, right: Sum) -> Sum:
    total = dict(left)
    for monomial, c in right.items():
        _add(total, monomial, c)
    return total


def _add(total: dict[Monomial, Fraction], monomial: Monomial, c: Fraction) -> None:
    c += total.get(monomial, 0)
    if c:
        total[monomial] = c
    else:
        total.pop(monomial, None)


def _times(left: Sum, right: Sum) -> Sum:
    if len(left) * len(right) > MOST_TERMS * 10:
        raise Unsupported("too many terms")
    total: dict[Monomial, Fraction] = {}
    for (r, powers), c in left.items():
        for (s, others), d in right.items():
            radicand, factor = _roots(r, s)
            _add(total, (radicand, _joined(powers, others)), _checked(c * d * factor))
    if any(name[:4] == "sin(" for _, powers in total for name, _ in powers):
        total = _without_squares(total)
    if len(total) > MOST_TERMS:
        raise Unsupported("too many terms")
    return total


def _without_squares(total: dict[Monomial, Fraction]) -> dict[Monomial, Fraction]:
    """sin² = 1 − cos², as often as it is there."""
    for _ in range(2 * MOST_TERMS):
        found = next(((m, n) for m in total for n, k in m[1] if n[:4] == "sin(" and k >= 2), None)
        if found is None:
            return total
        (radicand, powers), name = found
        c = total.pop(found[0])
        rest = _joined(powers, ((name, -2),))
        _add(total, (radicand, rest), c)
        _add(total, (radicand, _joined(rest, ((f"cos({name[4:]}", 2),))), -c)
    raise Unsupported("too many squares of sines")


def _roots(r: int, s: int) -> tuple[int, int]:
    """(radicand, factor) of √r·√s."""
    if r == 1 or s == 1:
        return r * s, 1
    common = math.gcd(r, s)
    radicand = abs(r * s) // (common * common)
    if r < 0 and s < 0:
        return radicand, -common
    return (-radicand if r < 0 or s < 0 else radicand), common


def _joined(left: Powers, right: Powers) -> Powers:
    if not left or not right:
        return left or right
    total = dict(left)
    for name, exponent in right:
        total[name] = _plain(total.get(name, 0) + exponent)
    return tuple(sorted((name, exponent) for name, exponent in total.items() if exponent))


def _checked(c: Fraction) -> Fraction:
    if c.numerator.bit_length() > MOST_BITS or c.denominator.bit_length() > MOST_BITS:
        raise TooBig(f"a number of more than {MOST_BITS} bits")
    return c


def _power(base: Sum, exponent: int) -> Sum:
    if len(base) <= 1 and exponent > 1:
        for (radicand, powers), c in base.items():
            return _term_power(radicand, powers, c, exponent)
        return {}
    if exponent > 40:
        raise Unsupported("a high power of a sum")
    total: Sum = {ONE: Fraction(1)}
    for _ in range(exponent):
        total = _times(total, base)
    return total


def _term_power(radicand: int, powers: Powers, c: Fraction, exponent: int) -> Sum:
    size = max(c.numerator.bit_length() - 1, c.denominator.bit_length() - 1) + radicand.bit_length() / 2
    if size * exponent > MOST_BITS and (abs(c) != 1 or abs(radicand) != 1):
        raise TooBig(f"a number of more than {MOST_BITS} bits")
    raised = c**exponent * Fraction(radicand) ** (exponent // 2)
    root = radicand if exponent % 2 else 1
    return {(root, tuple((name, k * exponent) for name, k in powers)): raised}


def _quotient(upper: Sum, lower: Sum) -> Exact:
    """Divided out where the lower sum is a single term, which is almost always."""
    if len(lower) != 1:
        return Exact(upper, lower)
    [((radicand, powers), c)] = lower.items()
    if (radicand, powers) == ONE and c == 1:
        return Exact(upper, lower)
    inverse = {(radicand, tuple((name, -k) for name, k in powers)): 1 / (c * radicand)}
    return Exact(_times(upper, inverse), {ONE: Fraction(1)})
