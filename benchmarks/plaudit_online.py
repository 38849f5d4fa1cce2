"""Worker: GRPO, RLOO and PPO by plaudit. Started by the harness with a job file.

What is counted where: "generation" is the making of a rollout (sampling, decoding, and scoring, which goes on in the
background meanwhile); the rest of a step is "update".
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import benchmarks.workload
from benchmarks.measure import read_job, write_result
from benchmarks.phases import PhaseRecorder


def settings(job: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's configuration: what both sides share, then the options of the variant.

    Options: tokens_per_microbatch, method (the method's own options), and further keys of the section rollout.
    """
    train, options = job["train"], job["options"]
    return {
        "model": {"path": f"{job['workload']}/model", "precision": train["precision"]},
        "data": {"train": f"{job['workload']}/rows.jsonl", "shuffle": False},
        **options["method"],
        "reward": {"rewards": ["benchmarks.workload:even_words"]},
        "rollout": {
            "completions_per_prompt": train["samples"],
            "ppo_epochs": train["updates"],
            "max_new_tokens": train["new_tokens"],
            # No answer ends before the last token, so both sides sample the same number of tokens.
            "min_new_tokens": train["new_tokens"],
            **options.get("rollout", {}),
        },
        "train": {
            "learning_rate": train["learning_rate"],
            "groups_per_step": train["prompts_per_step"],
            "tokens_per_microbatch": options["tokens_per_microbatch"],
            "max_steps": (job["steps"] + 1) * train["updates"],
            "schedule": "constant",
            "warmup_steps": 0,
            "max_grad_norm": train["max_grad_norm"],
            "seed": train["seed"],
        },
        # No checkpoint inside the measured steps; the other side writes none either.
        "checkpoint": {"every": 10**6},
        "run": {"dir": str(run_dir), "if_exists": "fail"},
    }


def main() -> None:
    """Train, then read the losses from the run directory's metrics."""
    job = read_job()

    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    from plaudit import api
    from plaudit.methods import find
    from plaudit.online.source import RolloutMaker

    train = job["train"]
    recorder = PhaseRecorder(updates=train["updates"], device=train["device"])
    make = RolloutMaker.make

    def timed_make(maker: RolloutMaker, *args: Any, **kwargs: Any) -> Any:
        with recorder.phase("generation"):
            rollout = make(maker, *args, **kwargs)
        recorder.sampled([len(c.token_ids) for group in rollout.groups for c in group.completions])
        return rollout

    method = find(train["method"])
    loss = method.loss

    def counted_loss(self: Any, role: Any, scores: Any, view: Any) -> Any:
        if role == "policy":
            recorder.work.trained_tokens += view.num_targets
        return loss(self, role, scores, view)

    RolloutMaker.make = timed_make  # type: ignore[method-assign,assignment]
    method.loss = counted_loss  # type: ignore[method-assign]
    benchmarks.workload.even_words = recorder.rewarding(benchmarks.workload.even_words)
    recorder.count_tokens(Qwen3Model)
    recorder.start()

    run_dir = Path(job["scratch"]) / "plaudit"
    shutil.rmtree(run_dir, ignore_errors=True)
    api.train(train["method"], **settings(job, run_dir))
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # The first step is shown by itself too; what counts are the lines of whole rollout batches.
    rows = [row for row in metrics if "loss" in row and row["step"] % train["updates"] == 0]
    write_result(
        job, {**recorder.result([row["loss"] for row in rows]), "gradient_norms": [row["grad_norm"] for row in rows]}
    )


if __name__ == "__main__":
    main()
