"""What an answer is made of: lists, sets, tuples, intervals, matrices, equations; and at the ends, single expressions.

Taking answers apart here, before an algebra system sees them, decides what may count as what. Two values that are
offered together ("1 or 2", ±5, a list, several boxes) are one answer with two values, and equal to nothing that has
one. An equation is a name for its value only if its left side is a name; otherwise each side has to be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from plaudit.rewards.verifiers.math.literal import is_decimal
from plaudit.rewards.verifiers.math.notation import ROW, joined_thousands

MOST_ITEMS = 60
_DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Atom:
    """A single expression, or words."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values together.

    Attributes:
        kind: list: side by side, or joined by "or" or ±; set: in braces; union: joined by ∪; these have no order.
            tuple: in brackets; matrix: rows, of which each is a tuple; ratio: a:b:c; these have one.
        brackets: of a tuple: the opening and the closing one.
    """

    kind: Literal["list", "set", "union", "tuple", "matrix", "ratio"]
    items: tuple[Node, ...]
    brackets: str = ""


@dataclass(frozen=True, slots=True)
class Equation:
    """A chain of sides.

    Attributes:
        names: the leading sides that only give the value a name: x, f(x), (x, y), x + y, words.
        sides: the others; one at least.
        text: all of it.
    """

    names: tuple[str, ...]
    sides: tuple[Node, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Relation:
    """An inequality that is no interval, or x ≠ 3."""

    operators: tuple[str, ...]
    sides: tuple[Node, ...]
    text: str = field(default="")


@dataclass(frozen=True, slots=True)
class Approximate:
    """A value, and a decimal behind ≈."""

    exact: Node
    rounded: Atom


Node = Atom | Group | Equation | Relation | Approximate


class Unreadable(Exception):
    """Too deep, too many, or brackets that do not fit."""


_OPEN, _CLOSE = "([{", ")]}"
_RELATIONS = re.compile(r"\\(?:le|ge|ne|approx|in|equiv|sim|subset|to)(?![a-zA-Z])|[=<>]")
_WORD_JOINT = re.compile(r"\s*,?(?<![a-zA-Z\\])(?:or|and)(?![a-zA-Z])\s*")
_ASIDE = re.compile(r"\(\s*(?:or|and)\s+([^()]*)\)")
_RESIDUE = re.compile(r"^[a-zA-Z]\s*\\equiv(?![a-zA-Z])\s*(?=.*\\pmod)")
_ANY_INTEGER = re.compile(
    r"[\s,;]*\(?\s*(?:\\text\{\s*(?:where|for|with|for all|for any)?\s*\})?\s*"
    r"([a-zA-Z])\s*\\in\s*\\mathbb\s*\{?[ZN]\}?\s*\)?$"
)
_FOR_ALL = re.compile(
    r"(?<=\S)[\s,]*\\text\{\s*for (?:all|any|every)\s*\}\s*[a-zA-Z]?(?:\s*\\in\s*\\mathbb\s*\{?[A-Z]\}?)?$"
)
_BUILDER = re.compile(r"\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||\\mid(?![a-zA-Z])|:)(.+)")
_PIERCED = re.compile(r"\\mathbb\s*\{?R\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},;]+)\\\}")
_OUTWARD = re.compile(r"([\[\]])([^\[\](),]+,[^\[\](),]+)([\[\]])")
_LEAD = re.compile(r"^(?:either|both|approximately|exactly|about|\\approx|=)\s+|^\\text\{\s*(?:either|both)\s*\}\s*|^=")
_CASES = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}")
_MATRIX = re.compile(
    r"\\begin\s*\{([pb]?matrix|small[pb]?matrix|array)\}(?:\s*\{[lcr|]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_NAME = re.compile(
    r"(?>[a-zA-Z]\s*(?:\^\s*\{\s*-1\s*\}\s*)?\([^()]*\)"  # f(2), P(X = 3), f^{-1}(x)
    r"|[a-zA-Z]|_\{?[a-zA-Z0-9]+\}?|\^?'+|\^\{\\prime\}|[\s+\-*(){},|/]|\\text\{[^{}\d]*\}"
    r"|\\(?!(?:sqrt|pi|infty|emptyset|pm|mp|begin|end|text|circ)(?![a-zA-Z]))[a-zA-Z]+)++"
)


def read(text: str, *, many: bool = False) -> Node:
    """The structure of a normalised text.

    Args:
        many: 1,234 are two numbers, because a list is expected.

    Raises:
        Unreadable: it has no structure.
    """
    return _node(text, many, 0)


def _node(text: str, many: bool, depth: int) -> Node:
    if depth > _DEEPEST:
        raise Unreadable("brackets within brackets without end")
    text = _stripped(text)
    if depth == 0:
        text = _whole(text)
        if not many:
            text = joined_thousands(text)
    pieces = _split(text, ",;", words=True)
    if len(pieces) > 1:
        return _list([_node(piece, many, depth + 1) for piece in pieces if piece.strip()])
    for reader in (_union, _relation, _bracketed, _plus_minus, _ratio):
        found = reader(text, many, depth)
        if found is not None:
            return found
    return Atom(text)


def _whole(text: str) -> str:
    """Without what is only said beside it (k ∈ ℤ, x ≡), cases as a list, ]0, 1[ as (0, 1)."""
    if (match := _CASES.fullmatch(text)) is not None:
        text = ", ".join(row.strip(" ,") for row in match[1].split(ROW) if row.strip(" ,"))
    if (match := _ANY_INTEGER.search(text)) is not None and match[1] in text[: match.start()]:
        text = text[: match.start()]
    text = _FOR_ALL.sub("", _RESIDUE.sub("", text))
    pieces = [_OUTWARD.fullmatch(piece.strip()) for piece in re.split(r"\\cup(?![a-zA-Z])", text)]
    if all(pieces) and any(piece[1] + piece[3] != "[]" for piece in pieces if piece):
        turned = [("[" if p[1] == "[" else "(") + p[2] + ("]" if p[3] == "]" else ")") for p in pieces if p]
        text = r"\cup ".join(turned)
    return text


def _stripped(text: str) -> str:
    """Without words that lead in, without braces and brackets around all of it that group only one thing."""
    text = _ASIDE.sub(r" or \1", text.strip().rstrip(" .")).strip()
    while (match := _LEAD.match(text)) is not None:
        text = text[match.end() :].strip()
    while len(text) > 1 and text[0] == "{" and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    while len(text) > 1 and text[0] == "(" and _closing(text, 0) == len(text) - 1:
        inside = text[1:-1].strip()
        if len(_split(inside, ",;", words=True)) > 1:
            break
        text = inside
    return text


def _closing(text: str, at: int) -> int:
    """Where the bracket at a place is closed; -1 where it is not. An interval may close with another kind."""
    depth = 0
    i = at
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text) and text[i + 1] not in "{}":
            i += 2
            continue
        if text[i] in _OPEN:
            depth += 1
        elif text[i] in _CLOSE:
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def _split(text: str, separators: str, *, words: bool = False) -> list[str]:
    """Parts at separators that are in no brackets; with `words`, at "or" and "and" too."""
    if not (any(s in text for s in separators) or (words and _WORD_JOINT.search(text))):
        return [text]
    parts, start, depth, i = [], 0, 0, 0
    while i < len(text):
        if text.startswith((r"\begin", r"\end"), i):
            depth += 1 if text[i + 1] == "b" else -1
            i += 4
        elif text.startswith(r"\text{", i):
            i = max(_closing(text, i + 5), i + 5)
        elif text[i] in _OPEN:
            depth += 1
        elif text[i] in _CLOSE:
            depth -= 1
        elif depth == 0 and text[i] in separators:
            parts.append(text[start:i])
            start = i + 1
        elif depth == 0 and words and (match := _WORD_JOINT.match(text, i)) is not None:
            parts.append(text[start:i])
            start = i = match.end()
            continue
        i += 1
    if depth:
        raise Unreadable("brackets that do not fit")
    return [*parts, text[start:]]


def _list(items: list[Node]) -> Node:
    """Several values side by side."""
    flat = _flat(items)
    if not flat:
        raise Unreadable("no value")
    return flat[0] if len(flat) == 1 else Group("list", flat)


def _flat(items: list[Node]) -> tuple[Node, ...]:
    """Lists in a list are one."""
    flat: list[Node] = []
    for item in items:
        flat += item.items if isinstance(item, Group) and item.kind == "list" else [item]
    if len(flat) > MOST_ITEMS:
        raise Unreadable(f"{len(flat)} values together")
    return tuple(flat)


def _union(text: str, many: bool, depth: int) -> Node | None:
    if r"\cup" not in text:
        return None
    pieces = _split(re.sub(r"\\cup(?![a-zA-Z])", "\x00", text), "\x00")
    if len(pieces) == 1:
        return None
    return Group("union", tuple(_node(piece.replace("\x00", r"\cup "), many, depth + 1) for piece in pieces))


def _relation(text: str, many: bool, depth: int) -> Node | None:
    operators, sides = _relation_parts(text)
    if not operators:
        return None
    if any(not side for side in sides):
        raise Unreadable("a relation without a side")
    if operators == [r"\in"] and _is_name(sides[0]):
        return _node(sides[1], many, depth + 1)
    if operators == [r"\ne"] and _VARIABLE.fullmatch(sides[0]):
        return _without_point(Atom(sides[1]))
    if operators[-1] == r"\approx" and is_decimal(sides[-1]):
        return Approximate(_node(text[: text.rindex(r"\approx")], many, depth + 1), Atom(sides[-1]))
    if all(op in ("=", r"\approx") for op in operators):
        return _equation(sides, text, many, depth)
    return _interval(operators, sides) or Relation(
        tuple(operators), tuple(_node(side, many, depth + 1) for side in sides), text
    )


def _without_point(point: Atom) -> Group:
    """All real numbers but one."""
    below, above = (Atom(r"-\infty"), point), (point, Atom(r"\infty"))
    return Group("union", (Group("tuple", below, "()"), Group("tuple", above, "()")))


def _relation_parts(text: str) -> tuple[list[str], list[str]]:
    """Operators and sides at top level."""
    if _RELATIONS.search(text) is None:
        return [], [text]
    operators = [match[0] for match in _RELATIONS.finditer(text)]
    waiting = iter(operators)
    top, sides = [], []
    for i, piece in enumerate(_split(_RELATIONS.sub("\x00", text), "\x00")):
        if i:
            top.append(next(waiting))
        sides.append(re.sub("\x00", lambda _: next(waiting), piece).strip())  # those inside of brackets
    return top, sides


def _equation(sides: list[str], text: str, many: bool, depth: int) -> Node:
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]):
        sides = sides[::-1]
    first = next((i for i, side in enumerate(sides[:-1]) if not _is_name(side)), len(sides) - 1)
    values = tuple(_node(side, many, depth + 1) for side in sides[first:])
    return Equation(tuple(re.sub(r"\s", "", side) for side in sides[:first]), values, text)


def _is_name(side: str) -> bool:
    """Whether a side is made of letters and words, and so gives a value a name instead of having one: x, f(2), AB."""
    return _NAME.fullmatch(side) is not None and re.search("[a-zA-Z]", side) is not None


_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda)\s*")


def _interval(operators: list[str], sides: list[str]) -> Node | None:
    """a < x < b, x ≥ a … with a single variable are intervals."""
    if any(op not in _FLIPPED for op in operators):
        return None
    if len(sides) == 2 and _VARIABLE.fullmatch(sides[1]):
        operators, sides = [_FLIPPED[operators[0]]], sides[::-1]
    if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) and not _VARIABLE.fullmatch(sides[1]):
        low, (op,) = Atom(sides[1]), operators
        if op in ("<", r"\le"):
            return Group("tuple", (Atom(r"-\infty"), low), "(" + (")" if op == "<" else "]"))
        return Group("tuple", (low, Atom(r"\infty")), ("(" if op == ">" else "[") + ")")
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[1]) and operators[0][-1] in "<e" and operators[1][-1] in "<>e":
        if operators[0] in (">", r"\ge"):
            operators, sides = [_FLIPPED[op] for op in operators[::-1]], sides[::-1]
        if any(op not in ("<", r"\le") for op in operators):
            return None
        brackets = ("(" if operators[0] == "<" else "[") + (")" if operators[1] == "<" else "]")
        return Group("tuple", (Atom(sides[0]), Atom(sides[2])), brackets)
    return None


def _bracketed(text: str, many: bool, depth: int) -> Node | None:
    if r"\begin" in text:
        return _matrix(text, many, depth)
    if (match := _PIERCED.fullmatch(text)) is not None:
        return _without_point(Atom(match[1]))
    if text.startswith(r"\{") and _closing(text, 1) == len(text) - 1 and text.endswith(r"\}"):
        inside = text[2:-2]
        if "|" in inside or r"\mid" in inside or (":" in inside and "," not in inside):
            match = _BUILDER.fullmatch(inside)
            return None if match is None else _node(match[1], many, depth + 1)
        items = [_node(piece, True, depth + 1) for piece in _split(inside, ",;", words=True) if piece.strip()]
        return Group("set", _flat(items)) if items else Atom(r"\emptyset")
    if text and text[0] in "([" and text[-1] in ")]" and _closing(text, 0) == len(text) - 1:
        items = [_node(piece, True, depth + 1) for piece in _split(text[1:-1], ",;")]
        if [getattr(item, "text", "").replace(" ", "").lstrip("+") for item in items] == [r"-\infty", r"\infty"]:
            return Atom(r"\mathbb{R}")
        return Group("tuple", tuple(items), text[0] + text[-1])
    return None


def _matrix(text: str, many: bool, depth: int) -> Node | None:
    """A matrix, in brackets or not, or a number times one."""
    if text[0] in "([" and text[-1] in ")]" and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    factor, begin, rest = text.partition(r"\begin")
    if (match := _MATRIX.fullmatch(begin + rest)) is None:
        return None
    factor = re.sub(r"(?:\\cdot|\\times|\*)\s*$", "", factor).strip()
    times = "" if not factor else "-1" if factor == "-" else factor
    rows = [row for row in match[2].split(ROW) if row.replace(r"\hline", "").strip()]
    cells = [[f"({times})({cell})" if times else cell for cell in row.split("&")] for row in rows]
    return Group(
        "matrix", tuple(Group("tuple", tuple(_node(cell, many, depth + 1) for cell in row), "[]") for row in cells)
    )


def _plus_minus(text: str, many: bool, depth: int) -> Node | None:
    if not re.search(r"\\(?:pm|mp)(?![a-zA-Z])", text):
        return None
    signs = (("+", "-"), ("-", "+"))
    texts = [re.sub(r"\\mp(?![a-zA-Z])", b, re.sub(r"\\pm(?![a-zA-Z])", a, text)) for a, b in signs]
    return Group("list", tuple(_node(each.lstrip("+ "), many, depth + 1) for each in texts))


def _ratio(text: str, many: bool, depth: int) -> Node | None:
    if text.count(":") < 2:
        return None
    pieces = _split(text, ":")
    return Group("ratio", tuple(_node(piece, many, depth + 1) for piece in pieces)) if len(pieces) > 2 else None
