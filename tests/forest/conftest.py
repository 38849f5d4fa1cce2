"""Collects the largest error per model and aspect and shows them at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.forest.matrix import Distance, table

Record = Callable[[str, str, Distance], None]
FOUND = pytest.StashKey[dict[tuple[str, str], Distance]]()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """record(model, aspect, distance) keeps the worst of each cell of the exactness table."""
    cells = request.config.stash.setdefault(FOUND, {})

    def keep(model: str, aspect: str, distance: Distance) -> None:
        cells[model, aspect] = cells.get((model, aspect), Distance()).worst(distance)

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cells = terminalreporter.config.stash.get(FOUND, None)
    if cells:
        terminalreporter.section("largest errors, forest against plain padded forward")
        for line in table(cells):
            terminalreporter.write_line(line)
