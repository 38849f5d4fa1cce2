"""DDP and FSDP2 on two processes with unequal data give the single process's gradients.

Also covered by the cases: several micro-batches with synchronisation at the last one only, a process that has fewer and
fills up with zero-weight ones, LoRA on the output head, and gradient checkpointing.
"""

from __future__ import annotations

import json

import pytest

from tests import warm
from tests.forest import parallel_worker
from tests.forest.conftest import Record
from tests.forest.matrix import TOLERANCE, Distance
from tests.forest.parallel_worker import CASES, CONTROL


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, str]]:
    """Both processes run every case once; starting them is most of the time."""
    folder = tmp_path_factory.mktemp("parallel")
    result = folder / "result.json"
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    programs = [
        warm.Program(
            parallel_worker.main,
            (rank, str(folder / "rendezvous"), result),
            folder / f"printed.{rank}",
            environment,
        )
        for rank in range(2)
    ]
    warm.run_all(programs, timeout=240)
    return {name: (error, where) for name, (error, where) in json.loads(result.read_text()).items()}


@pytest.mark.parametrize("case", [c for c in CASES if c != CONTROL])
def test_gradients_equal_one_process(case: str, errors: dict[str, tuple[float, str]], record: Record) -> None:
    error, where = errors[case]
    record("two processes", case, Distance(gradient=error, where=where))
    assert error <= TOLERANCE, where


def test_going_around_the_wrapper_shows(errors: dict[str, tuple[float, str]]) -> None:
    """Calling the module inside skips the synchronisation: the comparison above must be able to see that."""
    assert errors[CONTROL][0] > 0.1
