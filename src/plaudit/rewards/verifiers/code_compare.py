"""Whether what a program printed or returned is what was expected. Texts and values come from anybody."""

from __future__ import annotations

import math
import reprlib
from typing import Any

_MOST_TEXT = 80


def same_text(printed: str, wanted: str, tolerance: float | None = None) -> bool:
    """Exactly, but for white space at the ends of lines and for empty lines at the end.

    With a tolerance, word by word: numbers may differ by it, absolutely or relative to the expected one.
    """
    mine, theirs = _lines(printed), _lines(wanted)
    if mine == theirs:
        return True
    if tolerance is None or len(mine) != len(theirs):
        return False
    return all(
        len(a.split()) == len(b.split())
        and all(x == y or _near(_number(x), _number(y), tolerance) for x, y in zip(a.split(), b.split(), strict=True))
        for a, b in zip(mine, theirs, strict=True)
    )


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _near(mine: Any, wanted: Any, tolerance: float) -> bool:
    """Relative to the expected number alone: relative to the larger one, a huge number would be near to any."""
    if mine is None or wanted is None:
        return False
    try:
        distance = abs(mine - wanted)
        return mine == wanted or bool(math.isfinite(distance) and distance <= tolerance * max(1.0, abs(wanted)))
    except (OverflowError, TypeError):
        return False


def same_value(returned: Any, wanted: Any, tolerance: float | None = None) -> bool:
    """Equal as plain data: tuples are lists, because expected values come out of JSON, and so are the keys of mappings
    texts where those of the expected ones are. True is 1, as in Python.
    """
    if isinstance(returned, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(returned) == len(wanted) and all(
            same_value(a, b, tolerance) for a, b in zip(returned, wanted, strict=True)
        )
    if isinstance(returned, dict) and isinstance(wanted, dict):
        return _same_mapping(returned, wanted, tolerance)
    numbers = isinstance(returned, (int, float)) and isinstance(wanted, (int, float))
    if numbers and tolerance is not None and _near(returned, wanted, tolerance):
        return True
    return (numbers or type(returned) is type(wanted)) and bool(returned == wanted)


def _same_mapping(returned: dict[Any, Any], wanted: dict[Any, Any], tolerance: float | None) -> bool:
    if len(returned) != len(wanted):
        return False
    if returned.keys() != wanted.keys() and all(isinstance(key, str) for key in wanted):
        if not all(
            isinstance(key, (str, int)) and abs(key if isinstance(key, int) else 0) < 1 << 63 for key in returned
        ):
            return False
        returned = {str(key): value for key, value in returned.items()}
    return returned.keys() == wanted.keys() and all(same_value(returned[k], wanted[k], tolerance) for k in wanted)


class _Short(reprlib.Repr):
    """Numbers of millions of digits are not written out: Python refuses to, and it would take minutes."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"<a number of {x.bit_length()} bits>"


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _MOST_TEXT


def shown(value: Any) -> str:
    """A value as notes show it: in one line, cut."""
    text = _SHORT.repr(value)
    return text if len(text) <= 2 * _MOST_TEXT else f"{text[: 2 * _MOST_TEXT]}…"
