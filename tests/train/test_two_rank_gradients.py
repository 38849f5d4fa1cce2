"""Two processes give the gradient of one, for every registered method and toy: roles, streams and step scope
included."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.train.steps import METHODS, build, gradients, in_default_run, largest_error, streams_of
from tests.train.test_invariance import NAMES, TOLERANCE

WORKER = """
import sys, torch
from plaudit.train.parallel import start_world
from tests.train.steps import build, gradients, streams_of
torch.set_num_threads(1)
world, out = start_world(), {}
for name in sys.argv[2:]:
    for lora in (False, True):
        setup = build(lora=lora)
        out[name, lora] = gradients(setup, streams_of(setup, name, world), 47, world)
if world.is_main:
    torch.save(out, sys.argv[1])
torch.distributed.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """(of the default run?) → gradients and metrics of its methods from two gloo processes on the loopback interface;
    computed once, whichever of the test processes asks first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each has one of its own in there

    @cache
    def of(default: bool):
        result = folder / f"gradients-{default}.pt"
        with FileLock(folder / f"gradients-{default}.lock"):
            if not result.exists():
                compute(result, [n for n in (*METHODS, "toy_ppo_ptx") if in_default_run(n) == default])
        return torch.load(result, weights_only=True)

    return of


def compute(result: Path, names: list[str]) -> None:
    port = free_port()
    root = Path(__file__).parents[2]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(root),
        }
        command = [sys.executable, "-c", WORKER, str(result), *names]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [p.communicate(timeout=600)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_give_the_gradient_of_one(name, lora, two_ranks):
    setup = build(lora=lora)
    expected, expected_metrics = gradients(setup, streams_of(setup, name), budget=100_000)
    found, metrics = two_ranks(in_default_run(name))[name, lora]
    assert largest_error(found, expected) < TOLERANCE
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)
