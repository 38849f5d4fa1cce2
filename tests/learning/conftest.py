"""The taught model, once for all tests of this folder and all test processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.facts_model import Taught, taught
from tests.once import once


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    """A model that answers like the teacher, with its own answers; on one thread, as every trial here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def work(folder: Path) -> None:
        (folder / "taught.pickle").write_bytes(pickle.dumps(taught(folder)))

    yield pickle.loads((once(tmp_path_factory, "facts", work) / "taught.pickle").read_bytes())
    torch.set_num_threads(threads)
