"""Whether an answer is a value, or a computation that somebody else is to do.

Where the reference is a number, 17·23 and the sum of k from 1 to 100 are the question again. Powers, factorials,
binomials, roots and fractions are how numbers are written (2^{10}, 5!, 1 - 1/1024), and stay.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[-+]?\s*(?:\d+(?:\.\d*)?|\.\d+|\\frac\s*\{\d+\}\s*\{\d+\}|\d+\s*/\s*\d+)")
_DECIMAL = re.compile(r"[-+]?\s*(?:\d+\.?\d*|\.\d+)")
_OPERATOR = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|gcd|lcm|max|min|bmod|pmod|mod|lfloor|lceil|det)(?![a-zA-Z])"
    r"|\\text\{\s*(?:gcd|lcm|max|min|mod)\s*\}"
)
_STEP = r"(?:[+*-]|\\(?:cdot|times|div|ast)(?![a-zA-Z]))"
_ARITHMETIC = re.compile(rf"(?:[\d.\s(){{}}\[\]]|{_STEP})+")
_COMPUTED = re.compile(rf"[\d)}}\]]\s*{_STEP}|\)\s*[(\d]|\d\s*\(")


def is_number(text: str) -> bool:
    """An integer, a decimal or a fraction, written as such."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_decimal(text: str) -> bool:
    """Digits, with or without a point."""
    return _DECIMAL.fullmatch(text.strip()) is not None


def to_be_computed(text: str) -> bool:
    """Sums, differences and products of plain numbers; sums with limits, integrals, greatest common divisors …"""
    text = text.strip()
    if _OPERATOR.search(text) is not None:
        return True
    return _ARITHMETIC.fullmatch(text) is not None and _COMPUTED.search(text) is not None
