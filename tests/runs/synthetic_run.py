"""A run directory made through the public interface, as a DPO run would leave it."""

from __future__ import annotations

import math
import random
from pathlib import Path

from plaudit.runs.alerts import Alert
from plaudit.runs.rundir import RunDir

HOSTILE = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title='pwned'\"></textarea>"


def make_run(path: Path, *, steps: int = 60, complete: bool = True) -> Path:
    """Metrics of train and eval (one with a gap), alerts, samples that hold markup, a data report, a ledger."""
    rng = random.Random(0)
    config = {
        "model": {"path": "tiny-model"},
        "method": {"name": "dpo", "beta": 0.1},
        "data": {"train": [{"path": "pairs.jsonl"}, {"path": HOSTILE}]},
    }
    with RunDir.open(path, "resume", config) as run:
        run.write_data_report({"rows": 120, "dropped": {"identical_pair": ["pairs.jsonl:4"]}, "note": HOSTILE})
        for step in range(steps + 1):
            if step:
                metrics = {
                    "loss": 0.69 * math.exp(-step / steps) + rng.gauss(0, 0.02),
                    "rewards/margins": 2 * step / steps,
                    "learning_rate": 1e-5 * step / steps,
                    "odd/metric": math.nan if step == 10 else float(step),
                    HOSTILE: 1.0,
                }
                run.log_metrics(step, metrics)
            if step % 20 == 0:
                run.log_metrics(step, {"eval/loss": 0.69 - 0.002 * step})
                run.log_samples(
                    step,
                    [
                        {"prompt": "Why?", "completion": f"answer at {step}", "reward": step / 10, "chosen": "because"},
                        {"prompt": HOSTILE, "completion": HOSTILE, "label": HOSTILE},
                    ],
                )
        run.log_alert(Alert("warn", "margins_flat", f"flat {HOSTILE}", "raise beta", 20))
        run.log_event("checkpoint", step=steps, path="checkpoints/last")
        if complete:
            run.mark_complete({"steps": steps, "note": HOSTILE})
        return run.path
