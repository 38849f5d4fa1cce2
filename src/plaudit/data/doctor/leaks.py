"""Answers that begin with their prompt, or quote it."""

from __future__ import annotations

import re

from plaudit.data.doctor.thresholds import LEAK_CHARACTERS, QUOTE_CHARACTERS
from plaudit.data.turns import Turns

_LAST_TURN = re.compile(r"(?:Human|User|Instruction):", re.IGNORECASE)
_ANSWER_MARK = re.compile(r"(?:#{2,3} ?)?(?:Assistant|Response):\Z", re.IGNORECASE)


def question(prompt: Turns | None) -> str:
    """What an answer would repeat: the last user's message; of text the last turn of it."""
    if prompt is None:
        return ""
    if not isinstance(prompt, str):
        return next((m.content or "" for m in reversed(prompt) if m.role == "user"), "").strip()
    last = _LAST_TURN.split(prompt)[-1] if ":" in prompt else prompt
    return _ANSWER_MARK.sub("", last.rstrip()).strip()


def without_question(asked: str, answer: str) -> str | None:
    """The answer without the question that it begins with; None where it does not."""
    if len(asked) < LEAK_CHARACTERS:
        return None
    rest = answer.lstrip()
    return rest[len(asked) :].lstrip(" \t\r\n:") if rest.startswith(asked) else None


def quotes(asked: str, answer: str) -> bool:
    """Whether the answer contains the question further on."""
    return len(asked) >= QUOTE_CHARACTERS and answer.find(asked, 1) > 0
