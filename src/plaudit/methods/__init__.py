"""One file per method. A method is found by its file name: `methods/dpo.py` holds the class whose `name` is "dpo".

Importing a method's module does not import torch, so the command line can list methods and check options at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType

from plaudit.config.origins import explain_method
from plaudit.config.paths import meant
from plaudit.config.user_code import line_in
from plaudit.errors import ConfigError
from plaudit.methods.base import Method

_NOT_METHODS = {"base"}


def _class_in(module: ModuleType) -> type[Method] | None:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and "name" in vars(value)
    ]
    return own[0] if len(own) == 1 else None


@cache
def _names() -> tuple[str, ...]:
    """The built-in methods, from the names of their files."""
    return tuple(sorted(i.name for i in pkgutil.iter_modules(__path__) if not i.ispkg and i.name not in _NOT_METHODS))


@cache  # what is looked up again and again; a module has one class for good
def _built_in(name: str) -> type[Method]:
    method = _class_in(importlib.import_module(f"{__name__}.{name}"))
    assert method is not None, f"methods/{name}.py must define exactly one method with a name"
    assert method.name == name, f"methods/{name}.py must define the method {name!r}, not {method.name!r}"
    return method


def available() -> dict[str, type[Method]]:
    """All built-in methods by name."""
    return {name: _built_in(name) for name in _names()}


def families() -> list[list[type[Method]]]:
    """The built-in methods by family: one that is no variant of another, with its variants behind it."""
    methods = available()
    heads = {name: [method] for name, method in methods.items() if method.variant_of not in methods}
    for name, method in methods.items():
        if name not in heads:
            heads[str(method.variant_of)].append(method)
    return list(heads.values())


def find(name: str) -> type[Method]:
    """A method by name, or a user's own by the path of its Python file.

    Raises:
        ConfigError: PL101 if there is no such method, or the file cannot be imported or does not define exactly one.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    names = _names()
    if name not in names:
        raise _unknown(name, names)
    return _built_in(name)


def _unknown(name: str, names: Sequence[str]) -> ConfigError:
    instead = explain_method(name)
    if instead is not None:
        return ConfigError("PL101", f"there is no method {name!r}", where="method.name", mend=instead)
    close = get_close_matches(name, names, n=1)
    return ConfigError(
        "PL101",
        f"there is no method {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        where="method.name",
        mend="`plaudit methods` lists all; your own method is given by the path of its Python file",
    )


def _from_file(path: Path) -> type[Method]:
    if not path.is_file():
        raise ConfigError("PL101", "the method's file does not exist", where=str(path), mend=meant(str(path)))
    spec = importlib.util.spec_from_file_location(f"plaudit_user_method_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up the file's annotations there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises while it is imported
        del sys.modules[spec.name]
        raise ConfigError(
            "PL101",
            f"the method's file cannot be imported: {type(error).__name__}: {error}",
            where=line_in(error, path),
            mend=f"mend the file; `python {path}` shows all of the error",
        ) from error
    method = _class_in(module)
    if method is None:
        raise ConfigError(
            "PL101",
            "the file must define exactly one subclass of plaudit.methods.base.Method with a `name`",
            where=str(path),
            mend="see 'How to add a method' in CONTRIBUTING.md",
        )
    return method


__all__ = ["Method", "available", "families", "find"]
