"""Units beside a number: what is counted or measured is not the answer, but a wrong unit is none either.

A unit in words, in \\text{…} or as a currency sign is taken off. Where both sides have a unit that is known here, and
not the same one, they differ: 5 cm is not 5 m, 5 m/s not 5 m/s². Nothing is converted. Unknown words
(apples) say nothing.
"""

from __future__ import annotations

import re

from plaudit.rewards.verifiers.math.notation import MONEY

_NAMES = {
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "km": "km kilometer kilometre",
    "m": "meter metre", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile",
    "kg": "kg kilogram", "mg": "mg milligram", "g": "gram", "lb": "lb pound", "oz": "oz ounce", "ton": "ton tonne",
    "l": "liter litre", "ml": "ml milliliter millilitre", "gal": "gallon gal", "s": "second sec", "min": "minute min",
    "h": "hour hr", "day": "day", "week": "week", "month": "month", "year": "year yr", "degree": "degree deg",
    "radian": "radian rad", "dollar": "dollar usd buck", "cent": "cent", "euro": "euro eur", "rupee": "rupee rs",
    "km/h": "kmh kph kmph", "mi/h": "mph", "unit": "unit", "point": "point pt", "N": "newton", "J": "joule",
    "W": "watt", "V": "volt", "Pa": "pascal pa", "kPa": "kpa", "Hz": "hertz hz", "kJ": "kj kilojoule",
    "kW": "kw kilowatt",
    "A": "ampere amp", "K": "kelvin", "C": "coulomb", "ohm": "ohm", "mol": "mol mole", "yen": "yen jpy",
    "pound sterling": "gbp",
}  # fmt: skip
_KNOWN = {word: unit for unit, words in _NAMES.items() for word in words.split()}
_KNOWN |= {word + "s": unit for word, unit in _KNOWN.items()}
_SHORT = {"m": "m", "s": "s", "g": "g", "h": "h", "L": "l", "l": "l", "N": "N", "J": "J", "V": "V", "W": "W"}
"""Units of one letter; without \\text they may as well be variables."""
_IN_TEXT = _SHORT | {"K": "K", "A": "A", "C": "C", "F": "F"}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_NO_UNITS = """
or and not nor plus minus times over maybe perhaps is are to than more less at least most about either neither both if
one two three four five six seven eight nine ten eleven twelve lakh crore tens hundreds dozens ones doubled but
tripled halved unless except between hundred thousand million billion trillion dozen half percent none no yes true
false mod modulo base where for all with when such that any integer otherwise tenth hundredth thousandth millionth
third quarter fifth sixth seventh eighth ninth factorial negative opposite reciprocal inverse double twice triple root
pi
"""
_BLOCKED = frozenset(_NO_UNITS.split())
"""Words that change a number or say something about it; what they are in is no unit."""
_TEXT_TAIL = re.compile(r"\\text\{([^{}]*)\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_WORD_TAIL = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z]{2,})\s*\.?\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_LETTER_TAIL = re.compile(r"(?<=[\d\s}])([msghLlNJVW])\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\{?[CF]\}?)?\s*$")
_JOINER = re.compile(r"(?:/|\\cdot|\*|\bper|\\times)\s*$")
_VALUE_END = re.compile(r"[\d})\]a-zA-Z!|]$")
_MONEY_WORDS = {
    "rs": "rupee", "inr": "rupee", "rupee": "rupee", "usd": "dollar", "us": "dollar", "eur": "euro", "euro": "euro",
    "gbp": "pound sterling", "pound sterling": "pound sterling", "yen": "yen", "jpy": "yen",
}  # fmt: skip
_CURRENCY = re.compile(
    rf"^([-+]?)\s*(?:{MONEY}|\\text\{{\s*({'|'.join(_MONEY_WORDS)})\.?\s*(?:{MONEY})?\s*\}}|(Rs\.?|USD|EUR|INR)(?![a-zA-Z]))"
    r"\s*(?=[\d.\\{-])",
    re.IGNORECASE,
)
_UNIT = r"(?:\\text\{[a-zA-Z /.^\d{}-]*?\}|[a-zA-Z]+|\\Omega(?![a-zA-Z]))(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_MEASURE = re.compile(
    rf"(?<![a-zA-Z\\])(?<!\\text\{{)\s*({_UNIT}(?:\s*(?:/|\\cdot(?![a-zA-Z])|\*|(?<=\}})\s*(?=\\text))\s*{_UNIT})*)$"
)
_FACTOR = re.compile(r"([a-zA-Z]+)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?")


def without_units(text: str, *, letters: bool) -> tuple[str, str]:
    """(the text without its unit, the unit in one spelling; empty where none is known).

    Args:
        text: normalised.
        letters: take a single letter behind a number for a unit (5 m), because no variable is asked for.
    """
    unit, powers = "", 1
    if (match := _CURRENCY.search(text)) is not None:
        unit = _MONEY_WORDS.get((match[2] or match[3] or "usd").strip(". ").lower(), "dollar")
        text = match[1] + text[match.end() :]
    if (match := _DEGREES.search(text)) is not None:
        return text[: match.start()].strip(), "degree"
    if (measured := _measure(text, letters)) is not None:
        return measured
    kept, words, joined = text, [], False
    while (tail := _tail(kept, letters)) is not None:
        rest, word, power = tail
        if (match := _JOINER.search(rest)) is not None:
            rest, joined = rest[: match.start()], True
        words.append(word)
        powers = max(powers, power)
        kept = rest.strip()
    if (
        all(word.lower() in _POWERS for word in words)
        or not _VALUE_END.search(kept)
        or not re.search(r"\d|\\pi|\\sqrt|\\frac", kept)
    ):
        return text, unit
    return kept, unit or _name(words, powers, joined)


def _measure(text: str, letters: bool) -> tuple[str, str] | None:
    """(what is before it, the unit in one spelling) of a product or quotient of known units: m/s^2, kg·m; else None."""
    match = _MEASURE.search(text)
    if (
        match is None
        or not _VALUE_END.search(text[: match.start()])
        or not re.search(r"\d|\\pi", text[: match.start()])
    ):
        return None
    written, said = "\\text" in match[1], re.sub(r"\\text\{([^}]*)\}", r"\1", match[1]).replace(r"\Omega", "ohm")
    factors = re.split(r"(/|\\cdot|\*|\s+)", said.strip())
    if not (written or letters or ("/" in said and text[: match.start(1)].endswith(" "))):
        return None
    powers: dict[str, int] = {}
    under = False
    for factor in factors:
        if factor.strip() in ("", "*", r"\cdot", "/"):
            under |= factor == "/"
            continue
        found = _FACTOR.fullmatch(factor.strip().rstrip("."))
        name = found and ((_IN_TEXT if written else _SHORT).get(found[1]) or _KNOWN.get(found[1].lower()))
        if not found or not name:
            return None
        powers[name] = powers.get(name, 0) + (-1 if under else 1) * int(found[2] or 1)
    over = "·".join(name if n == 1 else f"{name}^{n}" for name, n in sorted(powers.items()) if n > 0)
    below = "·".join(name if n == -1 else f"{name}^{-n}" for name, n in sorted(powers.items()) if n < 0)
    return text[: match.start()].strip(), f"{over}/{below}" if below else over


def _tail(text: str, letters: bool) -> tuple[str, str, int] | None:
    """(what stands before, words, power) of a last unit."""
    match = _TEXT_TAIL.search(text) or _WORD_TAIL.search(text) or (letters and _LETTER_TAIL.search(text)) or None
    if match is None:
        return None
    inside = match[1].strip(" .,()")
    found = re.findall(r"[a-zA-Z]+", inside.lower())
    bare = not match[0].startswith("\\")
    if (
        _BLOCKED.intersection(w for each in found for w in (each, each.removesuffix("s")))
        or any(c.isdigit() for c in inside)
        or re.search(r"[,;:=<>]", inside)
    ):
        return None
    if not found and inside:
        return None
    if bare and len(inside) > 1 and inside.lower() not in _KNOWN and not _is_prose(text[: match.start()], inside):
        return None
    return text[: match.start()], inside, int(match[2] or 1)


def _is_prose(before: str, word: str) -> bool:
    """Whether a word that is no known unit stands behind a blank, as in "7 apples", and is too long for variables."""
    return len(word) > 3 and before.endswith(" ")


def _name(words: list[str], power: int, joined: bool) -> str:
    """The unit in one spelling, where all of its words are known."""
    found = []
    for word in re.findall(r"[a-zA-Z]+", " ".join(reversed(words))):
        lower = word.lower()
        if lower in _POWERS:
            power = max(power, _POWERS[lower])
        elif (unit := _SHORT.get(word) or _KNOWN.get(lower)) is not None:
            found.append(unit)
        elif lower not in ("per", "a", "of"):
            return ""
    if not found or joined or len(found) > 1:
        return ""
    return found[0] if power == 1 else f"{found[0]}^{power}"
