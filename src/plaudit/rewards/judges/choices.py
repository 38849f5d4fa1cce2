"""Probabilities of options from the most likely tokens that an endpoint reports.

An endpoint reports tokens, and its tokenizer is not known: "10" may be one token or two. Where the token "1" is
reported and could be the beginning of "10", the next position decides, as far as it is that of "1". What nothing
decides counts for no option, and so shows in the mass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plaudit.rewards.thoughts import END

_DRESS = " \t\r\n[]()*_\"'`.:"
"""Characters around a verdict that say nothing."""
_BEFORE = re.compile(
    rf"(?:.*(?:{END}))?"
    r"[\s\[(*_\"'`#]*"
    r"(?:(?:final\s+)?(?:score|rating|verdict|answer)\b[\s*_\"'`]*(?:is\b|[:=])?[\s\[(*_\"'`]*)?",
    re.DOTALL | re.IGNORECASE,
)
"""What may stand before a verdict: a thought, formatting, and the word for it."""


@dataclass(frozen=True, slots=True)
class Position:
    """A token of a reply.

    Attributes:
        token: its text.
        likely: texts and log-probs (nats) of the most likely tokens there, the reply's own among them.
    """

    token: str
    likely: Sequence[tuple[str, float]]


def option_logprobs(positions: Sequence[Position], options: Sequence[str]) -> dict[str, float]:
    """Log-probabilities that the reply is each of the options, given the formatting that it began with.

    Tokens that differ in spaces and formatting only are added up. -inf for an option of which nothing is reported.
    """
    found = dict.fromkeys(options, 0.0)
    if positions:
        start = _start(positions)
        merges = any(
            _clean(t) in options or _clean(t).isdigit() for t, _ in positions[start].likely if len(_clean(t)) > 1
        )
        _walk(positions, start, "", 1.0, found, merges)
    return {option: math.log(p) if p > 0 else -math.inf for option, p in found.items()}


def _start(positions: Sequence[Position]) -> int:
    """The position where the verdict begins; the first one where there is none."""
    match = _BEFORE.match("".join(p.token for p in positions))
    before, at = (match.end() if match else 0), 0
    for i, position in enumerate(positions):
        at += len(position.token)
        if at > before:
            return i
    return 0


def _clean(token: str) -> str:
    return token.strip(_DRESS)


def _walk(
    positions: Sequence[Position], at: int, said: str, mass: float, found: dict[str, float], merges: bool
) -> None:
    """Give `mass`, the probability of having said `said`, to the options that it is or becomes."""
    position, gone = positions[at], 0.0
    own = _clean(position.token) if not said else position.token.rstrip(_DRESS)
    by_text: dict[str, float] = {}
    for token, logprob in position.likely:
        text = _clean(token) if not said else token.rstrip(_DRESS)
        by_text[text] = by_text.get(text, 0.0) + math.exp(logprob)
    for text, p in by_text.items():
        whole = said + text
        if not text or not any(option.startswith(whole) for option in found):
            continue
        gone += p
        if not _longer(whole, found) or (merges and not said):
            if whole in found:
                found[whole] += mass * p
        elif text == own and at + 1 < len(positions):
            _walk(positions, at + 1, whole, mass * p, found, merges)
        elif text == own and whole in found:  # the reply ended here
            found[whole] += mass * p
    if said in found:
        found[said] += mass * max(0.0, 1.0 - gone)


def _longer(text: str, options: Mapping[str, float]) -> bool:
    return any(option.startswith(text) and option != text for option in options)
