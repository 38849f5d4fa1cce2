"""Which verifier reads what the rows of prompts bring with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from plaudit.data.readers import NumberedRow
from plaudit.rewards.verifiers.code_tests import COLUMNS as TESTS
from plaudit.rewards.verifiers.math.extract import FALLBACKS as REFERENCES

_FINAL = re.compile(r"\\boxed\{|####")
_NUMBER = re.compile(r"[-+]?\$?\d[\d,._]*(?:/\d+)?\s*%?")
_LETTER = re.compile(r"\(?[A-J]\)?\.?")


def reward_of(rows: Sequence[NumberedRow]) -> tuple[str, str] | None:
    """(reward as `--reward` takes it, why); None where no column says how an answer would be checked."""
    named = set.intersection(*(set(row) for _, row in rows))
    for kind, columns in (("code", TESTS), ("json_schema", ("schema",))):
        if (column := next((name for name in columns if name in named), None)) is not None:
            return kind, f"the rows have a column {column}"
    column = next((name for name in REFERENCES if name in named), None)
    if column is None:
        return None
    values = [row[column] for _, row in rows]
    if _most(values, _LETTER) and "choices" in named:
        return "choice" if column == "answer" else f"choice:column={column}", f"the column {column} has letters"
    if _most(values, _NUMBER) or sum(bool(_FINAL.search(str(value))) for value in values) * 2 > len(values):
        return "math", f"the column {column} has numbers"
    return "exact" if column == "answer" else f"exact:column={column}", f"the column {column} has the answer"


def _most(values: Sequence[Any], form: re.Pattern[str]) -> bool:
    return sum(bool(form.fullmatch(str(value).strip())) for value in values) * 2 > len(values)


__all__ = ["reward_of"]
