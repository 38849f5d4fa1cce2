"""Two processes give the gradient of one, for every registered method and toy: roles, streams and step scope
included."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

import pytest
import torch

from plaudit.train.parallel import start_world
from tests import warm
from tests.once import once
from tests.train.steps import build, gradients, in_default_run, largest_error, streams_of
from tests.train.test_invariance import ALL, EVERYWHERE, TOLERANCE

Cell = tuple[str, bool]


def shown(number: int, name: str, lora: bool) -> bool:
    """Whether a cell is part of the default run, where most methods are trained either whole or with LoRA."""
    return in_default_run(name) and (name in EVERYWHERE or lora == (number % 2 == 1))


CELLS: dict[Cell, bool] = {(name, lora): shown(n, name, lora) for n, name in enumerate(ALL) for lora in (False, True)}


def worker(result: Path, cells: list[Cell]) -> None:
    """One of the two processes, under the variables that torchrun sets; the main one writes the file."""
    torch.set_num_threads(1)
    world, found = start_world(), {}
    for name, lora in cells:
        setup = build(lora=lora)
        found[name, lora] = gradients(setup, streams_of(setup, name, world), 47, world)
    if world.is_main:
        torch.save(found, result)
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """(of the default run?) → gradients and metrics of its cells from two gloo processes on this machine."""

    @cache
    def of(default: bool):
        cells = [cell for cell, of_default in CELLS.items() if of_default == default]
        place = once(tmp_path_factory, f"gradients-{default}", lambda folder: compute(folder / "of-two.pt", cells))
        return torch.load(place / "of-two.pt", weights_only=True)

    return of


def compute(result: Path, cells: list[Cell]) -> None:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    programs = [
        warm.Program(
            worker,
            (result, cells),
            result.with_suffix(f".{rank}.txt"),
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    warm.run_all(programs, timeout=600)


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        pytest.param(*cell, marks=() if default else pytest.mark.slow, id=f"{cell[0]}-{'lora' if cell[1] else 'full'}")
        for cell, default in CELLS.items()
    ],
)
def test_two_ranks_give_the_gradient_of_one(name, lora, two_ranks):
    setup = build(lora=lora)
    expected, expected_metrics = gradients(setup, streams_of(setup, name), budget=100_000)
    found, metrics = two_ranks(CELLS[name, lora])[name, lora]
    assert largest_error(found, expected) < TOLERANCE
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)
