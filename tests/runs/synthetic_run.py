"""A run directory made through the public interface, as a DPO run would leave it."""

from __future__ import annotations

import math
import random
from pathlib import Path

from plaudit.runs.alerts import Alert, AlertRules, AlertSettings
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


def make_online_run(path: Path, *, batches: int = 30, updates: int = 2) -> Path:
    """What a run leaves that samples answers: rollout metrics at the first step of a batch, samples of other prompts
    each time, a held-out prompt that comes again, and a part of a reward whose name holds markup."""
    config = {
        "model": {"path": "tiny-model"},
        "method": {"name": "ppo"},
        "data": {"train": [{"path": "prompts.jsonl"}]},
    }
    with RunDir.open(path, "resume", config) as run:
        rules = AlertRules(AlertSettings(alert_after=20))
        for step in range(1, batches * updates + 1):
            share = step / (batches * updates)
            metrics = {"loss": 0.0, "policy/clipfrac": 0.1, "entropy": 0.7, "grad_norm": 1.0, "step_seconds": 2.0}
            metrics |= {"kl": 4 * share, "kl_per_token": 0.04 * share, "value/explained_variance": 0.5}
            if step % updates == 1:
                metrics |= {"reward": share, "reward_std": 0.4, "frac_reward_zero_std": 0.2, "rollout/gap_mean": 0.001}
                metrics |= {"rewards/math/mean": share, "rewards/length/mean": -0.1}
                metrics |= {"completions/mean_length": 100.0, "completions/clipped_ratio": 0.75}
                run.log_samples(step, [_answer(f"Question {step}.{i}", 1.0 - i / 2) for i in range(3)])
            run.log_metrics(step, metrics)
            for alert in rules.check(step, metrics):
                run.log_alert(alert)
            if step % 20 == 0:
                run.log_metrics(step, {"eval/reward": share / 2, "eval/completions/mean_length": 90.0})
                run.log_samples(step, [_answer("Held out?", 1.0)])
        run.mark_complete({"steps": batches * updates})
        return run.path


def _answer(prompt: str, reward: float) -> dict[str, object]:
    return {
        "prompt": prompt,
        "completion": f"an answer worth {reward:g}" if reward else "",
        "reward": reward,
        "parts": {"math": reward + 0.125, HOSTILE: -0.125},
        "note": "math: read 7, expected 7",
        "tokens": 12,
        "finish_reason": "stop" if reward else "length",
    }
