"""What all test processes of a run share: computed by whichever asks first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, work: Callable[[Path], None]) -> Path:
    """A folder that `work` has filled, once; its files are not to be written into."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each has one of its own in there
    place = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not (place / "done").exists():
            place.mkdir(exist_ok=True)
            work(place)
            (place / "done").touch()
    return place
