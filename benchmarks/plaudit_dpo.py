"""Worker: DPO by plaudit. Started by the harness with a job file. The only file here that knows plaudit's interface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.measure import Recorder, read_job, write_result


def settings(job: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's configuration: what both sides share, then the options of the variant.

    Options: tokens_per_microbatch, reference_cache (folder below the scratch folder, or "off").
    """
    train, options = job["train"], job["options"]
    cache = options["reference_cache"]
    return {
        "model": {"path": f"{job['workload']}/model", "precision": train["precision"]},
        "data": {"train": f"{job['workload']}/rows.jsonl", "shuffle": False},
        "beta": train["beta"],
        "train": {
            "learning_rate": train["learning_rate"],
            "groups_per_step": train["pairs_per_step"],
            "tokens_per_microbatch": options["tokens_per_microbatch"],
            "max_steps": job["steps"] + 1,
            "schedule": "constant",
            "warmup_steps": 0,
            "max_grad_norm": train["max_grad_norm"],
            "seed": train["seed"],
        },
        # No checkpoint inside the measured steps; the other side writes none either.
        "checkpoint": {"every": 10**6},
        "run": {
            "dir": str(run_dir),
            "if_exists": "fail",
            "reference_cache": "off" if cache == "off" else f"{job['scratch']}/{cache}",
        },
    }


def main() -> None:
    """Train, then read the losses from the run directory's metrics."""
    job = read_job()

    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    from plaudit import api
    from plaudit.train.scorer import GroupScorer

    recorder = Recorder()
    recorder.count_tokens(Qwen3Model)
    # Full fine-tuning scores the reference of all rows before the first step: charged to the rows it is for.
    GroupScorer.__call__ = recorder.charge_ahead(GroupScorer.__call__)  # type: ignore[method-assign]
    recorder.start()

    run_dir = Path(job["scratch"]) / "plaudit"
    shutil.rmtree(run_dir, ignore_errors=True)
    api.train("dpo", **settings(job, run_dir))
    metrics = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [row["loss"] for row in metrics if "loss" in row]
    unique = json.loads((Path(job["workload"]) / "workload.json").read_text(encoding="utf-8"))["unique_tokens"]
    share = sum(unique[job["train"]["pairs_per_step"] :]) / sum(unique)
    write_result(job, recorder.result(losses, ahead_share=share))


if __name__ == "__main__":
    main()
