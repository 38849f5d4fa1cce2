"""The option `--column FIELD=COLUMN`."""

from __future__ import annotations

from collections.abc import Sequence


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
