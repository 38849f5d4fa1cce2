"""Weights sharded over two processes (train.sharding: fsdp): the same losses and the same weights as one process, one
state that any number of processes goes on from, and a model that one process loads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from filelock import FileLock

from plaudit.models.shards import read, shapes_in
from tests.train import runs
from tests.train.test_two_ranks import TOLERANCE, largest_difference

ROOT = Path(__file__).parents[2]
Case = tuple[str, dict[str, Any]]
LORA = {"lora": {"r": 4}}
BF16 = {"model.precision": "bf16"}
STEADY = {"train.eps": 1e-3, "train.learning_rate": 2e-2, "train.max_grad_norm": 0.05}
"""Steps like SGD's, because Adam magnifies the rounding of gradients that are almost zero; and steps are clipped."""
SHORT = {"train.epochs": None, "train.max_steps": 4, "checkpoint.every": 2, "eval.every": 2, "data.eval_fraction": 0.2}

CASES: dict[str, Case] = {
    "sft, full": ("sft", {}),
    "sft, full, bf16": ("sft", BF16),
    "dpo, full, checkpointing": ("dpo", {"model.gradient_checkpointing": True}),
    "dpo, LoRA": ("dpo", LORA),
    "dpo, LoRA, bf16, checkpointing": ("dpo", LORA | BF16 | {"model.gradient_checkpointing": True}),
    "kto, full (a reference of its own)": ("kto", {}),
    "kto, LoRA": ("kto", LORA),
    "reward, full, bf16": ("reward", BF16),
    "reward, LoRA": ("reward", LORA),
}
MORE: dict[str, Case] = {
    "dpo, full, bf16": ("dpo", BF16),
    "dpo, LoRA of everything": ("dpo", {"lora": {"r": 4, "modules_to_save": ["lm_head"]}}),
    "kto, full, bf16": ("kto", BF16),
    "kto, LoRA, bf16": ("kto", LORA | BF16),
    "reward, full": ("reward", {}),
    "reward, LoRA, bf16": ("reward", LORA | BF16),
    "bco_pair, full (a state, two passes)": ("bco_pair", {}),
    "orpo, LoRA (prompt targets)": ("orpo", LORA),
    "added tokens": ("sft", LORA | {"model.added_tokens": ["<x>", "<y>"]}),
}
CELLS = [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
Outcomes = list[dict[str, dict[str, Any]]]


def pair(folder: Path, jobs: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Outcomes:
    """Two processes carry out the jobs; what came of each, by process."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.sharded_worker", str(folder / "jobs.json"), str(folder / "outcomes")]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [p.communicate(timeout=280)[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(printed)
    return [json.loads((folder / f"outcomes.{rank}").read_text(encoding="utf-8")) for rank in range(2)]


def once(folder: Path, name: str, work: Callable[[Path], None]) -> Path:
    """A folder that is filled once, by whichever of the test processes asks first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    place = folder / name
    with FileLock(folder / f"{name}.lock"):
        if not (place / "done").exists():
            place.mkdir(exist_ok=True)
            work(place)
            (place / "done").touch()
    return place


@pytest.fixture(scope="module")
def ran(tmp_path_factory: Any, tiny_model_dir: Path, data_of: Any) -> Callable[[str], tuple[Path, Outcomes]]:
    """Case → its run over two processes and what came of it; the cases of the default run share one pair."""

    def work(cases: Mapping[str, Case], place: Path) -> None:
        jobs = [
            (name, method, case(tiny_model_dir, data_of, place, name, method, o)) for name, (method, o) in cases.items()
        ]
        outcomes = pair(place, jobs)
        (place / "both.json").write_text(json.dumps(outcomes), encoding="utf-8")

    def of(name: str) -> tuple[Path, Outcomes]:
        cases = CASES if name in CASES else MORE
        place = once(tmp_path_factory.getbasetemp(), "more" if cases is MORE else "cases", partial(work, cases))
        return place / folder_of(name), json.loads((place / "both.json").read_text(encoding="utf-8"))

    return of


def folder_of(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def case(
    model: Path, data_of: Any, place: Path, name: str, method: str, options: Mapping[str, Any], **changes: Any
) -> dict[str, Any]:
    asked = runs.options_for(model, data_of(method), place / folder_of(name), **STEADY, **SHORT)
    return {k: v for k, v in (asked | dict(options) | {"train.sharding": "fsdp"} | changes).items() if v is not None}


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """fp32 weights by name, of either kind of checkpoint."""
    if not (checkpoint / "state").exists():
        return safetensors.torch.load_file(checkpoint / "weights.safetensors")
    names = {n: s for n, s in shapes_in(checkpoint / "state").items() if n.startswith("weights/")}
    found = {n: torch.full(shape, torch.nan) for n, shape in names.items()}
    read(checkpoint / "state", found)
    return {n.removeprefix("weights/"): t for n, t in found.items()}


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in runs.TIMING | {"num_tokens"}}
        for line in runs.lines(run / "metrics.jsonl")
    ]


def succeeded(outcomes: Outcomes, name: str) -> list[dict[str, Any]]:
    for rank in outcomes:
        assert name in rank, f"a case before it failed: {[v['traceback'] for v in rank.values() if 'error' in v]}"
        assert "error" not in rank[name], rank[name].get("traceback")
    return [rank[name] for rank in outcomes]


@pytest.mark.parametrize("name", CELLS)
def test_two_processes_with_shards_are_one_run(name, ran, tiny_model_dir, data_of, tmp_path, record_property):
    run, outcomes = ran(name)
    both = succeeded(outcomes, name)
    method, options = (CASES | MORE)[name]
    alone = case(tiny_model_dir, data_of, tmp_path, "alone", method, options, **{"train.sharding": "replicated"})
    result = runs.train_here(method, alone)

    # Each process holds half of the weights and of their moments (all of them together hold everything once) …
    for own in both:
        assert all(own["sharded"])
        assert own["dtypes"] == ["torch.float32"]
        assert own["local"] <= 0.51 * own["numel"]
        assert own["local_moments"] == 2 * own["local"]
    assert sum(own["local"] for own in both) == both[0]["numel"]
    # … and what is computed is the same: the losses of every step, the gradient norms, the weights.
    found, expected = metrics(run), metrics(result.run_dir)
    assert len(found) == len(expected)
    assert any(line.get("grad_norm", 0) > 0.05 for line in expected), "nothing was clipped"
    for x, y in zip(found, expected, strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-5)
    a, b = weights_in(last_checkpoint(run)), weights_in(last_checkpoint(result.run_dir))
    error = largest_difference(a, b)
    record_property("relative_error", error)
    assert error < TOLERANCE  # in bf16 too: the micro-batches are the same ones, and what is summed is fp32
