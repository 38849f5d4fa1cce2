"""`plaudit.json` beside a model's weights: where it comes from, and its normalisation.

transformers and PEFT ignore the file, so a model keeps it wherever the folder is copied to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, RewardError

CARD_FILE = "plaudit.json"
ENSEMBLE_FILE = "ensemble.json"
NORMALISATION = "normalisation"
READING = "reading"
"""How a model from elsewhere reads plain text; the normalisation holds for that."""
SCORES = "scores"
"""Raw scores of answers from the training data under the trained model: how far they reached."""
SYSTEM_PROMPT = "system_prompt"
"""The one of training, for folders that have left their run."""


def read_card(folder: Path | None) -> dict[str, Any]:
    """The values of a folder's card; empty where there is none.

    Raises:
        RewardError: PL702, the file is damaged.
    """
    file = None if folder is None else folder / CARD_FILE
    if file is None or not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise RewardError(
            "PL702", f"the file is damaged: {error}", where=str(file), mend="restore it from a copy, or remove it"
        ) from error
    return values


def write_card(file: Path, values: Mapping[str, Any]) -> None:
    """Replace the card in one move: a reader sees the old one or the new one."""
    temporary = file.with_name(f".{file.name}")
    temporary.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


def check_empty(output: Path) -> None:
    """Refuse a folder that is in use, before a model is loaded.

    Raises:
        ConfigError: PL102.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError("PL102", "the output folder is not empty", where=str(output), mend="name another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the output folder cannot be made: {error.strerror}",
            where=str(output),
            mend="name another folder",
        ) from error
