"""Worker: an offline method by plaudit. Started by the harness with a job file.

With `benchmarks.without` and `benchmarks.two_ranks` the only files of these comparisons that know plaudit's interface.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.measure import Recorder, read_job, trunk_of, write_result


def settings(job: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's configuration: what both sides share, then the options of the variant.

    Options: tokens_per_microbatch, reference_cache (folder below the scratch folder, or "off"), attention ("auto"),
    and further keys of the section `train` in `train`.
    """
    train, options = job["train"], job["options"]
    cache = options["reference_cache"]
    return {
        **train["ours"],
        "model": {
            "path": train["model"],
            "precision": train["precision"],
            "attention": options.get("attention", "auto"),
        },
        "data": {"train": train["rows"], "shuffle": False, "max_length": train["longest"]},
        "train": {
            "learning_rate": train["learning_rate"],
            "groups_per_step": train["rows_per_step"],
            "tokens_per_microbatch": options["tokens_per_microbatch"],
            "max_steps": job["steps"] + 1,
            "schedule": "constant",
            "warmup_steps": 0,
            "max_grad_norm": train["max_grad_norm"],
            "seed": train["seed"],
            **options.get("train", {}),
        },
        # No checkpoint inside the measured steps; the other side writes none either.
        "checkpoint": {"every": 10**6},
        "run": {
            "dir": str(run_dir),
            "if_exists": "fail",
            "reference_cache": "off" if cache == "off" else f"{job['scratch']}/{cache}",
        },
    }


def reported_losses(run_dir: Path) -> list[float]:
    """The loss of every optimiser step, from the run directory's metrics."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def rotate_mismatched() -> None:
    """KTO: pair each prompt with the answer of the row before it in the step, as TRL does inside its batch."""
    from plaudit.methods import kto as method

    kto: Any = method

    def rotated(groups: Any, *_: Any) -> Any:
        answers = [group.completions[0] for group in groups]
        return [[(answers[i - 1], False)] for i in range(len(groups))]

    kto.mismatched_answers = rotated


def main() -> None:
    """Train, then read the losses from the run directory's metrics.

    Options besides those of `settings`: without (a technique of `benchmarks.without` that is switched off), rotate
    (`rotate_mismatched`), count_flops.
    """
    job = read_job()
    train, options = job["train"], job["options"]

    from benchmarks.flops import counting
    from benchmarks.without import switch_off
    from plaudit import api
    from plaudit.methods import find
    from plaudit.train.scorer import GroupScorer

    recorder = Recorder()
    recorder.count_tokens(trunk_of(train["model"]))
    method = find(train["method"])
    if "reference" in method.roles and not method.fresh_completions:
        # The reference of all rows is scored before the first step: charged to the rows it is for.
        GroupScorer.__call__ = recorder.charge_ahead(GroupScorer.__call__)  # type: ignore[method-assign]
    switch_off(options.get("without"))
    if options.get("rotate"):
        rotate_mismatched()
    recorder.start()

    run_dir = Path(job["scratch"]) / "plaudit"
    shutil.rmtree(run_dir, ignore_errors=True)
    with counting(recorder, wanted=bool(options.get("count_flops"))):
        api.train(train["method"], **settings(job, run_dir))
    unique = train["unique_tokens"]
    share = sum(unique[train["rows_per_step"] :]) / sum(unique)
    write_result(job, recorder.result(reported_losses(run_dir), ahead_share=share))


if __name__ == "__main__":
    main()
