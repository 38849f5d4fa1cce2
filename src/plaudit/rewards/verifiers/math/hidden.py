"""What a reader of an answer does not see: comments, and text that is set invisibly.

An answer must not be right in one place for people and in another for the verifier, so this is removed before anything
is read.
"""

from __future__ import annotations

import re

from plaudit.rewards.verifiers.unseen_html import without_unseen_html, without_unseen_markdown
from plaudit.rewards.verifiers.unseen_latex import without_unseen_latex

_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_IN_CODE = re.compile(r'"""(?:.*?)(?:"""|\Z)|/\*.*?(?:\*/|\Z)|(?:#|//|--(?=\s)|%|;;).*?$', re.DOTALL | re.MULTILINE)
_PERCENT = re.compile(r"(?<!\\)%")
_AFTER_NUMBER = re.compile(r"[\d})$][ \t]*$|\\[,;! ]$")
_BOX = re.compile(r"\s*\\f?boxed?(?![a-zA-Z])|\s*(?:the )?(?:final )?answer", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*(?:of\b|[.,;:?!)]|$)")


def visible(text: str) -> str:
    """The text without comments of HTML, Markdown, LaTeX and programs in code fences, and without what is set
    invisibly."""
    text = without_unseen_markdown(without_unseen_html(text))
    if "```" in text or "~~~" in text:
        text = _FENCE.sub(lambda m: m[1] + _IN_CODE.sub("", m[3]), text)
    text = without_unseen_latex(text)
    return "\n".join(map(_without_comment, text.split("\n"))) if "%" in text else text


def _without_comment(line: str) -> str:
    r"""A line up to a comment of LaTeX. A percent sign behind a number means percent, and so does one in "% of", unless
    a box or an answer comes directly behind it."""
    for match in _PERCENT.finditer(line):
        before, after = line[: match.start()], line[match.end() : match.end() + 100]
        means_percent = _AFTER_NUMBER.search(before[-30:]) is not None or (
            not before.isspace() and bool(before) and _GOES_ON.match(after) is not None
        )
        if not means_percent or _BOX.match(after):
            return before
    return line
