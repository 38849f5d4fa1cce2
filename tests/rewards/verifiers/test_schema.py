"""JSON that a schema accepts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from plaudit.errors import ConfigError
from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.schema import SchemaOptions, SchemaReward
from plaudit.rewards.verifiers.schema_meaning import accepts_everything, leads_back

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "mail": {"type": "string"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True, scope="module")
def _close() -> Iterator[None]:
    yield
    for reward in REWARDS.values():
        reward.close()


REWARDS: dict[str, SchemaReward] = {}
"""One for each set of options: every test would start processes of its own."""


def value(completion: str, schema: Any = PERSON, **options: Any) -> float | str | None:
    reward = REWARDS.setdefault(str(options), SchemaReward(SchemaOptions(workers=1, **options)))
    [result] = reward.score([Sample("q", completion, {"schema": schema})])
    return result.error.kind if result.error is not None else result.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "Ada", "age": 36}', 1),
        ('<think>{"name": 1}</think>\n {"name": "Ada", "age": 36}\n', 1),
        ('Here it is:\n```json\n{"name": "Ada", "age": 36}\n```\nDone.', 1),
        ('```\n{"name": "Ada", "age": 36}\n```', 1),
        ('```json\n{"name": "Ada", "age": 36}\n```\n```json\n{}\n```', 0),
        ('Sure! {"name": "Ada", "age": 36}', 0),
        ('{"name": "Ada"}', 0),
        ('{"name": "Ada", "age": -1}', 0),
        ('{"name": "Ada", "age": 36, "x": 1}', 0),
        ('{"name": "Ada", "age": "36"}', 0),
        ('{"name": "Ada", "age": NaN}', 0),
        ('{"name": "Ada", "age": Infinity}', 0),
        ('{"age": "x", "name": "Ada", "age": 36}', 0),
        ('{"name": "Ada", "age": 36}{"name": "Ada", "age": 36}', 0),
        ("{'name': 'Ada', 'age': 36}", 0),
        ("[" * 50_000, 0),
        ('{"name": "Ada", "age": ' + "9" * 50_000 + "}", 0),
        ("", 0),
        ("null", 0),
    ],
)
def test_values(text: str, expected: float) -> None:
    assert value(text) == expected


def test_a_block_is_not_looked_for_where_that_is_off() -> None:
    assert value('```json\n{"name": "Ada", "age": 36}\n```', fenced=False) == 0


def test_formats_are_checked() -> None:
    schema = {"type": "string", "format": "ipv4"}
    assert value('"127.0.0.1"', schema) == 1
    assert value('"127.0.0.300"', schema) == 0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ('{"name": "Ada", "age": 36}', 1),
        ('{"name": "Ada", "age": "x"}', 1 / 2),
        ('{"name": "Ada"}', 1 / 2),
        ('{"name": "Ada", "age": "x", "mail": "m"}', 1 / 2),  # what was not asked for adds nothing
        ('{"name": "Ada", "age": 36, "zip": 1}', 2 / 3),
        ('{"zip": 1}', 0),
        ("[]", 0),
        ("no", 0),
    ],
)
def test_partial_credit(text: str, share: float) -> None:
    assert value(text, partial=True) == pytest.approx(share)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"$schema": "x", "title": "anything", "description": "goes"},
        {"type": "no such type"},
        {"tpye": "object"},
        {"anyOf": [{"$ref": "elsewhere.json"}, {"type": "object"}]},
        [],
        "no json",
        None,
        "",
        {"$ref": "http://127.0.0.1:9/elsewhere.json"},
        {"properties": {"a": {"$ref": "#/$defs/missing"}}, "required": ["a"]},
        {"required": []},
        {"anyOf": [{}]},
        {"minLength": 0},
        {"type": ["null", "boolean", "number", "string", "array", "object"]},
        {"properties": {"a": {}}},
        {"items": True},
        {"not": {"not": {}}},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
    ],
)
def test_a_schema_that_says_nothing_is_a_bad_row(schema: Any) -> None:
    assert value('{"a": 1}', schema) == "bad_row"


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"properties": {"a": {"type": "string"}}}, '{"a": "x"}', '{"a": 1}'),
        ({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}, '{"a": {"b": "x"}}', '{"a": {"b": 1}}'),
        ({"additionalProperties": False}, "{}", '{"a": 1}'),
        ({"items": {"type": "integer"}}, "[1]", '["a"]'),
        ({"maximum": 5}, "5", "6"),
        ({"maxLength": 3}, '"abc"', '"abcd"'),
        ({"maxItems": 40}, "[1]", "[" + ",".join("1" * 41) + "]"),
        ({"not": {"const": 5}}, "4", "5"),
        ({"enum": [1]}, "1", "2"),
        (
            {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "array", "items": {"$ref": "#"}}],
             "$defs": {"leaf": {"type": "integer"}}},
            "[1, [2, []]]", '[1, ["x"]]',
        ),
    ],
)  # fmt: skip
def test_a_schema_that_says_little_says_something(schema: Any, right: str, wrong: str) -> None:
    assert value(right, schema) == 1
    assert value(wrong, schema) == 0


def test_a_large_schema_is_looked_at_quickly() -> None:
    inner: Any = {"properties": {f"k{i}": {} for i in range(12)}}
    for _ in range(3):
        inner = {"properties": {f"k{i}": inner for i in range(12)}}
    start = time.perf_counter()
    assert leads_back(inner) is None
    assert not accepts_everything(Draft202012Validator(inner), inner)  # nobody knows
    assert time.perf_counter() - start < 2


def test_a_schema_may_be_text_or_in_a_file(tmp_path: Path) -> None:
    assert value('{"name": "Ada", "age": 36}', json.dumps(PERSON)) == 1
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    reward = SchemaReward(SchemaOptions(file=str(file)))
    assert reward.columns == ()
    assert [r.value for r in reward.score([Sample("q", "{}"), Sample("q", '{"name": "Ada", "age": 1}')])] == [0, 1]
    before = reward.fingerprint()
    file.write_text(json.dumps({**PERSON, "required": []}))
    assert SchemaReward(SchemaOptions(file=str(file))).fingerprint() != before


def test_a_file_without_a_schema_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PL102"):
        SchemaReward(SchemaOptions(file=str(tmp_path / "none.json")))
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(ConfigError, match="accepts every JSON value"):
        SchemaReward(SchemaOptions(file=str(tmp_path / "all.json")))


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "string", "pattern": "^(a+)+$"}, '"' + "a" * 40 + '!"'),
        ({"type": "number", "multipleOf": 0.01}, "9" * 4000),
        ({"type": "string", "format": "regex"}, '"a{99999999999999999999}"'),
        ({"type": "object"}, "```\n" + " " * 64_000 + "x"),
    ],
)
def test_an_answer_cannot_hang_the_reward_or_make_it_fail(schema: Any, answer: str) -> None:
    assert value(answer, schema, cpu_seconds=1) == 0
