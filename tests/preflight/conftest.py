"""A directory to check in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_jsonl
from tests.preflight.checks import CHATS, PAIRS


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A directory with `tiny-model`, `pairs.jsonl` (conversations) and `plain.jsonl`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-model").symlink_to(tiny_model_dir)
    write_jsonl(tmp_path / "pairs.jsonl", CHATS)
    write_jsonl(tmp_path / "plain.jsonl", PAIRS)
    return tmp_path
