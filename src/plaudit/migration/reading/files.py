"""YAML and JSON files of the other tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plaudit.config import tree
from plaudit.config.problems import Problem, raise_all
from plaudit.config.tree import Node
from plaudit.errors import ConfigError
from plaudit.migration.settings import Given, Setting

_NESTED = ("trl", "vllm", "model_init_kwargs")
"""Sections whose keys are settings of their own."""
_PICKLES = (".bin", ".pt", ".pkl")


def read_file(path: Path) -> Given:
    """The settings of a YAML or JSON file, with their lines.

    Raises:
        ConfigError: PL100 for a file that is no such file; PL104 for a pickle, which is never opened.
    """
    if path.suffix in _PICKLES:
        mend = "save it as JSON where it was made: Path('training_args.json').write_text(args.to_json_string())"
        raise ConfigError("PL104", "a pickle can run code, so it is not opened", where=str(path), mend=mend)
    problems: list[Problem] = []
    root = tree.read_yaml(path, problems)
    raise_all(problems)
    return Given(list(_settings(root)), str(path), path.parent)


def _settings(root: Node) -> Iterator[Setting]:
    for key, node in root.value.items():
        if key in _NESTED and isinstance(node.value, dict):
            for name, inner in node.value.items():
                plain_name = name if key == "model_init_kwargs" else f"{key}.{name}"
                yield Setting(plain_name, tree.plain(inner), inner.where)
            if not node.value:
                yield Setting(key, None, node.where)
        else:
            yield Setting(key, tree.plain(node), node.where)
