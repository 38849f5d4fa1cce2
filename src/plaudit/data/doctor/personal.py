"""Personal data and secrets in text. What is found is counted and masked, and never leaves this module whole.

Patterns with a checksum are checked (cards: Luhn, ISO/IEC 7812; IBAN: remainder 1 modulo 97, ISO 13616). Addresses that
stand for nobody are no finding: example.com and the reserved endings (RFC 2606), private and documentation networks
(RFC 1918, 5737, 3849), the telephone numbers 555-01xx that are kept for fiction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

KINDS = {
    "emails": "e-mail addresses",
    "phones": "telephone numbers",
    "ip_addresses": "IP addresses",
    "ibans": "bank account numbers (IBAN)",
    "cards": "payment card numbers",
    "secrets": "keys and tokens",
}
"""Check → what it looks for."""
PLACEHOLDERS = {
    "emails": "[EMAIL]",
    "phones": "[PHONE]",
    "ip_addresses": "[IP]",
    "ibans": "[IBAN]",
    "cards": "[CARD]",
    "secrets": "[SECRET]",
}
"""Check → what `--fix` writes in place of a value."""

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_NOBODY = re.compile(r"[@.](?:example\.(?:com|org|net)|(?:[\w-]+\.)*(?:example|test|invalid|localhost|local))$")
_FILE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".py", ".js", ".css", ".json", ".md", ".txt")
_DIGITS = re.compile(r"\d(?:[ ().:/-]{0,2}\d){6}", re.ASCII)
"""Seven digits that belong together: without them no number is looked for."""
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,5}"
    r"|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4})(?![\w-]|\.\d)",
    re.ASCII,
)
_FICTION = re.compile(r"555[ .-]?01\d\d$", re.ASCII)
_CARD = re.compile(r"(?<![\w.+-])[3-6]\d(?:[ -]?\d){11,17}(?![\w-]|\.\d)", re.ASCII)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)", re.ASCII)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])", re.ASCII)
_VERSION = re.compile(r"(?:version|release|v|build)[ :=]*$", re.IGNORECASE)
_SECRET = re.compile(
    r"(?<![\w-])(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-(?=[\w-]*\d)[\w-]{20,}|[sr]k_live_\w{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?![\w-])"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[\s\S]{0,8000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----)?",
    re.ASCII,
)
_SECRET_HINTS = {
    "_": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_", "_live_", "npm_"),
    "-": ("glpat-", "sk-", "xox", "PRIVATE KEY"),
    "A": ("AKIA", "AIza"),
    "eyJ": ("eyJ",),
}
"""A character, then words with it: one of them is in every secret. Looking for words is ten times as fast as looking
for one of several patterns."""
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Value:
    """One value that was found."""

    kind: str
    start: int
    end: int
    masked: str
    """The value with all but a few characters hidden."""


def personal(text: str) -> list[Value]:
    """What a text has, by place. A character belongs to one value at most: secrets are looked for first, then IBANs,
    cards, telephone numbers, IP addresses and e-mail addresses, each in what is left.

    Args:
        text: any text.
    """
    found: list[Value] = []
    finders = _FINDERS if _DIGITS.search(text) else _FINDERS_WITHOUT_DIGITS
    for find in finders:
        values = list(find(text))
        for value in values:  # so that the next kind finds its values beside it and not across it
            text = text[: value.start] + "\0" * (value.end - value.start) + text[value.end :]
        found += values
    return sorted(found, key=lambda v: v.start)


def hide(text: str) -> str:
    """The text with every value masked: for examples and messages."""
    return replaced(text, lambda value: value.masked)


def replaced(text: str, by: Callable[[Value], str]) -> str:
    """The text with something else in the place of each value."""
    parts, end = [], 0
    for value in personal(text):
        parts += [text[end : value.start], by(value)]
        end = value.end
    return "".join([*parts, text[end:]])


def _secrets(text: str) -> Iterator[Value]:
    if any(sign in text and any(hint in text for hint in hints) for sign, hints in _SECRET_HINTS.items()):
        for m in _SECRET.finditer(text):
            yield _value("secrets", m, f"{m[0][:4]}… ({len(m[0])} characters)")


def _ibans(text: str) -> Iterator[Value]:
    for m in _IBAN.finditer(text):
        if _is_iban(m[0].replace(" ", "")):
            yield _value("ibans", m, f"{m[0][:2]}••…•{m[0][-2:]}")


def _cards(text: str) -> Iterator[Value]:
    for m in _CARD.finditer(text):
        digits = re.sub(r"\D", "", m[0])
        if len(set(digits)) > 1 and luhn(digits):
            yield _value("cards", m, f"•••• •••• {digits[-4:]}")


def _phones(text: str) -> Iterator[Value]:
    for m in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", m[0])
        if 8 <= len(digits) <= 15 and not _FICTION.search(m[0]):
            yield _value("phones", m, f"{m[0][:3]}•••{digits[-2:]}")


def _addresses(text: str) -> Iterator[Value]:
    if _DOTTED.search(text):
        for m in _IPV4.finditer(text):
            if _is_public(m[0]) and not _VERSION.search(text, max(0, m.start() - 12), m.start()):
                yield _value("ip_addresses", m, f"{m[0].split('.')[0]}.•.•.•")
    if text.count(":") > 1:
        for m in _IPV6.finditer(text):
            if _is_public(m[0]):
                yield _value("ip_addresses", m, f"{m[0].split(':')[0]}:•")


def _emails(text: str) -> Iterator[Value]:
    if "@" in text:
        for m in _EMAIL.finditer(text):
            address = m[0].lower()
            if not _NOBODY.search(address) and not address.endswith(_FILE_ENDINGS):
                yield _value("emails", m, f"{m[0][0]}•••@•••{m[0][m[0].rindex('.') :]}")


_FINDERS_WITHOUT_DIGITS = (_secrets, _addresses, _emails)
_FINDERS = (_secrets, _ibans, _cards, _phones, _addresses, _emails)


def _value(kind: str, match: re.Match[str], masked: str) -> Value:
    return Value(kind, match.start(), match.end(), masked)


def luhn(digits: str) -> bool:
    """Whether the check digit of a card number is right."""
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _is_public(text: str) -> bool:
    try:
        return ip_address(text).is_global
    except ValueError:
        return False
