"""Which colours cannot be seen on a white page, as CSS and LaTeX write them."""

from __future__ import annotations

import re


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_NAMES = names("white transparent snow ivory ghostwhite whitesmoke floralwhite azure mintcream aliceblue seashell")
_MIXED = re.compile(r"white!(?:9\d|100)(?:\.\d*)?(?:!\w+)?")
_FUNCTION = re.compile(r"(rgb|hsl)a?\((.*)\)")
_NUMBER = re.compile(r"\d*\.\d+|\d+")
_LIGHT = 0.93


def is_light(colour: str, model: str = "") -> bool:
    """Whether a colour is white, next to it, or transparent.

    Args:
        colour: a name, #fff, rgb(255, 255, 255), white!95; or numbers, where there is a model.
        model: of xcolor: rgb, RGB, HTML, gray, cmyk.
    """
    colour, model = colour.strip().lower(), model.strip()
    if model == "HTML":
        colour = f"#{colour.lstrip('#')}"
    if colour in _NAMES or _MIXED.fullmatch(colour):
        return True
    if colour.startswith("#"):
        return _light_hex(colour[1:])
    numbers = [float(n) for n in _NUMBER.findall(colour[:200])]
    if (function := _FUNCTION.fullmatch(colour)) is not None:
        if len(numbers) == 4 and (numbers[3] < 1 - _LIGHT):
            return True
        if function[1] == "hsl":
            return len(numbers) >= 3 and numbers[2] >= 100 * _LIGHT
        most = 100 if "%" in colour.split(",")[0] else 255
        return len(numbers) >= 3 and min(numbers[:3]) >= most * _LIGHT
    if model == "cmyk":
        return len(numbers) == 4 and max(numbers) <= 1 - _LIGHT
    if model in ("rgb", "gray", "RGB"):
        return bool(numbers) and min(numbers) >= _LIGHT * (255 if model == "RGB" else 1)
    return False


def _light_hex(digits: str) -> bool:
    if not re.fullmatch(r"[0-9a-f]{3,8}", digits):
        return False
    wide = 1 if len(digits) < 6 else 2
    parts = [int(digits[i : i + wide] * (3 - wide), 16) / 255 for i in range(0, len(digits), wide)]
    return min(parts[:3]) >= _LIGHT or (len(parts) == 4 and parts[3] < 1 - _LIGHT)
