"""JSON against schemas, in a worker process: what a text and a schema make of each other has no limit of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from plaudit.rewards.verifiers.schema_meaning import accepts_everything, leads_back

_COMMENTS = {"$schema", "$id", "$comment", "title", "description", "examples", "default", "definitions", "$defs"}

_NOTHING = "the schema accepts every JSON value, so it says nothing about the answer"


class BadSchema(ValueError):
    """It is no schema, or says nothing about the answer."""


def check(item: Mapping[str, Any]) -> dict[str, Any]:
    """Validate a text.

    Args:
        item: `schema` (JSON text), `text`, `partial`.

    Returns:
        `bad_schema`, or `value` with a `note`.
    """
    try:
        validator = validator_of(item["schema"])
    except BadSchema as error:
        return {"bad_schema": str(error)}
    try:
        value = strict_json(item["text"])
    except ValueError as error:
        return {"value": 0.0, "note": f"is no JSON: {error}"}
    try:
        errors = sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.absolute_path)))
    except (ArithmeticError, ValueError, RecursionError) as error:  # numbers and nesting beyond all bounds
        return {"value": 0.0, "note": f"cannot be compared with the schema: {type(error).__name__}"}
    if not errors:
        return {"value": 1.0, "note": ""}
    where = ".".join(map(str, errors[0].absolute_path)) or "the whole"
    share = property_share(validator.schema, value, errors) if item["partial"] else 0.0
    return {"value": share, "note": f"{where}: {' '.join(errors[0].message.split())[:200]}"}


def strict_json(text: str) -> Any:
    """One JSON value.

    Raises:
        ValueError: it is none, too deep, has a number without an end or a key twice.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given more than once")
        found[key] = value
    return found


@lru_cache(maxsize=256)
def validator_of(schema: str) -> Any:
    """A validator that knows this schema and nothing else.

    Raises:
        BadSchema: it is no schema, accepts everything, refers to itself without end or to another document: whatever
            the answer, it would be right, or nobody could say.
    """
    from jsonschema import FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise BadSchema(f"the schema is no JSON: {error}") from error
    if not isinstance(parsed, (dict, bool)):
        raise BadSchema(f"the schema is {type(parsed).__name__}, must be an object")
    kind = validator_for(parsed, default=Draft202012Validator)
    meaning = set() if isinstance(parsed, bool) else set(parsed) - _COMMENTS
    if parsed is True or (isinstance(parsed, dict) and not meaning):
        raise BadSchema(_NOTHING)
    if isinstance(parsed, dict) and not meaning & set(kind.VALIDATORS):
        raise BadSchema(f"the schema has no keyword that is known: {', '.join(sorted(meaning))}")
    try:
        kind.check_schema(parsed)  # type: ignore[arg-type]  # false is a schema too
    except (SchemaError, RecursionError) as error:
        raise BadSchema(f"it is no schema: {getattr(error, 'message', error)}") from error
    for reference in _references(parsed):
        if not _resolves(parsed, reference):
            raise BadSchema(f"the schema refers to something that is not in it: {reference}")
    validator = kind(parsed, registry=Registry(), format_checker=FormatChecker())
    try:
        circle = leads_back(parsed)
        vacuous = circle is None and accepts_everything(validator, parsed)
    except RecursionError:
        circle, vacuous = "its references", False
    if circle is not None:
        raise BadSchema(f"the schema refers to itself without end ({circle}), so no answer can be compared with it")
    if vacuous:
        raise BadSchema(_NOTHING)
    return validator


def _references(schema: Any) -> list[str]:
    """Every $ref in it."""
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [r for inner in schema.values() for r in _references(inner)]
    return [r for inner in schema for r in _references(inner)] if isinstance(schema, list) else []


def _resolves(schema: Any, reference: str) -> bool:
    """Whether a reference leads to a place in the schema; other documents are not fetched."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    base = resource.id() or ""
    try:
        Registry().with_resource(base, resource).resolver(base).lookup(reference)
    except (Unresolvable, ValueError, LookupError):
        return False
    return True


def property_share(schema: Any, value: Any, errors: list[Any]) -> float:
    """Share of the properties that are right: of the required ones (of those that are there, where none is), and of any
    that are wrong. An error of the whole (another type, a property too many) counts as one more that is wrong, and so
    a value with errors never reaches 1.

    Args:
        errors: of the validation; not empty.
    """
    if not (isinstance(schema, Mapping) and isinstance(value, dict)):
        return 0.0
    required = set(schema.get("required", ()))
    named = required or set(schema.get("properties", ())) & set(value)
    wrong = {e.absolute_path[0] for e in errors if e.absolute_path} | (required - set(value))
    whole = any(not e.absolute_path and e.validator != "required" for e in errors)
    total = len(named | wrong) + whole
    return len(named - wrong) / total if total else 0.0
