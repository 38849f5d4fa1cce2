"""Values as other tools read them: YAML 1.1 takes `5e-6` for text and `yes` for true; a command line knows text only.

Each reader raises ValueError with the words of a problem.
"""

from __future__ import annotations

from typing import Any

from plaudit.config.origins import words
from plaudit.config.tree import parse_text

_BOOLEANS = {"yes": True, "on": True, "y": True, "true": True, "no": False, "off": False, "n": False, "false": False}
_NOTHING = ("none", "null", "")


def plain(value: Any) -> Any:
    """A number, boolean or nothing that was written as text; all else as it is."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in _NOTHING:
        return None
    if value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    read = parse_text(value.strip())
    return read if isinstance(read, (int, float)) else value


def number(value: Any) -> float | int:
    """A number, also one in quotes."""
    read = plain(value)
    if isinstance(read, bool) or not isinstance(read, (int, float)):
        raise ValueError(f"expected a number, got {value!r}")
    return read


def whole(value: Any) -> int:
    """A whole number, also one in quotes or with .0."""
    read = number(value)
    if read != int(read):
        raise ValueError(f"expected a whole number, got {value!r}")
    return int(read)


def boolean(value: Any) -> bool:
    """True or false, also 0, 1, yes and no."""
    read = plain(value)
    if read in (0, 1, True, False):
        return bool(read)
    raise ValueError(f"expected true or false, got {value!r}")


def text(value: Any) -> str:
    """Text; a number is written out."""
    if isinstance(value, (dict, list)):
        raise ValueError(f"expected text, got {value!r}")
    return str(value)


def names(value: Any) -> list[str]:
    """A list of names, also as one text with commas or spaces."""
    return words(value)


def numbers(value: Any) -> list[float | int]:
    """A list of numbers, also as one text, or a single one."""
    return [number(part) for part in (value if isinstance(value, (list, tuple)) else names(value))]


def bounds(value: Any) -> tuple[float | int, float | int]:
    """A lower and an upper bound, also as one text: `(-5, 5)`."""
    found = numbers(value.strip("()") if isinstance(value, str) else value)
    if len(found) != 2:
        raise ValueError(f"expected two numbers, got {value!r}")
    return found[0], found[1]
