"""Where a model's thought ends and its answer begins, in the marks of the models that are known."""

from __future__ import annotations

import re

_NAMES = r"(?:think(?:ing)?|thought|reasoning|seed:think)"
"""Elements: most models, Gemma's tuned ones, Seed-OSS."""
_START = (
    rf"<{_NAMES}>|<\|begin_of_thought\|>|<\|start_thinking\|>|◁think▷|(?-i:\[THINK\])"
    r"|<\|channel\|>\s*(?!final\b)\w+[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>"
)
END = (
    rf"</{_NAMES}>|<\|end_of_thought\|>|<\|end_thinking\|>|◁/think▷|(?-i:\[/THINK\])"
    r"|<\|channel\|>\s*final\b[^<]{0,200}(?:<\|constrain\|>[^<]{0,200})?<\|message\|>"
)
"""Sky-T1, Command A, Kimi, Magistral (whose marks are capital letters: a "[think]" in a text is none), and harmony
(gpt-oss), where every channel but the final one is thought. Without regard to case."""
_STARTS, _ENDS = re.compile(_START, re.IGNORECASE), re.compile(END, re.IGNORECASE)
_OPENED = re.compile(rf"(?:^|[\n>\]▷])\s*(?:{_START})\s*\Z", re.IGNORECASE)
"""A prompt that ends with an opening mark on a line of its own or behind the template's own marks."""
_HARMONY_END = re.compile(r"\s*<\|(?:return|end|call)\|>\s*\Z")
_TAIL = 500
"""Characters of a prompt's end that can hold an opening mark."""


def behind_thought(text: str, prompt: str = "") -> str:
    """What follows the last mark that ends a thought; nothing where a thought was opened behind it and never closed,
    because then the answer was not reached. A text without marks is its own answer.

    Args:
        prompt: what stood before the text; a thought may have been opened there.
    """
    opened = _OPENED.search(prompt[-_TAIL:]) is not None
    end = 0
    for mark in _ENDS.finditer(text):
        end = mark.end()
    if (opened and not end) or _STARTS.search(text, end):
        return ""
    rest = text[end:]
    return _HARMONY_END.sub("", rest) if end and text[:end].endswith("<|message|>") else rest
