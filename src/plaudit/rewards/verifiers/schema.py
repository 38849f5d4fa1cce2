"""JSON that a schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from plaudit.errors import ConfigError
from plaudit.rewards.contract import BadRow, RewardOptions, RewardResult, Sample, SampleReward, column
from plaudit.rewards.verifiers.pattern import need
from plaudit.rewards.verifiers.reading import shown

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


class SchemaOptions(RewardOptions):
    """Which schema, and how strictly."""

    file: str | None = None
    """A file with the schema; default is a schema per row."""
    column: str = "schema"
    """Column with the schema, as an object or as JSON text."""
    partial: bool = False
    """Give the share of the schema's top-level properties that are right, instead of 0 or 1."""
    fenced: bool = True
    """A single block between ``` is read where the answer is more than JSON."""
    characters: int = Field(100_000, ge=1)
    """A longer answer is wrong."""


class SchemaReward(SampleReward):
    """1 where the answer is one JSON value that the schema accepts.

    NaN, Infinity, and a key that is given twice are no JSON here. A reference to a schema elsewhere is not followed.
    Formats (date, email …) are checked as far as the package jsonschema does without further packages.
    """

    kind = "json_schema"
    title = "The answer is JSON that a schema accepts"
    Options = SchemaOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need("jsonschema", "the reward json_schema")
        self._fixed: Any = None
        self._schema_of_file: Any = None
        if self.options.file is not None:
            self._fixed = self._read(Path(self.options.file))

    @property
    def columns(self) -> tuple[str, ...]:
        """The schema, where no file has it."""
        return () if self.options.file is not None else (self.options.column,)

    def fingerprint(self) -> str:
        """With the content of the file."""
        return f"{super().fingerprint()}:{json.dumps(self._schema_of_file, sort_keys=True)}"

    def _read(self, path: Path) -> Any:
        try:
            self._schema_of_file = json.loads(path.expanduser().read_text(encoding="utf-8"))
            return _validator(self._schema_of_file)
        except (OSError, ValueError, BadRow) as error:
            raise ConfigError(
                "PL102", f"the schema cannot be used: {error}", where=str(path), mend="give a file with a JSON schema"
            ) from error

    _schema_of_file: Any = None

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        validator = self._fixed or _validator(_parsed(column(sample, self.options.column, "the schema")))
        text = self._json_text(sample.final)
        try:
            value = strict_json(text, self.options.characters)
        except ValueError as error:
            return RewardResult.of(0, note=f"is no JSON: {error}")
        try:
            return self._judged(validator, value)
        except RecursionError:
            return RewardResult.of(0, note="is nested too deeply")

    def _json_text(self, text: str) -> str:
        text = text.strip()
        if self.options.fenced and text[:1] not in ("{", "["):
            blocks = _FENCE.findall(text)
            if len(blocks) == 1:
                return str(blocks[0])
        return text

    def _judged(self, validator: Any, value: Any) -> RewardResult:
        from referencing.exceptions import Unresolvable

        try:
            errors = sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.absolute_path)))
        except Unresolvable as error:
            raise BadRow(f"the schema refers to something that is not in it: {error}") from error
        if not errors:
            return RewardResult.of(1)
        where = ".".join(map(str, errors[0].absolute_path)) or "the whole"
        value = property_share(validator.schema, value, errors) if self.options.partial else 0.0
        return RewardResult.of(value, note=f"{where}: {shown(errors[0].message)}")


def strict_json(text: str, limit: int) -> Any:
    """One JSON value.

    Raises:
        ValueError: it is none, too long, too deep, has a number without an end or a key twice.
    """
    if len(text) > limit:
        raise ValueError(f"it has {len(text)} characters, more than {limit}")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(k == key for k, _ in pairs) > 1)
        raise ValueError(f"the key {twice!r} is given more than once")
    return found


def _parsed(schema: Any) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except ValueError as error:
        raise BadRow(f"the schema is no JSON: {error}") from error


def _validator(schema: Any) -> Any:
    """A validator that knows this schema and nothing else.

    Raises:
        BadRow: it is no schema, or accepts everything: whatever the answer, it would be right.
    """
    from jsonschema import FormatChecker
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    if not isinstance(schema, (Mapping, bool)):
        raise BadRow(f"the schema is {type(schema).__name__}, must be an object")
    meaning = {} if isinstance(schema, bool) else {k: v for k, v in schema.items() if k not in _COMMENTS}
    if schema is True or (isinstance(schema, Mapping) and not meaning):
        raise BadRow("the schema accepts every JSON value, so it says nothing about the answer")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)  # type: ignore[arg-type]  # a mapping is enough
    except SchemaError as error:
        raise BadRow(f"it is no schema: {error.message}") from error
    if outside := _outside(schema):
        raise BadRow(f"the schema refers to something that is not in it: {outside}")
    return kind(schema, registry=Registry(), format_checker=FormatChecker())


def _outside(schema: Any) -> str | None:
    """The first reference to another document, which nobody fetches."""
    if isinstance(schema, Mapping):
        found = schema.get("$ref")
        if isinstance(found, str) and "://" in found and not found.startswith(str(schema.get("$id", "\0"))):
            return found
        schema = list(schema.values())
    if isinstance(schema, list):
        return next((found for inner in schema if (found := _outside(inner)) is not None), None)
    return None


_COMMENTS = {"$schema", "$id", "$comment", "title", "description", "examples", "default", "definitions", "$defs"}


def property_share(schema: Any, value: Any, errors: list[Any]) -> float:
    """Share of the properties that are right: of those that the schema requires or that are there, the ones without an
    error below them. An error of the whole (another type, a property too many) counts as one more that is wrong, and so
    a value with errors never reaches 1.

    Args:
        errors: of the validation; not empty.
    """
    if not (isinstance(schema, Mapping) and isinstance(value, dict)):
        return 0.0
    required = set(schema.get("required", ()))
    named = required | (set(schema.get("properties", ())) & set(value))
    wrong = {e.absolute_path[0] for e in errors if e.absolute_path} | (required - set(value))
    whole = any(not e.absolute_path and e.validator != "required" for e in errors)
    total = len(named | wrong) + whole
    return len(named - wrong) / total if total else 0.0
