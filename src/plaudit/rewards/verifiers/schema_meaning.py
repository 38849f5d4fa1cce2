"""Whether a JSON schema says anything about an answer: it must refuse something, and must come to an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

SIMPLE: tuple[Any, ...] = (None, True, 0, "", [], {})
"""One of each type."""
_PLAIN: tuple[Any, ...] = (
    *SIMPLE,
    *(False, 0.5, -1, 10**12, -(10**12), "x", "(", "0", " ", "x" * 20),
    *([None], [0, 0], [None, True, 0, "", [], {}, "x", 0.5] * 4, {"x": None}, {"": 0, "x": "", "(": []}),
)
_MOST = 2000
_NO_MORE = object()
_DEEPEST = 3
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""Keywords whose schemas are about the same value; with $ref, what can lead back to where it began."""


def accepts_everything(validator: Any, schema: Any) -> bool:
    """Whether the schema refuses none of many values, which are chosen by what it says: of each type, around the
    numbers in it, its constants, wrong in each of its properties. Where so many were tried that some are left, nobody
    knows, and it is not said.

    Raises:
        RecursionError: it refers to itself without end.
    """
    values = _values(schema)
    return all(validator.is_valid(value) for value in islice(values, _MOST)) and next(values, _NO_MORE) is _NO_MORE


def _values(schema: Any, depth: int = 0) -> Iterator[Any]:
    yield from _PLAIN if depth < 2 else SIMPLE
    if not isinstance(schema, Mapping) or depth == _DEEPEST:
        return
    for key, said in schema.items():
        if key in ("const", "enum"):
            yield from said if key == "enum" and isinstance(said, list) else [said]
        elif isinstance(said, (int, float)) and not isinstance(said, bool):
            yield from _around(said)
        elif key == "required" and isinstance(said, list):
            yield {str(name): None for name in said[1:]}
        elif key in ("properties", "patternProperties") and isinstance(said, Mapping):
            for name, inner in said.items():
                plain = str(name).strip("^$").replace("\\", "")
                yield from ({plain: value} for value in _values(inner, depth + 1))
        elif key in ("items", "prefixItems", "contains", "additionalItems"):
            first = said[0] if isinstance(said, list) and said else said
            yield from ([value] for value in _values(first, depth + 1))
        elif isinstance(said, Mapping):
            for inner in (said, *said.values()):
                yield from _values(inner, depth + 1)
        elif isinstance(said, list):
            for inner in said:
                yield from _values(inner, depth + 1)


def _around(number: float) -> Iterator[Any]:
    yield from (number - 1, number + 1, number + 0.5)
    if 0 <= number < 1000:
        more = int(number) + 1
        yield from ("x" * more, [None] * more, {f"x{i}": None for i in range(more)})


def leads_back(schema: Any) -> str | None:
    """A reference within the schema that leads back to itself without a step into the value: no answer could be
    compared with it. None where there is none."""
    done: set[int] = set()
    for inner in _schemas(schema):
        found = _circle(schema, inner, [], done)
        if found is not None:
            return found
    return None


def _schemas(schema: Any) -> Iterator[Any]:
    left = [schema]
    while left:
        each = left.pop()
        if isinstance(each, Mapping):
            yield each
            left += each.values()
        elif isinstance(each, list):
            left += each


def _circle(root: Any, schema: Any, above: list[int], done: set[int]) -> str | None:
    """The reference that closes a circle, in what this schema says about the same value."""
    if not isinstance(schema, Mapping) or id(schema) in done:
        return None
    above = [*above, id(schema)]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        meant = _pointed(root, reference)
        if id(meant) in above:
            return reference
        found = _circle(root, meant, above, done)
        if found is not None:
            return found
    for key in _IN_PLACE:
        said = schema.get(key)
        inner = said if isinstance(said, list) else said.values() if key == "dependentSchemas" and said else [said]
        for each in inner:
            found = _circle(root, each, above, done)
            if found is not None:
                return found
    done.add(id(schema))
    return None


def _pointed(root: Any, reference: str) -> Any:
    """What #/a/b is; None for other references, which are names."""
    if not reference.startswith("#") or (reference[1:] and not reference.startswith("#/")):
        return None
    from urllib.parse import unquote

    at = root
    for part in reference[2:].split("/") if reference[1:] else []:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        elif isinstance(at, Mapping) and name in at:
            at = at[name]
        else:
            return None
    return at
