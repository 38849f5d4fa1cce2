"""The generated page with every reward and shaping, read from their classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from plaudit.config.keys import describe
from plaudit.rewards.registry import listed
from plaudit.rewards.spec import PartOptions, ScoringConfig
from plaudit.rewards.steps import SHAPINGS

HEAD = """# Every reward and its options

<!-- Written by `python scripts/write_docs.py` from the classes; a test fails when it is not current. -->

[Rewards](rewards.md) explains how they are used. `plaudit rewards show NAME` prints the same in the terminal.
"""


def prose(cls: type[Any]) -> list[str]:
    """The paragraphs of a class's own words."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    return [" ".join(p.split()) for p in paragraphs if not p.startswith(("Args:", "Raises:", "Attributes:"))]


def option_rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of every option."""
    for name, info in model.model_fields.items():
        default = "required"
        if not info.is_required():
            value = info.get_default(call_default_factory=True, validated_data={})
            default = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        yield name, describe(info.annotation), default, " ".join((info.description or "").split())


def _table(model: type[BaseModel]) -> Iterator[str]:
    rows = list(option_rows(model))
    if not rows:
        return
    yield from ("", "| option | value | default | meaning |", "|---|---|---|---|")
    for name, kind, default, meaning in rows:
        cells = (f"`{name}`", kind, f"`{default}`" if default else "empty", meaning)
        yield "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def options_page() -> str:
    """The whole page."""
    lines = [HEAD, "## All rewards", "", "What every reward may say besides its own options:", *_table(PartOptions)]
    for kind, cls in listed().items():
        lines += ["", f"## {kind}", "", f"{cls.title}.", *(f"\n{_cell(p)}" for p in prose(cls)), *_table(cls.Options)]
    lines += ["", "## Shaping", "", "Steps of `shaping`, applied to the sum in their order."]
    for name, step in SHAPINGS.items():
        lines += ["", f"### {name}", "", *(_cell(p) for p in prose(step)), *_table(step)]
    lines += ["", "## Failures", "", "Keys of a file beside `rewards` and `shaping`:", *_table(ScoringConfig)]
    return "\n".join(lines) + "\n"
