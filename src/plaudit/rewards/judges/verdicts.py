"""What a reply is worth: probabilities of options where there are some, else the one verdict that its text has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from plaudit.rewards.contract import Failure
from plaudit.rewards.judges.backend import Reply
from plaudit.rewards.thoughts import END
from plaudit.rewards.verifiers.reading import shown

FIRST, SECOND, TIE = "A", "B", "C"
"""Labels of a comparison, in the order of what is shown."""

_THOUGHT = re.compile(rf"\A.*(?:{END})", re.DOTALL | re.IGNORECASE)
_BRACKETS = re.compile(r"\[\[\s*([^\[\]]*?)\s*\]\]")
_NAMED = re.compile(
    r"\b(?:score|rating|verdict)\b[\s*_\"'`]*(?::|=|\bis\b)[\s*_\"'`\[(]*"
    r"(?P<is>-?\d+(?:\.\d+)?(?:\s*/\s*\d+)?(?![\w.]*\w)|(?-i:[A-Z])\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[\s*_\"'`\[(]*(?P<is>-?\d+(?:\.\d+)?(?:\s*/\s*\d+)?|[A-Z])[\s*_\"'`\])]*\.?[\s*_\"'`]*")


def without_thought(text: str) -> str:
    """A reply without the thought that some models have before it."""
    return _THOUGHT.sub("", text).strip()


def stated(text: str) -> list[str]:
    """The different verdicts that a reply states: [[7]], "Score: 7", "Verdict: A", or nothing but the verdict."""
    text = without_thought(text)
    whole = _BARE.fullmatch(text)
    found = [m[1] for m in _BRACKETS.finditer(text)] + [m["is"] for m in _NAMED.finditer(text)]
    if whole is not None:
        found.append(whole["is"])
    return list(dict.fromkeys(found))


def score_of(reply: Reply, scale: tuple[int, int], least_mass: float) -> tuple[float, float | None] | Failure:
    """The score on the scale, and the probability of all labels together.

    With probabilities it is their expectation, Σ p(l)·l / Σ p(l) over the labels l (G-Eval, Liu et al. 2023,
    arXiv 2303.16634). Without, the one number that the text states.
    """
    low, high = scale
    if reply.options is not None:
        shares = _shares(reply, [str(label) for label in range(low, high + 1)], least_mass)
        if isinstance(shares, Failure):
            return shares
        return math.fsum(int(label) * share for label, share in shares.items()), reply.mass
    numbers = {_number(each, high) for each in stated(reply.text)}
    if len(numbers) != 1:
        return _no_verdict(reply, f"{len(numbers)} scores" if numbers else "no score")
    [number] = numbers
    if number is None or not low <= number <= high:
        return _no_verdict(reply, f"no score from {low} to {high}")
    return number, None


def _number(text: str, high: int) -> float | None:
    """A number, or a number of the scale's highest ("7/10")."""
    value, slash, of = text.partition("/")
    try:
        return float(value) if not slash or int(of) == high else None
    except ValueError:
        return None


def preference_of(reply: Reply, least_mass: float) -> tuple[float, float | None] | Failure:
    """The probability that what was shown first is better (a tie counts half), and that of all labels together."""
    if reply.options is not None:
        shares = _shares(reply, [FIRST, SECOND, TIE], least_mass)
        if isinstance(shares, Failure):
            return shares
        return shares[FIRST] + shares[TIE] / 2, reply.mass
    found = set(stated(reply.text))
    worth = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}
    if len(found) != 1 or not found <= set(worth):
        return _no_verdict(reply, f"not one of {FIRST}, {SECOND} and {TIE}")
    return worth[found.pop()], None


def _shares(reply: Reply, labels: Sequence[str], least_mass: float) -> dict[str, float] | Failure:
    """Probabilities of the labels, renormalised over them."""
    assert reply.options is not None
    mass = reply.mass
    if not mass >= least_mass or mass <= 0:  # a NaN is no mass either
        return _no_verdict(reply, f"only {mass:.3g} of its probability on the labels (at least {least_mass:g})")
    return {label: math.exp(reply.options[label]) / mass for label in labels}


def _no_verdict(reply: Reply, what: str) -> Failure:
    return Failure("bad_reply", f"the judge's reply has {what}: {shown(reply.text)}")
