"""The method for a kind of data where nobody names one. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plaudit.types import DataKind

METHOD_OF: dict[DataKind, str] = {
    "preference": "dpo",
    "ranking": "reward",
    "feedback": "kto",
    "completion": "sft",
    "prompt": "grpo",
}
