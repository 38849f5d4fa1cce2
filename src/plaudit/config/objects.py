"""Data that a Python program hands over: named, or the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEMORY = "<memory>"
"""Stands in the configuration for a model or data that a Python program handed over as objects."""


def source_or_rows(data: Any) -> tuple[Any, Any]:
    """(value for the configuration, rows in memory or None) of paths, a section, a list of dicts or a dataset."""
    if isinstance(data, (str, Path)):
        return str(data), None
    if isinstance(data, Mapping) and not _is_split_dict(data):
        return data, None
    if isinstance(data, (list, tuple)) and data and all(isinstance(item, (str, Path)) for item in data):
        return [str(item) for item in data], None
    return MEMORY, data


def _is_split_dict(data: Mapping[str, Any]) -> bool:
    """Whether it is a `datasets.DatasetDict`, without importing datasets."""
    return type(data).__name__ in ("DatasetDict", "IterableDatasetDict")
