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
from tests.train.steps import METHODS, build, gradients, in_default_run, largest_error, streams_of
from tests.train.test_invariance import NAMES, TOLERANCE


def worker(result: Path, names: list[str]) -> None:
    """One of the two processes, under the variables that torchrun sets; the main one writes the file."""
    torch.set_num_threads(1)
    world, found = start_world(), {}
    for name in names:
        for lora in (False, True):
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
    """(of the default run?) → gradients and metrics of its methods from two gloo processes on this machine."""

    @cache
    def of(default: bool):
        names = [n for n in (*METHODS, "toy_ppo_ptx") if in_default_run(n) == default]
        place = once(tmp_path_factory, f"gradients-{default}", lambda folder: compute(folder / "of-two.pt", names))
        return torch.load(place / "of-two.pt", weights_only=True)

    return of


def compute(result: Path, names: list[str]) -> None:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    programs = [
        warm.Program(
            worker,
            (result, names),
            result.with_suffix(f".{rank}.txt"),
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    warm.run_all(programs, timeout=600)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_the_gradient_of_one(name, lora, two_ranks):
    setup = build(lora=lora)
    expected, expected_metrics = gradients(setup, streams_of(setup, name), budget=100_000)
    found, metrics = two_ranks(in_default_run(name))[name, lora]
    assert largest_error(found, expected) < TOLERANCE
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)
