"""plaudit aligns language models with feedback. Importing it costs nothing heavy; torch is loaded when work starts.

    import plaudit
    result = plaudit.train("dpo", model="path/to/model", data="pairs.jsonl", lora=True)

`train`, `init`, `migrate`, `check`, `inspect`, `doctor`, `generate`, `converse`, `serve`, `convert`,
`evaluate_reward`, `evaluate_frontier`, `merge` and `load` are those of `plaudit.api`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plaudit.api import (
        check,
        converse,
        convert,
        doctor,
        evaluate_frontier,
        evaluate_reward,
        generate,
        init,
        inspect,
        load,
        merge,
        migrate,
        score,
        serve,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "check",
    "converse",
    "convert",
    "doctor",
    "evaluate_frontier",
    "evaluate_reward",
    "generate",
    "init",
    "inspect",
    "load",
    "merge",
    "migrate",
    "score",
    "serve",
    "train",
]


class _TrainPackage(ModuleType):
    """The subpackage `plaudit.train`, callable: importing it binds the name that the function `train` has."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("plaudit.api").train(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _TrainPackage
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("plaudit.train")
    if name in __all__:
        return getattr(import_module("plaudit.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
