r"""What LaTeX has in a text and does not show: conditions that do not hold, labels, phantoms, definitions, white text.

All of it is read in two passes, whose time is linear in the text. Where it depends on the program whether something is
seen (\color{white}{…} colours an argument in one and the rest of the group in another), it is taken for unseen.
"""

from __future__ import annotations

import re

from plaudit.rewards.verifiers.colours import is_light, names
from plaudit.rewards.verifiers.unseen_html import sets_invisibly

_BLOCK = re.compile(r"\\begin\s*\{comment\}.*?(?:\\end\s*\{comment\}|\Z)", re.DOTALL)
_CONDITION = re.compile(r"\\(?:(if)(?!f(?![a-zA-Z]))[a-zA-Z@]*|(fi)(?![a-zA-Z@]))|\\.", re.DOTALL)
r"""\iff is a sign of mathematics."""
_UNSEEN = names(
    "phantom hphantom vphantom label index glossary nocite cite ref eqref pageref invisible @gobble pdfcomment href "
    "hyperlink hypertarget class cssId htmlId htmlClass htmlData"
)
"""Commands whose first argument is not shown."""
_DEFINES = names(
    "newcommand renewcommand providecommand def gdef edef xdef let DeclareMathOperator newenvironment renewenvironment "
    "newsavebox savebox sbox setbox definecolor colorlet"
)
_STYLES = frozenset(("style", "htmlStyle"))
_TOKEN = re.compile(r"\\([a-zA-Z@]+)\*?|\\.|[{}]|\$\$?|\\\Z", re.DOTALL)
_SPECIFIED = re.compile(r"\s*(?:\[([^\[\]{}]{0,40})\])?\s*\{([^{}]{0,200})\}")
_OPTION = re.compile(r"\s*(?:\[[^\[\]{}]{0,200}\]\s*)?")
_DEFINED = re.compile(
    r"\\definecolor\s*\{([^{}]{1,60})\}\s*\{([^{}]{1,20})\}\s*\{([^{}]{1,60})\}|\\colorlet\s*\{([^{}]{1,60})\}\s*\{([^{}]{1,60})\}"
)
_NOTHING = re.compile(r"\s*0*(?:\.0\d*)?\s*")
_OPENS, _CLOSES = ("\\(", "\\["), ("\\)", "\\]")


def without_unseen_latex(text: str) -> str:
    """A text without what would not be seen of it on paper."""
    if "\\" not in text:
        return text
    text = _without_conditions(_BLOCK.sub(" ", text))
    light = {d[1] or d[4] for d in _DEFINED.finditer(text) if is_light(d[3] or d[5], d[2] or "")}
    kept, at, look, in_math = list[str](), 0, 0, False
    while (token := _TOKEN.search(text, look)) is not None:
        look = token.end()
        if token[0][0] == "$":
            in_math = not in_math
        elif token[0] in _OPENS + _CLOSES:
            in_math = token[0] in _OPENS
        end = _unseen_until(text, token, light, in_math) if token[1] else None
        if end is not None:
            kept.append(text[at : token.start()])
            at = look = end
    return "".join(kept) + text[at:]


def _without_conditions(text: str) -> str:
    """Without everything from an \\if… to its \\fi, whatever the condition is."""
    kept, at, depth = list[str](), 0, 0
    for token in _CONDITION.finditer(text):
        if token[1]:
            if not depth:
                kept.append(text[at : token.start()] + " ")
            depth += 1
        elif token[2] and depth:
            depth -= 1
            at = token.end() if not depth else at
    return "".join(kept) + ("" if depth else text[at:])


def _unseen_until(text: str, token: re.Match[str], light: set[str], in_math: bool) -> int | None:
    """Where what a command hides ends; None where it hides nothing."""
    name, at = token[1], token.end()
    if name in _UNSEEN:
        start = at + len(_OPTION.match(text, at)[0])  # type: ignore[index]  # it matches nothing, too
        return _group_end(text, start) if text.startswith("{", start) else None
    if name in _DEFINES:
        return _definition_end(text, at)
    if name not in ("color", "textcolor", "transparent", "texttransparent", "scalebox") and name not in _STYLES:
        return None
    said = _SPECIFIED.match(text, at)
    if said is None:
        return None
    if name in _STYLES:
        unseen = sets_invisibly(said[2])
    elif "color" in name:
        unseen = said[2].strip() in light or is_light(said[2], said[1] or "")
    else:
        unseen = _NOTHING.fullmatch(said[2]) is not None
    if not unseen:
        return None
    if name in ("color", "transparent"):
        return _scope_end(text, said.end(), light, in_math)
    start = said.end() + len(text[said.end() : said.end() + 20]) - len(text[said.end() : said.end() + 20].lstrip())
    return _group_end(text, start) if text.startswith("{", start) else min(start + 1, len(text))


def _group_end(text: str, at: int) -> int:
    """Behind the group that begins at a brace; the text's end where it is not closed."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return len(text)


def _definition_end(text: str, at: int) -> int:
    """The end of the line, or of the line where the braces are closed."""
    depth = 0
    for token in re.compile(r"\\.|[{}\n]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth < 0 or (token[0] == "\n" and not depth):
            return token.start()
    return len(text)


def _scope_end(text: str, at: int, light: set[str], in_math: bool) -> int:
    """Where a colour stops: with its group, its formula, or at another colour."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth < 0:
            return token.start()
        if depth:
            continue
        if token[1] == "normalcolor" or (in_math and (token[0][0] == "$" or token[0] in _CLOSES)):
            return token.start()
        if token[1] == "color":
            said = _SPECIFIED.match(text, token.end())
            if said is not None and said[2].strip() not in light and not is_light(said[2], said[1] or ""):
                return token.start()
    return len(text)
