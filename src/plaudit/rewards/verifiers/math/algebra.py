"""What exact arithmetic cannot decide, decided by math-verify and sympy. Runs in worker processes alone.

Powers, logarithms, trigonometry, sums and whatever else latex2sympy reads can take any time and memory, in C code too.
The process has limits for both, so nothing here has timers; math-verify's own are switched off.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from plaudit.rewards.verifiers.math import symbolic
from plaudit.rewards.verifiers.math.compare import decide, exactly, pair, read_gold, understood
from plaudit.rewards.verifiers.math.exact import TooBig, Unsupported
from plaudit.rewards.verifiers.math.notation import MONEY, ROW
from plaudit.rewards.verifiers.math.structure import Unreadable

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timers are off

_NORMALISE = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_CONVERT = ConversionConfig(lowercase_symbols=False)
_PRECISION = 60
_AGREEMENT = 45
"""Decimal digits in which two constants agree that are taken for equal: far more than short expressions can feign."""


def judge(item: tuple[str, str, int]) -> dict[str, Any]:
    """Whether an answer is the reference.

    Args:
        item: reference and answer, both normalised, and the digits that a decimal needs to count as rounded.

    Returns:
        `equal`, with a `note` where the answer could not be read; or `fault`, where the reference cannot.
    """
    gold, answer, digits = item
    fault = fault_of(gold, digits)
    if fault:
        return {"fault": fault}
    problems: list[str] = []

    def atoms(one: str, other: str) -> bool:
        decided = exactly(one, other, digits)
        return _same(one, other, digits, problems) if decided is None else decided

    try:
        return {"equal": bool(decide(gold, answer, atoms)), "note": "; ".join(problems[:1])}
    except (Unreadable, TooBig, RecursionError) as error:
        return {"equal": False, "note": str(error) or "too deep"}
    except MemoryError:
        raise
    except Exception as error:  # of sympy: the reference is equal to itself, so what failed is of the answer
        return {"equal": False, "note": f"not understood: {_first_line(error)}"}


@lru_cache(maxsize=4096)
def fault_of(gold: str, digits: int) -> str:
    """Why a reference cannot be compared with anything; empty where it can: it is then equal to itself."""
    problems: list[str] = []

    def atoms(one: str, other: str) -> bool:
        return understood(one) or _same(one, other, digits, problems)

    try:
        read_gold(gold)
        same = decide(gold, gold, atoms)
    except (Unreadable, TooBig, RecursionError) as error:
        return str(error) or "too deep"
    except MemoryError:
        raise
    except Exception as error:  # as in `judge`
        return f"not understood: {_first_line(error)}"
    return "" if same else "; ".join(problems) or "it is not equal to itself"


def _same(gold: str, answer: str, digits: int, problems: list[str]) -> bool:
    both = pair(gold, answer)
    if both.conflict:
        return False
    try:
        (wanted, first), (said, second) = _both(both.gold, both.answer)
    except MemoryError:
        raise
    except Exception as error:  # latex2sympy raises bare exceptions; which text it was is told
        problems.append(f"not understood: {_first_line(error)}")
        return False
    decimal = first or second
    if both.percent[0] != both.percent[1]:
        scaled = [v / 100 if p else v for v, p in zip((wanted, said), both.percent, strict=True)]
        return _equal(wanted, said, digits, decimal) or _equal(scaled[0], scaled[1], digits, decimal)
    return _equal(wanted, said, digits, decimal)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__


def _both(gold: str, answer: str) -> tuple[tuple[Any, bool], tuple[Any, bool]]:
    """Both as sympy knows them, read by the same reader, so that their variables are the same."""
    try:
        return symbolic.parsed(gold), symbolic.parsed(answer)
    except (Unsupported, TooBig):
        return _parsed(gold), _parsed(answer)


def _equal(wanted: Any, said: Any, digits: int, decimal: bool) -> bool:
    if isinstance(wanted, sympy.Eq) and isinstance(said, sympy.Eq) and not sympy.solve(wanted):
        return False  # by their solutions, all that have none would be the same
    if not all(isinstance(v, sympy.Expr) for v in (wanted, said)):
        return bool(verify(wanted, said, float_rounding=digits, timeout_seconds=None, raise_on_error=False))
    if wanted.is_number and said.is_number:
        return _equal_numbers(wanted, said, digits, decimal)
    if wanted == said:
        return True
    if symbolic.differ_somewhere(wanted, said):
        return False
    if _equal_in_general(wanted - said):
        return True
    return bool(verify(wanted, said, float_rounding=digits, timeout_seconds=None, raise_on_error=False))


def _equal_in_general(difference: Any) -> bool:
    """Whether a difference vanishes whatever the trigonometric functions in it are of: sin²(96x) + cos²(96x) − 1 does,
    and expanding the multiple angles, which takes minutes, is not needed."""
    angles = {f.args[0] for f in difference.atoms(TrigonometricFunction)}
    if not any(angle.args for angle in angles):
        return False
    general = difference.subs({angle: sympy.Dummy(real=angle.is_real) for angle in angles})
    return bool(sympy.simplify(general) == 0)


def _equal_numbers(wanted: Any, said: Any, digits: int, decimal: bool) -> bool:
    a, b = (sympy.N(v.doit(), _PRECISION) for v in (wanted, said))
    if a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
        return False
    if a.has(sympy.oo) or b.has(sympy.oo):
        return bool(a == b)
    size = max(abs(a), abs(b))
    return bool(abs(a - b) <= size * sympy.Float(10, _PRECISION) ** -(digits if decimal else _AGREEMENT) / 2)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[Any, bool]:
    latex = normalize_latex(text.replace(MONEY, "").replace(ROW, r"\\ "), _NORMALISE)
    if not latex or re.search(r"\d\s+\d", latex):
        raise ValueError("two numbers side by side")
    found = latex2sympy(
        latex,
        is_real=not should_treat_as_complex(latex),
        convert_degrees=False,
        normalization_config=None,
        conversion_config=_CONVERT,
    )
    if isinstance(found, sympy.Basic) and found.has(sympy.nan, sympy.zoo):
        raise ValueError("no number")
    return found, isinstance(found, sympy.Basic) and found.has(sympy.Float)
