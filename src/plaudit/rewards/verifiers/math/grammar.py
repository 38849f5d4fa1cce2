"""The notation of arithmetic, in LaTeX and plain: what binds what. What the values are, an `Arithmetic` says.

What people read in two ways (1/2x, sin x(y)) is refused instead of read in one.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar

from plaudit.rewards.verifiers.math.exact import Unsupported

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\\[a-zA-Z]+)|(\*\*)|(\S))")
_GREEK = re.compile(
    r"\\(alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau"
    r"|upsilon|(?:var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell|infty)"
)
_TIMES = {"*", r"\cdot", r"\times", r"\ast"}
_OVER = {"/", r"\div", ":"}
_NAMED = frozenset({r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc", r"\ln", r"\log", r"\exp"})
_FUNCTIONS = frozenset("fghFGHP")
_DEEPEST = 40
_DEEPEST = 40
_STOP = ("+", "-", ")", "}", "]")

V = TypeVar("V", bound=Any)
"""A value; it has + − * / and a sign."""


class Arithmetic(Protocol[V]):
    """What values are, and what can be done with them. Everything may raise Unsupported or TooBig."""

    def number(self, value: Fraction) -> V:
        """A rational number."""
        ...

    def symbol(self, name: str) -> V:
        """A variable or constant: a letter, a command, with its index."""
        ...

    def rational(self, value: V) -> Fraction | None:
        """The value as a rational number, if it is one."""
        ...

    def raised(self, base: V, exponent: V) -> V:
        """A power or root."""
        ...

    def function(self, name: str, inside: V, base: V | None) -> V:
        """sin, ln …; the base is that of a logarithm."""
        ...

    def absolute(self, value: V) -> V:
        """|value|"""
        ...

    def factorial(self, value: V) -> V:
        """value!"""
        ...

    def binomial(self, upper: V, lower: V) -> V:
        """upper over lower"""
        ...

    def charge(self, value: V) -> None:
        """Count the work that a value may make; called after every step."""
        ...


class Grammar(Generic[V]):
    """Recursive descent; one method per level of binding.

    Args:
        text: normalised.
        arithmetic: what the values are.

    Attributes:
        decimal: whether a decimal point was read.
    """

    def __init__(self, text: str, arithmetic: Arithmetic[V]) -> None:
        self._do = arithmetic
        self._tokens: list[str] = [m[1] or m[2] or m[3] or m[4] for m in _TOKEN.finditer(text)]
        self._at = 0
        self._depth = 0
        self._bars = 0
        self.decimal = False

    def whole(self) -> V:
        """The value of all of the text.

        Raises:
            Unsupported: it is no expression, or not of this arithmetic.
            TooBig: it needs numbers of more digits than anybody's answer has.
        """
        value = self._sum()
        if self._at < len(self._tokens):
            raise Unsupported(f"{self._peek()!r} is not expected")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        if not token:
            raise Unsupported("the expression ends too early")
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Unsupported(f"{token!r} is missing")

    def _sum(self) -> V:
        value = self._product()
        while self._peek() in ("+", "-"):
            value = value + self._product() if self._take() == "+" else value + -self._product()
            self._do.charge(value)
        return value

    def _product(self) -> V:
        value, plain_whole = self._signed()
        self._do.charge(value)
        divided = False
        while (token := self._peek()) and token not in _STOP and not (token == "|" and self._bars):
            if token in _TIMES:
                self._take()
                value, divided, plain_whole = value * self._signed()[0], False, None
            elif token in _OVER:
                self._take()
                value, divided, plain_whole = value / self._signed()[0], True, None
            elif divided:
                raise Unsupported("what belongs to the divisor is not said")  # 1/2x
            else:
                value, plain_whole = self._beside(value, plain_whole), None
            self._do.charge(value)
        return value

    def _beside(self, value: V, whole: int | None) -> V:
        """A factor without a sign between, or the fraction of a mixed number."""
        start = self._at
        if self._peek()[0].isdigit():
            top = self._take()
            if whole is None or self._peek() != "/" or not top.isdigit():
                raise Unsupported("two numbers side by side")
            self._take()
            bottom = self._take()
            if not bottom.isdigit() or not int(bottom) or int(top) >= int(bottom):
                raise Unsupported("two numbers side by side")
            return self._mixed(value, whole, Fraction(int(top), int(bottom)))
        factor, _ = self._power()
        if whole is not None and self._is_number_fraction(start):
            part = self._do.rational(factor)
            assert part is not None
            return self._mixed(value, whole, part)
        product: V = value * factor
        return product

    def _mixed(self, value: V, whole: int, part: Fraction) -> V:
        negative = (self._do.rational(value) or whole) < 0
        mixed: V = value + self._do.number(-part if negative else part)
        return mixed

    def _is_number_fraction(self, start: int) -> bool:
        r"""Whether the tokens from here are \frac{a}{b} with two natural numbers, a < b."""
        part = self._tokens[start : self._at]
        if len(part) != 7 or part[0] != r"\frac" or not (part[2].isdigit() and part[5].isdigit()):
            return False
        return 0 < int(part[2]) < int(part[5])

    def _signed(self) -> tuple[V, int | None]:
        """With the sign before it; beside it the number, where it is a natural one alone."""
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._take() == "-"
        value, whole = self._power()
        return (-value if negative else value), whole

    def _power(self) -> tuple[V, int | None]:
        token = self._peek()
        value = self._atom()
        whole = int(token) if token.isdigit() else None
        while self._peek() == "!":
            self._take()
            value, whole = self._do.factorial(value), None
        if self._peek() in ("^", "**"):
            self._take()
            value, whole = self._do.raised(value, self._exponent()), None
            if self._peek() in ("^", "**", "!"):
                raise Unsupported("what is raised is not said")
        return value, whole

    def _exponent(self) -> V:
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._atom()
        opposite: V = -value
        return opposite if negative else value

    def _atom(self) -> V:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unsupported("too deep")
        value = self._unguarded()
        self._depth -= 1
        return value

    def _unguarded(self) -> V:
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            self.decimal |= "." in token
            return self._do.number(Fraction("0" + token if token[0] == "." else token.rstrip(".")))
        if token in ("(", "{"):
            value = self._sum()
            self._expect(")" if token == "(" else "}")
            return value
        if token == "|":
            self._bars += 1
            value = self._sum()
            self._bars -= 1
            self._expect("|")
            return self._do.absolute(value)
        if token == r"\frac":
            ratio: V = self._argument() / self._argument()
            return ratio
        if token == r"\sqrt":
            return self._root()
        if token == r"\binom":
            return self._do.binomial(self._argument(), self._argument())
        return self._named(token)

    def _root(self) -> V:
        order = Fraction(2)
        if self._peek() == "[":
            self._take()
            given = self._do.rational(self._sum())
            self._expect("]")
            if given is None or given.denominator != 1 or given < 2:
                raise Unsupported("a root of no whole order")
            order = given
        return self._do.raised(self._argument(), self._do.number(1 / order))

    def _function(self, token: str) -> V:
        r"""\sin x, \sin^2(2x), \ln 5, \log_2 8 …"""
        exponent = 1
        base: V | None = None
        while self._peek() in ("^", "_"):
            if self._take() == "^":
                given = self._do.rational(self._exponent())
                if given is None or given.denominator != 1 or given < 1:
                    raise Unsupported("an inverse function")
                exponent = int(given)
            elif token != r"\log":
                raise Unsupported("an index of a function")
            else:
                base = self._exponent()
        inside = self._function_argument()
        value = self._do.function(token[1:], inside, base)
        return value if exponent == 1 else self._do.raised(value, self._do.number(Fraction(exponent)))

    def _function_argument(self) -> V:
        """In brackets, or the factors that follow."""
        if self._peek() in ("(", "{"):
            return self._atom()
        value = self._power()[0]
        while (token := self._peek()) and (token.isalpha() or _GREEK.fullmatch(token) or token == r"\frac"):
            value = value * self._power()[0]
        if self._peek() in ("(", "{", r"\sqrt", "/"):
            raise Unsupported("what belongs to the function is not said")
        return value

    def _argument(self) -> V:
        if self._peek() == "{":
            return self._atom()
        token = self._peek()
        if len(token) > 1 and token[0] != "\\":
            raise Unsupported("an argument without braces")
        return self._atom()

    def _named(self, token: str) -> V:
        if token.isascii() and token.isalpha():
            if token in _FUNCTIONS and self._peek() == "(":
                raise Unsupported("a function")
        elif token in _NAMED:
            return self._function(token)
        elif not _GREEK.fullmatch(token):
            raise Unsupported(f"{token!r}")
        if self._peek() == "_":
            self._take()
            return self._do.symbol(f"{token}_{self._subscript()}")
        return self._do.symbol(token)

    def _subscript(self) -> str:
        if self._peek() != "{":
            return self._take()
        self._take()
        parts = []
        while (token := self._take()) != "}":
            if not token.isalnum():
                raise Unsupported("a subscript that is computed")
            parts.append(token)
        return "".join(parts)
