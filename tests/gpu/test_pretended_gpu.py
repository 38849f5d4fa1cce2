"""Whole trainings on a pretended GPU (`pretended.py`) are those of the CPU: every tensor lies where CUDA wants it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from plaudit.methods import available
from tests.gpu import building
from tests.train import runs

ROOT = Path(__file__).resolve().parents[2]
LORA = {"lora": {"r": 4}}
BF16 = {"model.precision": "bf16"}
DEFAULT = [("sft", BF16), ("dpo", LORA), ("grpo", LORA)]
"""What the default run has: flash attention, a reference below an adapter, answers that are sampled."""
_METHODS = list(available())
_AT_ONCE = 8
CHUNKS = [_METHODS[i : i + _AT_ONCE] for i in range(0, len(_METHODS), _AT_ONCE)]
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes PyTorch believe in it, compiled once for all test processes."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler, and Linux")
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch has a CUDA part of its own, beside which there is no room for another")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    made = folder / "libpretended.so"
    with FileLock(folder / "libpretended.lock"):
        if not made.exists():
            building.build(compiler, made)
    return made


def run(folder: Path, *command: str) -> str:
    """What a module prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def on_both(
    library: Path, folder: Path, cells: list[tuple[str, dict[str, Any]]], memory: int | None = None
) -> dict[str, Any]:
    """What `tests.gpu.on_both` has found."""
    asked = json.dumps([(*cell, memory) for cell in cells])
    run(folder, "tests.gpu.on_both", str(library), str(folder), asked)
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    return found


def numbers(line: dict[str, Any]) -> dict[str, float]:
    """What is computed on the device. Pairs whose margin is 0 but for rounding are in either order."""
    tied = {"rewards/accuracies"} if abs(line.get("rewards/margins", 1.0)) < 1e-5 else set()
    return {k: v for k, v in line.items() if isinstance(v, float) and k not in runs.TIMING | tied}


def agree(cell: tuple[str, dict[str, Any]], found: dict[str, Any]) -> None:
    assert "traceback" not in found, f"{cell}: {found['traceback']}"
    bound = TOLERANCE[cell[1].get("model.precision", "fp32")]
    assert len(found["gpu"]) == len(found["cpu"]) > 2
    for there, here in zip(found["gpu"], found["cpu"], strict=True):
        assert numbers(there) == pytest.approx(numbers(here), rel=bound, abs=bound), cell


def test_trainings_are_those_of_the_cpu(library: Path, tmp_path: Path) -> None:
    found = on_both(library, tmp_path, DEFAULT)
    for cell, outcome in zip(DEFAULT, found["cells"], strict=True):
        agree(cell, outcome)
    names = [note.split(";")[0] for note in found["kernels"]]
    assert names == [
        "attention uses PyTorch's flash attention",
        "attention uses PyTorch's memory-efficient attention",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["full", "lora"])
@pytest.mark.parametrize("methods", CHUNKS, ids="-".join)
def test_every_method(methods: list[str], variant: str, library: Path, tmp_path: Path) -> None:
    cells = [(method, LORA if variant == "lora" else {}) for method in methods]
    for cell, outcome in zip(cells, on_both(library, tmp_path, cells)["cells"], strict=True):
        agree(cell, outcome)


AUTO = {
    "train.tokens_per_microbatch": "auto",
    "train.groups_per_step": 100,
    "train.max_steps": 2,
    "eval.every": None,
    "data.eval_fraction": 0.0,
}


@pytest.mark.slow
def test_the_largest_micro_batch_that_fits(library: Path, tmp_path: Path) -> None:
    """`auto` measures on the GPU, and the run then uses what it was told it would: no more than all but the margin."""
    tokens = []
    for mib in (12, 24):
        folder = tmp_path / str(mib)
        folder.mkdir()
        (found,) = on_both(library, folder, [("dpo", AUTO)], mib * 2**20)["cells"]
        assert "traceback" not in found, found
        assert found["budget"]["margin"] == 0.2
        assert 0.65 < found["peak"] / (mib * 2**20) < 0.8
        tokens.append(found["budget"]["tokens"])
    assert tokens[1] > 1.8 * tokens[0] > 900


@pytest.mark.slow
def test_what_cannot_fit_is_said_before_the_first_step(library: Path, tmp_path: Path) -> None:
    (found,) = on_both(library, tmp_path, [("dpo", AUTO)], 2 * 2**20)["cells"]
    assert "[PL406]" in found["traceback"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "checks"),
    [("benchmarks.gpu_parity --quick", 6), ("benchmarks.gpu_exactness", 12), ("benchmarks.gpu_head --quick", 0)],
)
def test_the_scripts_for_one_gpu(program: str, checks: int, library: Path, tmp_path: Path) -> None:
    """What `benchmarks/gpu.sh` begins with: kernels and whole models, then sampling, then the head."""
    out = ["--out", str(tmp_path / "parity.json")] if "parity" in program else []
    printed = run(tmp_path, "tests.gpu.as_program", str(library), *program.split(), "--device", "cuda", *out)
    assert "WRONG" not in printed
    assert sum(line.startswith("ok ") for line in printed.splitlines()) == checks


@pytest.mark.slow
def test_ppo_with_a_reward_model_by_the_command(library: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    """Four models on the GPU, and one of them scores in threads of its own."""

    def plaudit(*command: str) -> str:
        return run(tmp_path, "tests.gpu.as_program", str(library), "plaudit", *command, "--model", str(tiny_model_dir))

    pairs, prompts = (runs.write_rows(tmp_path / f"{k}.jsonl", runs.rows_of(k)) for k in ("preference", "prompt"))
    judge, policy = str(tmp_path / "judge"), tmp_path / "policy"
    plaudit("reward", "--data", str(pairs), "--max-steps", "2", "--output-dir", judge)
    sizes = ["--max-steps", "2", "--max-new-tokens", "8", "--tokens-per-microbatch", "auto"]
    printed = plaudit("ppo", "--data", str(prompts), "--reward", judge, *sizes, "--output-dir", str(policy))
    assert "bfloat16 on cuda" in printed
    steps = [line for line in runs.lines(policy / "metrics.jsonl") if "policy/approxkl" in line]
    assert len(steps) == 2
    assert all(line["peak_memory_gb"] > 0 for line in steps)


def test_what_a_gpu_refuses_is_refused(library: Path) -> None:
    """The pretended GPU can fail: it is no CPU under another name."""
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.gpu import building
building.load(Path({str(library)!r}))
import torch
from tests.gpu.pretended import gpu
with gpu():
    x = torch.randn(3, 4, device="cuda", requires_grad=True)
    for mistake in (lambda: x + torch.ones(4), lambda: x @ torch.ones(4, 2), lambda: x.detach().numpy(),
                    lambda: torch.cat([x, torch.ones(3, 4)])):
        try:
            mistake()
        except (RuntimeError, TypeError):
            continue
        raise SystemExit("went through")
    assert torch.equal((x * 2).cpu(), 2 * x.cpu())
    (x * torch.arange(4, device="cuda")).sum().backward()
    assert x.grad.device.type == "cuda"
    assert x.grad.cpu().tolist() == [[0, 1, 2, 3]] * 3
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
