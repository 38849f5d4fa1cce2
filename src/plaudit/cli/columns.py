"""The option `--column FIELD=COLUMN`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HELP = "FIELD=COLUMN, where a column has a name of its own; can be given several times."


def columns_of(given: Sequence[str]) -> dict[str, str]:
    """Field → column.

    Raises:
        ConfigError: PL102, one of them is not FIELD=COLUMN.
    """
    from plaudit.errors import ConfigError

    pairs = [text.partition("=") for text in given]
    for field, equals, name in pairs:
        if not (field and equals and name):
            raise ConfigError(
                "PL102",
                f"--column {field}{equals}{name} is not FIELD=COLUMN",
                mend="--column prompt=question",
                where="--column",
            )
    return {field: name for field, _, name in pairs}


def sources_of(data: Sequence[str], given: Sequence[str]) -> list[Any]:
    """Paths or hub ids as sources whose columns are called as `--column` says.

    Raises:
        ConfigError: PL102, see `columns_of`.
    """
    from plaudit.config.schema import SourceConfig

    columns = columns_of(given)
    return [SourceConfig(path=path, columns=columns) for path in data] if columns else list(data)
