"""All keys of a run's configuration as a flat table, read from the schema: for flags, suggestions, docs and errors."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from plaudit.config.schema import RunConfig


@dataclass(frozen=True, slots=True)
class Key:
    """One key that holds a value (not a section)."""

    name: str
    """dotted, for example train.learning_rate"""
    annotation: Any
    default: Any
    """PydanticUndefined when required"""
    doc: str
    constraint: str = ""
    """for example "> 0"; empty where every value of the type is allowed"""

    @property
    def leaf(self) -> str:
        return self.name.rsplit(".", 1)[-1]

    @property
    def section(self) -> str:
        return self.name.partition(".")[0]

    @property
    def required(self) -> bool:
        return self.default is PydanticUndefined


def options_of(annotation: Any) -> tuple[Any, ...]:
    """The members of a union without None; a type that is no union is its own only member."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(a for a in get_args(annotation) if a is not type(None))
    return (annotation,)


def optional(annotation: Any) -> bool:
    """Whether null is a value."""
    return type(None) in get_args(annotation)


def _model(annotation: Any) -> type[BaseModel] | None:
    for option in options_of(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def item_model(annotation: Any) -> type[BaseModel] | None:
    """The model of a tuple's items, when they are sections themselves."""
    if get_origin(annotation) is tuple:
        return _model(get_args(annotation)[0])
    return None


def sections(method_config: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Section name → its model."""
    found = {n: m for n, f in RunConfig.model_fields.items() if (m := _model(f.annotation)) is not None}
    return {n: found.get(n, method_config) for n in RunConfig.model_fields}


def _default(info: FieldInfo) -> Any:
    if info.is_required():
        return PydanticUndefined
    return info.get_default(call_default_factory=True, validated_data={})


_LIMITS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.MultipleOf, "multiple_of", "a multiple of"),
)


def limits(info: FieldInfo) -> list[str]:
    """Of the field and of the members of its union, as "> 0": where null is a value, they stand at the number."""
    metadata = list(info.metadata)
    for option in options_of(info.annotation):
        for each in getattr(option, "__metadata__", ()):
            metadata += each.metadata if isinstance(each, FieldInfo) else [each]
    return [f"{sign} {getattr(m, name)}" for kind, name, sign in _LIMITS for m in metadata if isinstance(m, kind)]


def _keys_of(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        yield Key(f"{prefix}.{name}", info.annotation, _default(info), info.description or "", ", ".join(limits(info)))


def all_keys(method_config: type[BaseModel]) -> dict[str, Key]:
    """Every key with a value, by dotted name; `method_config` is the method's own options."""
    table: dict[str, Key] = {}
    for section, model in sections(method_config).items():
        table.update((key.name, key) for key in _keys_of(model, section))
    doc = "The method, or the path of a Python file that defines one."
    table["method.name"] = Key("method.name", str, PydanticUndefined, doc)
    return table


def source_keys() -> list[Key]:
    """The keys of one entry of data.train or data.eval."""
    model = item_model(RunConfig.model_fields["data"].annotation.model_fields["train"].annotation)  # type: ignore[union-attr]
    assert model is not None
    return list(_keys_of(model, "data.train.N"))


def field_at(
    path: Sequence[str | int], method_config: type[BaseModel]
) -> tuple[FieldInfo | None, tuple[str | int, ...]]:
    """The field that a validation error's location points into, and the part of the location that leads to it.

    pydantic appends the branch of a union to the location; that is no part of the user's key and is cut off here.
    """
    models: Mapping[str, type[BaseModel]] = sections(method_config)
    if not path or path[0] not in models:
        return None, tuple(path)
    model: type[BaseModel] | None = models[str(path[0])]
    info: FieldInfo | None = RunConfig.model_fields[str(path[0])]
    taken: list[str | int] = [path[0]]
    for part in path[1:]:
        if model is None:
            items = item_model(info.annotation) if info is not None else None
            if isinstance(part, int) and items is not None:
                taken.append(part)
                model, info = items, None
                continue
            break
        taken.append(part)
        info = model.model_fields.get(str(part))
        if info is None:
            return None, tuple(taken)
        model = _model(info.annotation)
    return info, tuple(taken)


def describe(annotation: Any) -> str:
    """A type in words."""
    words = [_word(option) for option in options_of(annotation)]
    return " or ".join([*words, "null"] if optional(annotation) else words)


def _word(option: Any) -> str:
    if get_origin(option) is Literal and len(get_args(option)) == 1:
        return f"the word {get_args(option)[0]}"
    if get_origin(option) is Literal:
        return "one of " + ", ".join(str(v) for v in get_args(option))
    if get_origin(option) is tuple:
        inner = get_args(option)
        if inner[-1] is not Ellipsis:
            return f"a list of {len(inner)} " + ("numbers" if inner[0] in (int, float) else "values")
        return "a list of sources" if item_model(option) else f"a list ({_word(options_of(inner[0])[0])} each)"
    if get_origin(option) is dict:
        return "a map {name: value}"
    if get_origin(option) is not None and hasattr(option, "__metadata__"):
        return _word(get_args(option)[0])
    if isinstance(option, type) and issubclass(option, BaseModel):
        return "a section of `key: value` lines"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(option, getattr(option, "__name__", str(option)))


def closest(name: str, candidates: Sequence[str], cutoff: float = 0.7) -> str | None:
    """The most similar candidate, or None when nothing is similar."""
    scored = [(SequenceMatcher(None, name.lower(), c.lower()).ratio(), c) for c in candidates]
    best = max(scored, default=(0.0, ""), key=lambda pair: pair[0])
    return best[1] if best[0] >= cutoff else None


def suggestion(section: str, name: str, table: Mapping[str, Key]) -> str | None:
    """The dotted key that was probably meant by the unknown `section`.`name`: a sibling first, then any in the tree."""
    siblings = {k.leaf: k.name for k in table.values() if k.section == section}
    near = closest(name, list(siblings))
    if near is not None:
        return siblings[near]
    by_leaf: dict[str, str] = {}
    for key in table.values():
        by_leaf.setdefault(key.leaf, key.name)
    if name in by_leaf:
        return by_leaf[name]
    whole = closest(f"{section}.{name}" if section else name, [*table, *{k.section for k in table.values()}], 0.8)
    if whole is not None:
        return whole
    near = closest(name, list(by_leaf))
    return by_leaf[near] if near is not None else None
