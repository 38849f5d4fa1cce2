"""What stands before an equals sign: a name for what was asked (x, f(2), AB, words), or something computed (x + y, -x).

"x = 5" says the value of x. "x + y = 1" is as often a line as the value of a sum, and "-x = 5" or "|x| = 5" name no
value at all; what is computed has to be compared as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_GREEK = (
    "(?:var)?epsilon|alpha|beta|gamma|delta|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi"
    "|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell"
)
_LETTER = rf"(?:[a-zA-Z]|\\(?:{_GREEK})(?![a-zA-Z]))"
_INDEX = r"(?:_(?:\{[^{}]*\}|[a-zA-Z0-9])|'|\^\{\\prime\})*"
_MARKED = (
    r"\\(?:vec|hat|bar|tilde|mathbf|mathbb|mathcal|over(?:line|rightarrow)|widehat|angle|triangle|text|measuredangle)"
)
_SYMBOL = rf"{_LETTER}{_INDEX}"
_THING = rf"(?:{_MARKED}\{{?(?:{_SYMBOL}|[a-zA-Z .,'-])+\}}?{_INDEX}|[A-Z]{{2,}}{_INDEX}|{_SYMBOL})"
_PLAIN = re.compile(
    rf"{_THING}|\({_SYMBOL}(?:,{_SYMBOL})*\)"
    rf"|{_SYMBOL}(?:\^\{{-1\}})?\([^()]*\)"  # f(2), P(X = 3), f^{-1}(x)
    rf"|\|(?:{_MARKED}\{{?[a-zA-Z]+\}}?|[A-Z]{{2,}})\|"  # |AB|, |\vec{a}|
    rf"|(?:{_THING})?(?:\\text\{{[^{{}}]*\}})+(?:{_THING})?"
)
_FUNCTION = re.compile(
    rf"\\(?:sin|cos|tan|cot|sec|csc|det|arg|deg|Re|Im)[{{(]?(?:{_MARKED})?\{{?({_LETTER}+)\}}?[)}}]?"
)
_COMBINED = re.compile(rf"(?:{_SYMBOL}(?:[+*/-]|\\cdot|\\times)?)+|\\frac\{{{_SYMBOL}\}}\{{{_SYMBOL}\}}")
_AREA = "xyz"
"""Letters of equations for curves: their sums and products are no names for a value."""


def is_plain(name: str) -> bool:
    """Whether nothing is computed in it. The name has no blanks."""
    return _PLAIN.fullmatch(name) is not None


def stands_for_a_value(name: str) -> bool:
    """Whether the value alone is an answer to it: of x, f(2), sin A and m + n, not of x + y or -x."""
    if is_plain(name):
        return True
    if (match := _FUNCTION.fullmatch(name)) is not None:
        return match[1] not in _AREA
    if name.startswith("-") or _COMBINED.fullmatch(name) is None:
        return False
    letters = re.findall(_LETTER, re.sub(r"\\(?:frac|cdot|times)", "", name))
    return len(set(letters)) == len(letters) and not set(letters) <= set(_AREA)


def commits(name: str) -> bool:
    """Whether a value behind it is one value: not behind -x, nor behind |x|, which leaves the sign open."""
    return not name.startswith("-") and re.fullmatch(rf"\|{_SYMBOL}\|", name) is None


def for_different_things(gold: Sequence[str], answer: Sequence[str]) -> bool:
    """Whether two sets of plain names are certainly not for the same: x and y are not, x and "the number" may be."""
    kinds = [[kind_of(name) for name in names] for names in (gold, answer)]
    return any(one and one in kinds[1] for one in kinds[0])


_POINTS = re.compile(r"\|?([A-Z]{2,})\|?|\\over(?:line|rightarrow)\{?([A-Z]{2,})\}?")
_TUPLE = re.compile(rf"\({_SYMBOL}(?:,{_SYMBOL})*\)")
_ANGLE = re.compile(r"\\(?:measured)?angle\{?([a-zA-Z]+)\}?")


def kind_of(name: str) -> str:
    """What kind of thing a plain name is for, where two different names of the kind are two things; else empty."""
    if re.fullmatch(_SYMBOL, name) or _TUPLE.fullmatch(name):
        return "symbol"
    if (match := _POINTS.fullmatch(name)) is not None:
        return f"{len(match[1] or match[2])} points"
    if (match := _ANGLE.fullmatch(name)) is not None:
        return f"angle of {len(match[1])}"
    return "value of a function" if re.fullmatch(rf"{_SYMBOL}(?:\^\{{-1\}})?\([^()]*\)", name) else ""


def spelled(name: str) -> str:
    """In one spelling: BA is AB."""
    match = _POINTS.fullmatch(name)
    return name if match is None else "".join(sorted(match[1] or match[2]))
