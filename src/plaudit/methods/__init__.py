"""One file per method. A method is found by its file name: `methods/dpo.py` holds the class whose `name` is "dpo".

Importing a method's module does not import torch, so the command line can list methods and check options at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

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


def available() -> dict[str, type[Method]]:
    """All built-in methods by name."""
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.ispkg or info.name in _NOT_METHODS:
            continue
        method = _class_in(importlib.import_module(f"{__name__}.{info.name}"))
        assert method is not None, f"methods/{info.name}.py must define exactly one method with a name"
        found[method.name] = method
    return dict(sorted(found.items()))


def find(name: str) -> type[Method]:
    """A method by name, or a user's own by the path of its Python file.

    Raises:
        ConfigError: PL101 if there is no such method, or the file does not define exactly one.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    methods = available()
    if name not in methods:
        close = get_close_matches(name, methods, n=1)
        raise ConfigError(
            "PL101",
            f"there is no method {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
            where="method.name",
            mend=f"choose one of {', '.join(methods)}, or give the path of a Python file that defines one",
        )
    return methods[name]


def _from_file(path: Path) -> type[Method]:
    if not path.is_file():
        raise ConfigError("PL101", "the method's file does not exist", where=str(path))
    spec = importlib.util.spec_from_file_location(f"plaudit_user_method_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks up the file's annotations there
    spec.loader.exec_module(module)
    method = _class_in(module)
    if method is None:
        raise ConfigError(
            "PL101",
            "the file must define exactly one subclass of plaudit.methods.base.Method with a `name`",
            where=str(path),
            mend="see 'How to add a method' in CONTRIBUTING.md",
        )
    return method


__all__ = ["Method", "available", "find"]
