"""Which of the packages outside the light core are there."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from plaudit.errors import ConfigError

OLDEST = {"torch": "2.9", "transformers": "5.0", "peft": "0.20", "datasets": "3.0", "safetensors": "0.4.5"}
"""What training, sampling and scoring need → the oldest version that will do."""


def need_training_packages() -> None:
    """Raise ConfigError PL103 when a package is missing, or too old, that training, sampling and scoring need."""
    need_packages(tuple(OLDEST), "this", "train")
    for name, oldest in OLDEST.items():
        try:
            found = version(name)
        except PackageNotFoundError:  # it can be imported, and nothing says what it is
            continue
        if _numbers(found) < _numbers(oldest):
            raise ConfigError(
                "PL103",
                f"{name} {found} is too old",
                where=f"the Python of {sys.prefix}",
                mend=f"pip install -U '{name}>={oldest}'",
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def need_packages(names: Sequence[str], what: str, extra: str) -> None:
    """Raise ConfigError PL103 where a package is missing that an extra brings.

    Args:
        names: as they are imported.
        what: what needs them, for the message.
        extra: one or several ("train,serve").
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "PL103",
            f"{what} needs {', '.join(missing)}, which the light core does not install",
            where=f"the Python of {sys.prefix}",
            mend=f"pip install 'plaudit[{extra}]'",
        )
