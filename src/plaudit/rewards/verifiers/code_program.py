"""Which part of an answer is the program.

Nothing here parses the program: Python's own parser is not made for texts that are written to break it.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Collection, Iterator

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_LANGUAGES = ("python", "py", "python3")
_CODE = re.compile(
    r"^\s*(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+|import\s+\w|from\s+[\w.]+\s+import\b|[\w.\[\], ]+\s*[-+*/]?=[^=]|"
    r"[\w.]+\(.*\)\s*$|(?:for|while|if|with)\b.*:\s*$)",
    re.MULTILINE,
)


_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^([A-Z][A-Z0-9_]*)[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE
)
"""Of variables only constants: an example's `x = 3` is no part of a function that calls its argument x."""
_IMPORTED = re.compile(r"^(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+\(?([\w., \t]+)", re.MULTILINE)


def program(text: str, wanted: Collection[str] = ()) -> str | None:
    """The program of an answer, of its last <answer>…</answer> where there is one; None where it has none.

    It is a fenced block of Python: the last that defines a wanted name, or else the last one; blocks behind it show how
    to call it. Earlier blocks that define what it uses, or another wanted name, stand before it: answers give helpers
    first. A block without a language counts where no block has one, or where none of those defines a wanted name. A
    block that is not closed reaches to the end. Without a fence it is the whole text, where that looks like Python.

    Args:
        text: the answer, from anybody.
        wanted: names that the tests use.
    """
    text = text.replace("\r\n", "\n")
    for inner in _answers(text):
        found = _program(inner, wanted)
        if found is not None:
            return found
    return _program(text, wanted)


def _answers(text: str) -> Iterator[str]:
    """What is in the last answer element that is no part of a program."""
    fences = [match.span() for match in _FENCE.finditer(text)]
    for match in reversed(list(_ANSWER.finditer(text))):
        before = bisect(fences, (match.start(), 0))
        if before == 0 or fences[before - 1][1] <= match.start():
            yield match[1]
            return


def _program(text: str, wanted: Collection[str]) -> str | None:
    blocks = [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]
    if not blocks:
        return text if _CODE.search(text) else None
    kinds = [
        [_dedented(body) for language, body in blocks if language in kind and body.strip()]
        for kind in (_LANGUAGES, ("",))
    ]
    for found in kinds:
        chosen = [i for i, block in enumerate(found) if any(defines(block, name) for name in wanted)]
        if chosen:
            return _with_helpers(found[: chosen[-1] + 1], wanted)
    return next((found[-1] for found in kinds if found), None)


def _with_helpers(blocks: list[str], wanted: Collection[str]) -> str:
    """The last block, behind the earlier ones that it needs: each name is taken from the last that defines it."""
    taken, have = [blocks[-1]], _names(blocks[-1])
    needs = set(wanted) | set(re.findall(r"\w+", blocks[-1]))
    for block in reversed(blocks[:-1]):
        names = _names(block)
        if (names - have) & needs:
            taken.insert(0, block)
            have |= names
            needs |= set(re.findall(r"\w+", block))
    return "\n".join(taken)


def _names(block: str) -> set[str]:
    """What a block defines or imports at its top level."""
    found = {match[1] or match[2] for match in _DEFINED.finditer(block)}
    for match in _IMPORTED.finditer(block):
        found |= {part.split()[-1].partition(".")[0] for part in match[1].split(",") if part.strip()}
    return found


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
