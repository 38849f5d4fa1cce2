"""What `plaudit rewards show` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from plaudit.config.keys import closest
from plaudit.errors import ConfigError
from plaudit.rewards.docs import option_rows, prose
from plaudit.rewards.registry import KINDS, reward_class
from plaudit.rewards.spec import PartOptions
from plaudit.rewards.steps import SHAPINGS

_WIDTH = 100


def describe(name: str) -> Iterator[str]:
    """Lines about a reward, about what every reward may say (part), or about a shaping.

    Raises:
        ConfigError: PL102, there is none of this name.
    """
    if name in KINDS:
        cls = reward_class(name)
        yield f"{name}: {cls.title}"
        yield from _about(cls, cls.Options)
        yield ""
        yield f"Besides, as every reward: {', '.join(PartOptions.model_fields)} (`plaudit rewards show part`)."
    elif name == "part":
        yield "Options of every reward"
        yield from _about(PartOptions, PartOptions)
    elif name in SHAPINGS:
        yield f"{name} (shaping)"
        yield from _about(SHAPINGS[name], SHAPINGS[name])
    else:
        known = [*KINDS, "part", *SHAPINGS]
        near = closest(name, known, 0.5)
        raise ConfigError(
            "PL102",
            f"there is no reward or shaping {name!r}" + (f"; did you mean {near}?" if near else ""),
            mend=f"there are: {', '.join(known)}",
            where="plaudit rewards show",
        )


def _about(cls: type[Any], options: type[BaseModel]) -> Iterator[str]:
    for paragraph in prose(cls):
        yield ""
        yield from textwrap.wrap(paragraph, _WIDTH)
    rows = list(option_rows(options))
    if rows:
        yield ""
    for name, kind, default, meaning in rows:
        yield f"  {name}: {kind}, " + (default if default == "required" else f"default {default}")
        yield from textwrap.wrap(meaning, _WIDTH, initial_indent="      ", subsequent_indent="      ")
