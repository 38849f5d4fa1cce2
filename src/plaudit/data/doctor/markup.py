"""Parts of chat templates inside texts, and conversations that templates refuse."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plaudit.data.turns import Message

SPECIAL = re.compile(
    r"<\|[a-z][a-z0-9_]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<\|?eot_id\|?>"
    r"|\A\s*<(?:s|bos)>|<(?:/s|eos)>\s*\Z"
)
"""Control tokens of ChatML, Llama 2-4, Gemma, Mistral, Phi, DeepSeek and others. `<s>` and `</s>` count at the ends
only: inside they are HTML's struck-out text. A tokenizer makes real control tokens of them."""
_AT_START = re.compile(rf"\A(?:\s*(?:{SPECIAL.pattern}))+\s*")
_AT_END = re.compile(rf"\s*(?:(?:{SPECIAL.pattern})\s*)+\Z")
ROLE_MARKER = re.compile(
    r"^[ \t]*(?:#{2,3} ?(?:Human|User|Assistant|Instruction|Response|Input|System):?|(?:Human|User|Assistant):)[ \t]*",
    re.MULTILINE,
)
"""A line that begins a turn of its own in the plain-text formats (HH, Alpaca, Vicuna)."""


def special(text: str) -> re.Match[str] | None:
    """The first special token."""
    return SPECIAL.search(text) if "<" in text or "INST]" in text else None


def role_marker(text: str) -> re.Match[str] | None:
    """The first line that begins a turn."""
    return ROLE_MARKER.search(text) if ":" in text or "##" in text else None


def without_ends(text: str) -> str:
    """The text without special tokens, and the white space around them, at its beginning and its end."""
    return _AT_END.sub("", _AT_START.sub("", text))


def turn_problem(messages: Sequence[Message]) -> str | None:
    """Why common templates (Llama 2, Gemma, Mistral) refuse a conversation or show it wrongly; None where they do not.

    Messages of tools and assistant turns around them may follow each other as they like.
    """
    before = ""
    for place, message in enumerate(messages, start=1):
        role = message.role
        if role == "system":
            if place > 1:
                return f"message {place} is a system message behind other messages"
        elif before in ("", "system") and role != "user":
            return f"the first turn is the {role}'s"
        elif role == before and role != "tool" and not message.tool_calls:
            return f"messages {place - 1} and {place} are both the {role}'s"
        before = role
    return None
