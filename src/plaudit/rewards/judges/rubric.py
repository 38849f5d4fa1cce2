"""Rubrics: what is judged, on which scale, and in which words.

    scale: 1-5
    criteria:
      - name: correct
        description: All that it says is true, and it says what was asked for.
        weight: 2
      - name: short
        description: Nothing could be left out.

Or plain text (any file that is not .yaml, .yml or .json): the whole of it is the one criterion.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from plaudit.config.keys import closest
from plaudit.config.problems import Problem
from plaudit.config.tree import Node, from_plain, plain, read_yaml
from plaudit.errors import ConfigError

HELPFULNESS = (
    "Helpfulness: the answer does what was asked for, is true, complete and clear, and says nothing that is beside the "
    "point. Its length, its tone and how sure it sounds are no merits in themselves."
)
_SUFFIXES = (".yaml", ".yml", ".json")
_KEYS = ("scale", "criteria", "system", "templates")
_CRITERION_KEYS = ("name", "description", "weight")
RESERVED = ("mass", "consistent", "p_first", "value")
"""Names of parts that are no criterion's."""
PLACEHOLDERS = {
    "score": ("prompt", "answer", "criterion", "scale", "reference"),
    "compare": ("prompt", "a", "b", "criterion"),
}
"""Kind of template → what it may name; in braces."""
_NEEDED = {"score": ("answer",), "compare": ("a", "b")}
_IN_BRACES = re.compile(r"\{([a-z_]+)\}")
_SCALE = re.compile(r"\s*(\d+)\s*(?:-|–|to|\.\.)\s*(\d+)\s*")
_LONGEST_SCALE = 100


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that is judged, by itself."""

    name: str
    description: str
    weight: float = 1.0


DEFAULT = (Criterion("helpfulness", HELPFULNESS),)
"""Where a rubric names no criteria."""
ADDITIVE = (
    "Points are added up, one for each of these statements that holds, up to five. "
    "First: the answer has to do with the request and tells something about it, even if it is incomplete or partly "
    "beside the point. "
    "Second: it deals with a substantial part of the request, even if it does not settle it. "
    "Third: it gives a useful reply to the basic elements of the request, whoever may have written it. "
    "Fourth: it is written as an assistant's own answer, addresses the request directly and completely, is clear and "
    "well organised, and leaves little to be improved. "
    "Fifth: it is made for this very request, with nothing superfluous, and shows expert knowledge and insight. "
    "An answer of which no statement holds has 0 points."
)
"""After the additive prompt of self-rewarding language models (Yuan et al. 2024, arXiv 2401.10020), in other words."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """What is judged.

    Attributes:
        criteria: each is asked for by itself; the value is their weighted mean.
        scale: lowest and highest score, whole numbers.
        system: a system message; None = none is sent (some models take none).
        templates: "score" and "compare" → the text of the question, with placeholders in braces.
    """

    criteria: tuple[Criterion, ...] = DEFAULT
    scale: tuple[int, int] = (1, 10)
    system: str | None = None
    templates: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A hash of its content."""
        return hashlib.blake2b(repr(asdict(self)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def with_scale(self, scale: tuple[int, int] | None) -> Rubric:
        """The same rubric on another scale; None leaves its own."""
        return self if scale is None else replace(self, scale=scale)

    @classmethod
    def read(cls, path: str | Path) -> Rubric:
        """A rubric from a file; or the one that is called additive.

        Raises:
            ConfigError: PL102, with every line and key that is wrong.
        """
        if str(path) == "additive":
            return cls((Criterion("additive", ADDITIVE),), (0, 5))
        file, problems = Path(path).expanduser(), list[Problem]()
        if file.suffix.lower() in _SUFFIXES:
            root = read_yaml(file, problems)
            _raise(problems)
            return cls._of_node(root)
        try:
            return cls.of(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            what = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                "PL102",
                f"the rubric cannot be read: {what}",
                where=str(file),
                mend="see docs/rewards.md for the form of a rubric",
            ) from error

    @classmethod
    def of(cls, value: Any, where: str) -> Rubric:
        """A rubric from a text (the one criterion) or a mapping with the keys of a file.

        Raises:
            ConfigError: PL102.
        """
        if not isinstance(value, str):
            return cls._of_node(from_plain(value, where))
        if not value.strip():
            _raise([Problem(where, "", "the rubric is empty")])
        return cls((Criterion("rubric", value.strip()),))

    @classmethod
    def _of_node(cls, root: Node) -> Rubric:
        problems: list[Problem] = []
        entries = _entries(root, "", _KEYS, problems)
        found: dict[str, Any] = {}
        if "scale" in entries:
            found["scale"] = _scale(entries["scale"], problems)
        if "system" in entries:
            found["system"] = _text(entries["system"], "system", problems)
        if "criteria" in entries:
            found["criteria"] = _criteria(entries["criteria"], problems)
        if "templates" in entries:
            several = len(found.get("criteria", ())) > 1
            found["templates"] = _templates(entries["templates"], several, problems)
        if not entries and not problems:
            problems.append(Problem(root.where, "", f"the rubric is empty: keys are {', '.join(_KEYS)}"))
        _raise(problems)
        return cls(**found)


def read_scale(value: Any) -> tuple[int, int]:
    """A scale: "1-10" or [1, 10].

    Raises:
        ValueError: it is none.
    """
    match = _SCALE.fullmatch(value) if isinstance(value, str) else None
    pair = [int(match[1]), int(match[2])] if match else value
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(type(n) is int for n in pair):
        raise ValueError(f"a scale is two whole numbers such as 1-10, got {value!r}")
    low, high = pair
    if not 0 <= low < high <= low + _LONGEST_SCALE:
        raise ValueError(f"a scale begins at 0 or more and has up to {_LONGEST_SCALE} steps upwards, got {value!r}")
    return low, high


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        lines = "\n".join(f"    {p}" for p in problems)
        where = problems[0].where
        mend = f"keys are {', '.join(_KEYS)}; a criterion has {', '.join(_CRITERION_KEYS)}"
        raise ConfigError("PL102", f"the rubric has errors:\n{lines}", where=where, mend=mend)


def _entries(node: Node, key: str, known: Sequence[str], problems: list[Problem]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        problems.append(Problem(node.where, key, f"must be made of keys ({', '.join(known)}), not {_kind(node)}"))
        return {}
    for name, inner in node.value.items():
        if name not in known:
            near = closest(name, list(known), 0.6)
            dotted = f"{key}.{name}" if key else name
            hint = f"did you mean {near}?" if near else f"keys are {', '.join(known)}"
            problems.append(Problem(inner.where, dotted, "unknown key", hint))
    return {name: inner for name, inner in node.value.items() if name in known}


def _scale(node: Node, problems: list[Problem]) -> tuple[int, int]:
    try:
        return read_scale(plain(node))
    except ValueError as error:
        problems.append(Problem(node.where, "scale", str(error)))
        return 1, 10


def _text(node: Node, key: str, problems: list[Problem]) -> str:
    if isinstance(node.value, str) and node.value.strip():
        return node.value.strip()
    problems.append(Problem(node.where, key, f"must be text, not {_kind(node)}"))
    return ""


def _criteria(node: Node, problems: list[Problem]) -> tuple[Criterion, ...]:
    if not isinstance(node.value, list) or not node.value:
        problems.append(Problem(node.where, "criteria", f"must be a list with at least one entry, not {_kind(node)}"))
        return ()
    found = [_criterion(inner, f"criteria.{i}", problems) for i, inner in enumerate(node.value)]
    names = [c.name for c in found]
    for name in sorted({n for n in names if n and names.count(n) > 1}):
        problems.append(Problem(node.where, "criteria", f"two of them are called {name!r}"))
    return tuple(found)


def _criterion(node: Node, key: str, problems: list[Problem]) -> Criterion:
    before = len(problems)
    entries = _entries(node, key, _CRITERION_KEYS, problems)
    for needed in ("name", "description"):
        if needed not in entries and len(problems) == before:
            problems.append(Problem(node.where, f"{key}.{needed}", "is required"))
    texts = {n: _text(entries[n], f"{key}.{n}", problems) for n in ("name", "description") if n in entries}
    name = texts.get("name", "")
    if name in RESERVED or "/" in name:
        what = f"{name!r} is no name for a criterion: it may have no slash, and is none of {', '.join(RESERVED)}"
        problems.append(Problem(entries["name"].where, f"{key}.name", what))
    weight = entries["weight"].value if "weight" in entries else 1.0
    if type(weight) not in (int, float) or not (math.isfinite(weight) and weight > 0):
        problems.append(Problem(entries["weight"].where, f"{key}.weight", f"must be a number above 0, got {weight!r}"))
        weight = 1.0
    return Criterion(name, texts.get("description", ""), float(weight))


def _templates(node: Node, several: bool, problems: list[Problem]) -> dict[str, str]:
    entries = _entries(node, "templates", list(PLACEHOLDERS), problems)
    found = {}
    for kind, inner in entries.items():
        key = f"templates.{kind}"
        text = found[kind] = _text(inner, key, problems)
        named = set(_IN_BRACES.findall(text))
        needed = [*_NEEDED[kind], *(["criterion"] if several else [])]
        for name in needed if text else []:
            if name not in named:
                problems.append(Problem(inner.where, key, f"has to name {{{name}}}"))
        for name in sorted(named - set(PLACEHOLDERS[kind])):
            near = closest(name, list(PLACEHOLDERS[kind]), 0.7)
            if near:  # anything else in braces is the template's own
                problems.append(Problem(inner.where, key, f"names {{{name}}}", f"did you mean {{{near}}}?"))
    return found


def _kind(node: Node) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}
    return names.get(type(node.value), "a number") if node.value != "" else "empty text"
