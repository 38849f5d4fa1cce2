"""Powers, roots, logarithms and trigonometric functions in exact arithmetic: each is one more symbol.

e^x, 2^n, x^n and √x are independent of each other and of the variables, so equality is decided as before. A sine is a
symbol too, whose square is 1 minus that of the cosine; a logarithm of a number is made of those of its primes. There
two expressions that agree are equal, and two that do not agree may still be.
"""

from __future__ import annotations

from fractions import Fraction

from plaudit.rewards.verifiers.math.exact import (
    ONE,
    Exact,
    Unsupported,
    number,
    rational_power,
    symbol,
    symbol_power,
)

_CONSTANTS = frozenset({"e", r"\pi", r"\infty"})
_LARGEST = 10**6
"""Of numbers that are taken apart into primes."""


def canonical(of: Exact) -> str:
    """One text for a value, in which it was divided out."""
    if len(of.lower) != 1:
        raise Unsupported("a quotient of sums inside of a function")
    terms = sorted((str(monomial), str(c)) for monomial, c in of.upper.items())
    return "+".join(f"{c}*{monomial}" for monomial, c in terms)


def power(base: Exact, exponent: Exact) -> tuple[Exact, bool]:
    """(base^exponent for an exponent with variables, whether it is independent of everything else).

    Raises:
        Unsupported: it would not be a symbol.
    """
    result = number(1)
    for monomial, c in _terms(exponent):
        if monomial == ONE:
            result = result * constant_power(base, c)[0]
            continue
        radicand, powers = monomial
        if radicand != 1 or all(name in _CONSTANTS for name, _ in powers):
            raise Unsupported("an exponent that is no multiple of a variable")
        for name, k in _factors(base):
            result = result * symbol_power(f"{name}^{powers}", c * k)
    return result, True


def constant_power(base: Exact, exponent: Fraction) -> tuple[Exact, bool]:
    """(base^exponent for a rational exponent, whether it is independent of everything else).

    Raises:
        Unsupported, TooBig: as `rational_power`.
    """
    if exponent.denominator == 1:
        return rational_power(base, exponent), True
    if base.rational is not None:
        return _number_power(base, exponent)
    [*terms] = _terms(base)
    if len(terms) > 1:
        return symbol_power(f"({canonical(base)})", exponent), False
    [((radicand, powers), c)] = terms
    if radicand != 1 or c <= 0 or len(powers) != 1 or powers[0][1] != 1:
        raise Unsupported("a root of a product")
    return rational_power(number(c), exponent) * symbol_power(powers[0][0], exponent), True


def _number_power(base: Exact, exponent: Fraction) -> tuple[Exact, bool]:
    try:
        return rational_power(base, exponent), True
    except Unsupported:
        value = base.rational
        if value is None or value <= 0:
            raise
    result = number(1)
    for prime, k in _primes(value).items():
        whole, rest = divmod(exponent * k, 1)
        result = result * number(Fraction(prime) ** int(whole)) * symbol_power(f"#{prime}", rest)
    return result, False  # roots that are multiplied may be rational again


def _terms(of: Exact) -> list[tuple[tuple[int, tuple[tuple[str, Fraction | int], ...]], Fraction]]:
    """Of a sum that was divided out."""
    if of.lower != {ONE: 1}:
        raise Unsupported("a quotient of sums")
    return list(of.upper.items())


def _factors(base: Exact) -> list[tuple[str, int]]:
    """Primes and symbols of a base, with their multiplicity; each must be able to carry any exponent."""
    terms = _terms(base)
    if len(terms) != 1:
        raise Unsupported("a sum to a variable power")
    [((radicand, powers), c)] = terms
    if radicand != 1 or c <= 0:
        raise Unsupported("a base that is not positive")
    found: list[tuple[str, int]] = [(str(prime), k) for prime, k in _primes(c).items()]
    for name, k in powers:
        if not isinstance(k, int):
            raise Unsupported("a root to a variable power")
        found.append((name, k))
    return found


def _primes(value: Fraction) -> dict[int, int]:
    """Prime factors of a positive rational number with their exponents."""
    found: dict[int, int] = {}
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        if part > _LARGEST:
            raise Unsupported("a large number to take apart")
        divisor = 2
        while divisor * divisor <= part:
            while part % divisor == 0:
                part //= divisor
                found[divisor] = found.get(divisor, 0) + sign
            divisor += 1
        if part > 1:
            found[part] = found.get(part, 0) + sign
    return {prime: k for prime, k in found.items() if k}


def logarithm(of: Exact, name: str) -> Exact:
    """ln, or log where the base is not said.

    Raises:
        Unsupported: of what is not positive.
    """
    value = of.rational
    if value is None:
        if name == "ln" and of.equals(symbol("e")):
            return number(1)
        return symbol(f"{name}({canonical(of)})")
    if value <= 0:
        raise Unsupported("a logarithm of what is not positive")
    result = number(0)
    for prime, k in _primes(value).items():
        result = result + number(k) * symbol(f"{name}({prime})")
    return result


def sine_and_cosine(of: Exact) -> tuple[Exact, Exact]:
    """Both of an angle with a variable in it; angles that differ in their sign share a symbol.

    Raises:
        Unsupported: of a number, whose sine may be a root.
    """
    terms = sorted(_terms(of), key=lambda term: str(term[0]))
    if not any(name not in _CONSTANTS for (_, powers), _ in terms for name, _ in powers):
        raise Unsupported("a trigonometric function of a number")
    negative = terms[0][1] < 0
    name = canonical(-of if negative else of)
    sine = symbol(f"sin({name})")
    return (-sine if negative else sine), symbol(f"cos({name})")


def trigonometric(name: str, of: Exact) -> Exact:
    """A function by its name, without the backslash."""
    sine, cosine = sine_and_cosine(of)
    return {
        "sin": lambda: sine,
        "cos": lambda: cosine,
        "tan": lambda: sine / cosine,
        "cot": lambda: cosine / sine,
        "sec": lambda: number(1) / cosine,
        "csc": lambda: number(1) / sine,
    }[name]()
