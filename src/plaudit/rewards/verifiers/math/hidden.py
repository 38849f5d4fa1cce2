"""What a reader of an answer does not see: comments, and text that is set invisibly.

An answer must not be right in one place for people and in another for the verifier, so this is removed before anything
is read.
"""

from __future__ import annotations

import re

_HTML = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_INVISIBLE_HTML = re.compile(
    r"<(\w+)\b[^<>]{0,300}?(?:\bhidden\b|display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0)[^<>]{0,300}>.*?(?:</\1\s*>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_LATEX_BLOCK = re.compile(
    r"\\begin\s*\{comment\}.*?(?:\\end\s*\{comment\}|\Z)|\\iffalse(?![a-zA-Z]).*?(?:\\fi(?![a-zA-Z])|\Z)", re.DOTALL
)
_PHANTOM = re.compile(r"\\[hv]?phantom\s*\{|\\(?:text)?color\s*\{\s*white\s*\}\s*\{|\\newcommand\b|\\def\b")
_FENCE = re.compile(r"^([ \t]*)(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_IN_CODE = re.compile(r'"""(?:.*?)(?:"""|\Z)|/\*.*?(?:\*/|\Z)|(?:#|//|--(?=\s)|%|;;).*?$', re.DOTALL | re.MULTILINE)
_PERCENT = re.compile(r"(?<!\\)%")
_AFTER_NUMBER = re.compile(r"[\d})$][ \t]*$|\\[,;! ]$")
_BOX = re.compile(r"\s*\\f?boxed?(?![a-zA-Z])|\s*(?:the )?(?:final )?answer", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*(?:of\b|[.,;:?!)]|$)")


def visible(text: str) -> str:
    """The text without comments of HTML, LaTeX and programs in code fences, and without what is set invisibly."""
    if "<" in text:
        text = _INVISIBLE_HTML.sub(" ", _HTML.sub(" ", text))
    if "```" in text or "~~~" in text:
        text = _FENCE.sub(lambda m: m[1] + _IN_CODE.sub("", m[3]), text)
    if "\\" in text:
        text = _without_groups(_LATEX_BLOCK.sub(" ", text))
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


def _without_groups(text: str) -> str:
    """Without the arguments of commands that show nothing."""
    while (match := _PHANTOM.search(text)) is not None:
        if not match[0].endswith("{"):  # a definition: up to the end of its line
            end = text.find("\n", match.end())
            text = text[: match.start()] + ("" if end < 0 else text[end:])
            continue
        depth, i = 1, match.end()
        while i < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        text = text[: match.start()] + text[i:]
    return text
