"""The JSON schema of configuration files, for editors that complete and check YAML.

It is draft-07, which every one of them understands. What it accepts is what the loader accepts of a single file: since
files are merged and flags come on top, no section is required. Combinations are the loader's business, but for the
sections that only methods with sampled answers have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plaudit.config.keys import all_keys, sections
from plaudit.config.online_checks import SECTIONS as SAMPLING
from plaudit.config.schema import RunConfig
from plaudit.methods import available, find
from plaudit.methods.base import Method, MethodConfig

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
_DEFINITIONS = "#/definitions/{model}"
_TEXT: Schema = {"type": "string"}
_FROM_ELSEWHERE = {"ModelConfig": "path", "DataConfig": "train"}
"""Definition → the key that the command line may give instead."""


def json_schema(method: str | None = None) -> Schema:
    """The schema of files for a method (a name, or the path of a Python file), or for whichever method they name.

    Raises:
        ConfigError: PL101, there is no such method.
    """
    methods = available() if method is None else {method: find(method)}
    whole = RunConfig.model_json_schema(ref_template=_DEFINITIONS)
    definitions, properties = whole["$defs"], whole["properties"]
    for name, key in _FROM_ELSEWHERE.items():
        definitions[name]["required"].remove(key)
    _accept_short_forms(definitions, properties)
    for section, model in sections(MethodConfig).items():
        properties[section]["description"] = model.__doc__ or ""
    properties["method"] = _method(methods, definitions)
    return {
        "$schema": DRAFT,
        "title": "A run of plaudit" if method is None else f"A run of plaudit {method}",
        "type": "object",
        "properties": {name: _plain(inner) for name, inner in properties.items()},
        "additionalProperties": False,
        "allOf": [_only_where_sampled(methods)],
        "definitions": {name: _plain(inner) for name, inner in definitions.items()},
    }


def _accept_short_forms(definitions: dict[str, Schema], properties: dict[str, Schema]) -> None:
    """What the loader takes besides: one value for a section, one value for a list."""
    source = [_TEXT, {"$ref": _DEFINITIONS.format(model="SourceConfig")}]
    sources = [*source, {"type": "array", "items": {"anyOf": source}}]
    some = [*source, {"type": "array", "items": {"anyOf": source}, "minItems": 1}]
    one = [_TEXT, {"type": "object"}]
    rewards = [*one, {"type": "array", "items": {"anyOf": one}}]
    for definition, key, forms in (
        ("DataConfig", "train", some),
        ("DataConfig", "eval", sources),
        ("PtxSection", "data", some),
        ("RewardSection", "rewards", rewards),
        ("RewardSection", "shaping", rewards),
        ("WatchSection", "stop", [_TEXT, {"type": "array", "items": _TEXT}]),
    ):
        entry = definitions[definition]["properties"][key]
        kept = {name: entry[name] for name in ("description", "default") if name in entry}
        definitions[definition]["properties"][key] = {**kept, "anyOf": forms}
    gold = definitions["WatchSection"]["properties"]["gold"]
    gold["anyOf"] = [_TEXT, {"type": "array"}, *gold["anyOf"]]
    for section, forms in {"model": [_TEXT], "data": some, "reward": rewards, "lora": [{"type": "boolean"}]}.items():
        entry = properties[section]
        own = entry.pop("anyOf", None) or [{"$ref": entry.pop("$ref")}]
        entry["anyOf"] = [*own, *(form for form in forms if form not in own)]


def _method(methods: Mapping[str, type[Method]], definitions: dict[str, Schema]) -> Schema:
    """The section `method`: by its name, the options of that method and no others."""
    doc = all_keys(MethodConfig)["method.name"].doc
    name: Schema = {"description": doc, "anyOf": [{"enum": [*methods]}, {**_TEXT, "pattern": r"\.py$"}]}
    by_name: list[Schema] = []
    every: dict[str, Schema] = {"name": {}}
    for each, method in methods.items():
        options = method.Config.model_json_schema(ref_template=_DEFINITIONS)
        for inner, definition in options.pop("$defs", {}).items():
            assert definitions.setdefault(inner, definition) == definition
        own = options.get("properties", {})
        every = {**{key: {"description": entry.get("description", "")} for key, entry in own.items()}, **every}
        definitions[f"method_{method.name}"] = {
            "type": "object",
            "description": f"{method.title}.",
            "properties": {"name": {"const": each}, **own},
            "additionalProperties": False,
        }
        named = {"properties": {"name": {"const": each}}, "required": ["name"]}
        by_name.append({"if": named, "then": _options(method)})
    unnamed = {"properties": every, "additionalProperties": False}  # the command names it
    if len(methods) == 1:
        unnamed = _options(next(iter(methods.values())))
    section = {
        "type": "object",
        "properties": {"name": name},
        "allOf": [{"if": {"not": {"required": ["name"]}}, "then": unnamed}, *by_name],
    }
    return {"description": "The method and its options.", "anyOf": [name, section]}


def _options(method: type[Method]) -> Schema:
    return {"$ref": _DEFINITIONS.format(model=f"method_{method.name}")}


def _only_where_sampled(methods: Mapping[str, type[Method]]) -> Schema:
    """Sections without effect for a method that learns from answers which are there already."""
    offline = {"enum": [name for name, method in methods.items() if not method.is_online()]}
    named = {"anyOf": [offline, {"type": "object", "properties": {"name": offline}, "required": ["name"]}]}
    return {
        "if": {"properties": {"method": named}, "required": ["method"]},
        "then": {"properties": {section: {"type": "null"} for section in SAMPLING}},
    }


def _plain(schema: Any) -> Any:
    """A schema of pydantic's in draft-07, with what people read on one line and without the titles that pydantic makes
    of names."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value for key, value in schema.items() if key not in ("title", "prefixItems", "default", "required")}
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    for key, value in found.items():
        if key in ("properties", "definitions"):
            found[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key not in ("const", "enum"):
            found[key] = _plain(value)
    if "prefixItems" in schema:
        found["items"] = [_plain(each) for each in schema["prefixItems"]]
    found |= {key: schema[key] for key in ("default", "required") if key in schema}
    if "$ref" in found and len(found) > 1:  # in draft-07 nothing beside a $ref counts
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found


__all__ = ["DRAFT", "json_schema"]
