"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import runs


@pytest.fixture(autouse=True)
def _one_thread_and_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits do not depend on the machine's cores, and nothing comes from an earlier test's cache."""
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The data file of a method."""
    folder = tmp_path_factory.mktemp("data")

    def of(method: str) -> Path:
        kind = runs.available()[method].data_kind
        path = folder / f"{kind}.jsonl"
        return path if path.exists() else runs.write_rows(path, runs.rows_of(kind))

    return of


@pytest.fixture
def options(tiny_model_dir: Path, data_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Options of a run of `method` in a directory of this test."""

    def of(method: str = "dpo", name: str = "run", **changes: Any) -> dict[str, Any]:
        return runs.options_for(tiny_model_dir, data_of(method), tmp_path / name, **changes)

    return of
