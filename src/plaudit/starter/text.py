"""A starter configuration as text: settings in the order of the schema, each below the comment that explains it."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from plaudit.config import tree
from plaudit.config.schema import RunConfig
from plaudit.starter.settings import Setting

_WIDTH = 100
_PLAIN = re.compile(r"[\w./~](?:[\w./~ +:@=-]*[\w./~+@=-])?")
"""Text that needs no quotes anywhere in YAML, unless it reads as something else."""


def as_text(settings: Sequence[Setting], head: Sequence[str], without_model: str | None) -> str:
    """The file.

    Args:
        head: lines of the comment at the top.
        without_model: the comment in place of model.path, where no model is known.
    """
    lines = [f"# {line}".rstrip() for line in head]
    for section in RunConfig.model_fields:
        own = [setting for setting in settings if setting.key.partition(".")[0] == section]
        if not own:
            continue
        lines += ["", f"{section}:"]
        if section == "model" and without_model is not None:
            lines += _comment(without_model)
        for setting in own:
            lines += [*_comment(setting.why), f"  {setting.key.partition('.')[2]}: {scalar(setting.value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"  # {line}" for line in textwrap.wrap(text, _WIDTH - 4, break_long_words=False, break_on_hyphens=False)]


def scalar(value: Any) -> str:
    """A value on one line of YAML, as our loader and every editor read it back."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(scalar, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and tree.parse_text(value) == value and value.lower() not in _WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    return str(value)


_WORDS = {"y", "n", "yes", "no", "on", "off"}
"""Text here, and booleans to readers of YAML 1.1."""

__all__ = ["as_text", "scalar"]
