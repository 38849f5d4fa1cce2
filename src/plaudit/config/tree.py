"""A configuration before validation: plain values that remember the line they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plaudit.config.paths import meant
from plaudit.config.problems import Problem


@dataclass(slots=True)
class Node:
    """A scalar, a dict of nodes or a list of nodes, with its place (file:line, or the argument that gave it)."""

    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-5 is a number, and only true and false are booleans (off, no and yes are text)."""


_OURS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _OURS]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar.

    Raises:
        ValueError: an explicit tag that is not one of ours, or that its text does not fit.
    """
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "int":
        return int(node.value)  # decimal: a leading 0 is no octal here
    if kind == "float":
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if kind == "bool":
        return node.value.lower() == "true"
    if kind not in ("null", "str"):
        raise ValueError(f"the tag {node.tag} is not supported")
    return None if kind == "null" else node.value


def _build(node: yaml.Node, file: str, where: str, key: str, problems: list[Problem]) -> Node:
    if isinstance(node, yaml.ScalarNode):
        try:
            return Node(_scalar(node), where)
        except ValueError as error:
            problems.append(Problem(where, key, str(error)))
            return Node(None, where)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _build(item, file, f"{file}:{item.start_mark.line + 1}", f"{key}.{i}", problems)
            for i, item in enumerate(node.value)
        ]
        return Node(items, where)
    entries: dict[str, Node] = {}
    for name_node, value_node in node.value:
        line = f"{file}:{name_node.start_mark.line + 1}"
        if not isinstance(name_node, yaml.ScalarNode) or name_node.value == "<<":
            problems.append(Problem(line, key, "a key must be a plain word here"))
            continue
        name = name_node.value
        dotted = f"{key}.{name}" if key else name
        if name in entries:
            problems.append(Problem(line, dotted, f"duplicate key; first given at {entries[name].where}"))
            continue
        entries[name] = _build(value_node, file, line, dotted, problems)
    return Node(entries, where)


def read_yaml(path: Path, problems: list[Problem]) -> Node:
    """The file as a tree. What is wrong goes to `problems`; the tree is then what could be read."""
    name, empty = str(path), Node({}, str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = meant(name) if isinstance(error, FileNotFoundError) else ""
        problems.append(Problem(name, "", f"the configuration cannot be read: {_reason(error)}", hint))
        return empty
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = "indent with spaces, YAML takes no tabs" if "\\t" in str(error.problem) else ""
        problems.append(Problem(f"{name}:{line}", "", f"not valid YAML: {error.problem}", hint))
        return empty
    except yaml.YAMLError as error:
        problems.append(Problem(name, "", f"not valid YAML: {error}"))
        return empty
    if root is None:
        return empty
    if not isinstance(root, yaml.MappingNode):
        problems.append(Problem(f"{name}:1", "", "a configuration is made of `key: value` lines"))
        return empty
    try:
        return _build(root, name, f"{name}:1", "", problems)
    except RecursionError:
        problems.append(Problem(name, "", "the values are nested too deeply, or one contains itself"))
        return empty


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"


def parse_text(text: str) -> Any:
    """The value of a command-line text by the rules of YAML; what is no YAML is itself."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    if root is None:
        return text
    problems: list[Problem] = []
    value = plain(_build(root, "", "", "", problems))
    return text if problems else value


def from_plain(value: Any, where: str) -> Node:
    """A tree of plain values that all come from one place."""
    if isinstance(value, Mapping):
        return Node({str(k): from_plain(v, where) for k, v in value.items()}, where)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(v, where) for v in value], where)
    return Node(value, where)


def plain(node: Node) -> Any:
    """The values without their places."""
    if isinstance(node.value, dict):
        return {name: plain(inner) for name, inner in node.value.items()}
    if isinstance(node.value, list):
        return [plain(inner) for inner in node.value]
    return node.value


def merge(base: Node, new: Node) -> Node:
    """`new` over `base`: sections are merged key by key, everything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(new.value, dict)):
        return new
    merged = dict(base.value)
    for name, inner in new.value.items():
        merged[name] = merge(merged[name], inner) if name in merged else inner
    return Node(merged, base.where)


def nested(key: str, value: Node) -> Node:
    """The tree in which only `key` (dotted) is set."""
    for part in reversed(key.split(".")):
        value = Node({part: value}, value.where)
    return value


def find(root: Node, path: Sequence[str | int]) -> tuple[Node, bool]:
    """The node at `path`, or the deepest one on the way to it, and whether the whole path exists."""
    node = root
    for part in path:
        is_entry = isinstance(node.value, dict) and part in node.value
        is_item = isinstance(node.value, list) and isinstance(part, int) and part < len(node.value)
        if not (is_entry or is_item):
            return node, False
        node = node.value[part]
    return node, True


def leaves(node: Node, key: str = "") -> Iterator[tuple[str, Node]]:
    """Dotted keys of all scalars."""
    if isinstance(node.value, dict):
        for name, inner in node.value.items():
            yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(node.value, list):
        for i, inner in enumerate(node.value):
            yield from leaves(inner, f"{key}.{i}")
    else:
        yield key, node
