"""Which part of an answer is the program.

Nothing here parses the program: Python's own parser is not made for texts that are written to break it.
"""

from __future__ import annotations

import re

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_LANGUAGES = ("python", "py", "python3")
_CODE = re.compile(
    r"^\s*(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+|import\s+\w|from\s+[\w.]+\s+import\b|[\w.\[\], ]+\s*[-+*/]?=[^=]|"
    r"[\w.]+\(.*\)\s*$|(?:for|while|if|with)\b.*:\s*$)",
    re.MULTILINE,
)


def program(text: str) -> str | None:
    """The last fenced block of Python, or the whole text where it looks like Python; None where there is neither.

    A block without a language counts where no block has one. A block that is not closed reaches to the end.
    """
    blocks = [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]
    for wanted in (_LANGUAGES, ("",)):
        found = [body for language, body in blocks if language in wanted and body.strip()]
        if found:
            return _dedented(found[-1])
    return text if not blocks and _CODE.search(text) else None


def defines(source: str, name: str) -> bool:
    """Whether a program has a function, class or variable of that name, as far as can be seen without parsing it."""
    return bool(
        re.search(rf"^[ \t]*(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=", source, re.M)
    )


def _dedented(block: str) -> str:
    """A block inside of a list is indented as a whole."""
    lines = block.splitlines()
    margin = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    first = next(line for line in lines if line.strip())
    if margin == 0 or not first.startswith(" ") or not re.match(r" *(def|class|import|from|#|@|\w+ *=)", first):
        return block
    return "\n".join(line[margin:] for line in lines)
