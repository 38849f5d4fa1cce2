"""Every key of the configuration changes something: each field is read, in its own section, outside the schema."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import plaudit
from plaudit.config.keys import sections
from plaudit.config.schema import SourceConfig
from plaudit.methods import available
from plaudit.methods.base import MethodConfig

SOURCES = Path(plaudit.__file__).parent
CARRIERS = {
    "model": {"config", "model", "model_config"},
    "data": {"data", "options", "config"},
    "lora": {"lora", "options"},
    "train": {"train", "config", "options"},
    "run": {"run", "config"},
    "reward": {"section"},
    "rollout": {"options"},
    "ptx": {"section"},
    "critic": {"section"},
}
"""Names under which a section is handed around, besides its own name."""


def _chains(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name of the object, attribute) of every attribute that is read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder = node.value
            name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
            yield name, node.attr


@cache
def reads() -> frozenset[tuple[str, str]]:
    """All (object, attribute) reads in the package, without its `config` folder."""
    files = [f for f in SOURCES.rglob("*.py") if SOURCES / "config" not in f.parents]
    return frozenset(pair for f in files for pair in _chains(ast.parse(f.read_text(encoding="utf-8"))))


HANDED_OUT = {("data", "columns")}
"""What the schema itself gives to other fields, which are read; tests/config/test_load.py has what comes of it."""
FIELDS = [
    (s, f)
    for s, m in sections(MethodConfig).items()
    if s != "method"
    for f in m.model_fields
    if (s, f) not in HANDED_OUT
]


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{s}.{f}" for s, f in FIELDS])
def test_field_is_read(section: str, field: str) -> None:
    holders = CARRIERS.get(section, set()) | {section}
    assert any((holder, field) in reads() for holder in holders), f"nothing reads {section}.{field}"


@pytest.mark.parametrize("field", list(SourceConfig.model_fields))
def test_source_field_is_read(field: str) -> None:
    assert any((holder, field) in reads() for holder in ("source", "config")), f"nothing reads data.train.N.{field}"


OPTIONS = [(name, f) for name, method in available().items() for f in method.Config.model_fields]


@pytest.mark.parametrize(("method", "option"), OPTIONS, ids=[f"{m}.{o}" for m, o in OPTIONS])
def test_method_option_is_read_by_its_method(method: str, option: str) -> None:
    """In the method's own file or in one that its class inherits from."""
    modules = {c.__module__ for c in available()[method].__mro__ if c.__module__.startswith("plaudit.methods.")}
    trees = [ast.parse(Path(sys.modules[m].__file__ or "").read_text(encoding="utf-8")) for m in modules]
    assert any(("config", option) in set(_chains(tree)) for tree in trees), f"{method} does not read {option}"
