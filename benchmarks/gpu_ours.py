"""Worker: a method by plaudit on a model built in memory. Started by `gpu_offline` with a job file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu_measure import DeviceRecorder, Measured
from benchmarks.gpu_shapes import build_model
from benchmarks.harness import ROOT
from benchmarks.measure import read_job, write_result


def settings(job: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's configuration. Options: method, lora, tokens_per_microbatch."""
    train, options = job["train"], job["options"]
    return {
        "data": {"train": f"{job['workload']}/{options['method']}.jsonl", "shuffle": False, "eval_fraction": 0.0},
        "train": {
            "learning_rate": train["learning_rate"],
            "groups_per_step": train["rows_per_step"],
            "tokens_per_microbatch": options["tokens_per_microbatch"],
            "max_steps": train["total_steps"],
            "schedule": "constant",
            "warmup_steps": 0,
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "seed": 42,
        },
        "log": {"every": 10**6},
        "checkpoint": {"every": 10**6},
        "run": {"dir": str(run_dir), "if_exists": "fail", "reference_cache": f"{run_dir}-reference"},
        **({"lora": {"r": 16, "alpha": 32}} if options["lora"] else {}),
    }


@contextmanager
def refusing_to_wait(device: str, found: list[str]) -> Iterator[None]:
    """In steps after the first one the host may not wait for the device: that is an error on CUDA. On a CPU the tests'
    watch says where it would."""
    import torch

    from plaudit.train.loop import Trainer

    honest = Trainer._train_step

    def step(self: Any) -> None:
        if self.progress.step == 0:
            return honest(self)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            try:
                return honest(self)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        from tests.train.reads import Reads, watched

        reads = Reads()
        with watched(reads):
            honest(self)
        # On a CPU the reference of an adapter is asked in each step; on a GPU ahead.
        asked = "plaudit/train/scorer.py:_collect (_collect)"
        found.extend(f"{reason}: {place}" for reason, place in reads.found if place != asked)
        return None

    Trainer._train_step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer._train_step = honest  # type: ignore[method-assign]


def main() -> None:
    """Train until the last measured step."""
    job = read_job()
    options, device = job["options"], job["train"]["device"]

    sys.path.insert(0, str(ROOT / "src"))  # what is measured is this checkout, whatever is installed

    from transformers import AutoTokenizer
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    from plaudit import api
    from plaudit.forest.attention import kernel_notes
    from plaudit.train.step import Totals

    losses: list[Any] = []
    add = Totals.add

    def keeping(self: Totals, name: str, total: Any, count: Any) -> None:
        if name == "loss":
            losses.append(total.detach())
        add(self, name, total, count)

    Totals.add = keeping  # type: ignore[method-assign]
    steps = job["steps"]
    recorder = DeviceRecorder(device=device, steps=steps)
    recorder.count_tokens(Qwen3Model)
    recorder.start()
    run_dir = Path(job["scratch"]) / "ours"
    for folder in (run_dir, Path(f"{run_dir}-reference")):
        shutil.rmtree(folder, ignore_errors=True)
    model = build_model(job["workload"], device, "bfloat16" if job["train"]["precision"] == "bf16" else "float32")
    tokenizer = AutoTokenizer.from_pretrained(f"{job['workload']}/tokenizer")
    waits: list[str] = []
    with refusing_to_wait(device, waits) if options["refuse_to_wait"] else nullcontext(), suppress(Measured):
        api.train(
            options["method"],
            model=(model, tokenizer),
            observers=(),
            precision=job["train"]["precision"],
            **settings(job, run_dir),
        )
    kept = [float(x) for x in losses[: recorder.warm_up + steps]]
    write_result(job, {**recorder.device_result(kept), "kernels": list(kernel_notes()), "waits": waits})


if __name__ == "__main__":
    main()
