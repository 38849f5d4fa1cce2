"""Configurations of other tools, migrated in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from plaudit.migration.migrate import Migration

Migrate = Callable[..., "Migration"]


@pytest.fixture
def migrate(tmp_path: Path) -> Migrate:
    """Writes a text to a file and migrates that."""
    from plaudit.api import migrate as program

    def run(text: str, name: str = "config.yaml", **options: Any) -> Migration:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        return program(file, **options)

    return run


def accounts(found: Migration) -> dict[str, tuple[str, str]]:
    """Key → (which list it is in, what is said of it)."""
    return {o.setting.key: (o.part, o.text) for o in found.outcomes}
