"""Which of the packages outside the light core are there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from plaudit.errors import ConfigError

_HEAVY = ("torch", "transformers", "peft", "datasets", "safetensors")


def need_training_packages() -> None:
    """Raise ConfigError PL103 when a package is missing that training, sampling and scoring need."""
    need_packages(_HEAVY, "this", "train")


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
            mend=f"pip install 'plaudit[{extra}]'",
        )
