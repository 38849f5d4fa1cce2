"""All results against TRL as one table: `python -m benchmarks.offline_table`.

It reads benchmarks/results/offline_vs_trl-*.json and prints Markdown, so that documentation is made of files. Checks
(--quick) and runs of one side are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import RESULTS, say

COLUMNS = (
    "method",
    "model",
    "workload",
    "threads",
    "rounds × steps",
    "ours",
    "against",
    "rows/s",
    "CPU time",
    "peak memory",
    "computed ÷ unique, ours",
    "TRL's",
    "largest loss gap",
    "share of the matmul peak, ours",
)


def results(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The comparisons of a folder, ordered by method, number of parameters, workload and threads."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("offline_vs_trl-*.json"))]

    def order(result: Mapping[str, Any]) -> tuple[Any, ...]:
        a = result["arguments"]
        return a["method"], result["workload"]["parameters"], a["workload"], a["threads"], a["precision"]

    yield from sorted((r for r in found if r["comparisons"] and not r["arguments"]["quick"]), key=order)


def ratio(value: Mapping[str, float]) -> str:
    """A ratio over the rounds: median and range."""
    return f"{value['median']:.2f} ({value['low']:.2f}–{value['high']:.2f})"


def computed(result: Mapping[str, Any], variant: str) -> float:
    """Positions with gradient over unique tokens."""
    return float(median(m["grad_tokens"] for m in result["runs"][variant])) / float(result["unique_tokens"])


def lines_of(result: Mapping[str, Any]) -> Iterator[str]:
    """One line for each comparison of a result."""
    a = result["arguments"]
    size = f"{result['workload']['parameters'] / 1e6:.1f}M"
    precision = "" if a["precision"] == "fp32" else f", {a['precision']}"
    for c in result["comparisons"]:
        gap = "other rows in a step" if c["loss_gap"] is None else f"{c['loss_gap']:.0e}"
        cells = [
            a["method"],
            size + precision,
            a["workload"],
            str(a["threads"]),
            f"{a['repeats']} × {a['steps']}",
            c["ours"],
            c["rival"],
            f"**{ratio(c['speed'])}**",
            ratio(c["cpu"]),
            f"**{ratio(c['memory'])}**",
            f"{computed(result, c['ours']):.3f}",
            f"{computed(result, c['rival']):.3f}",
            gap,
            f"{100 * result['share_of_peak'][c['ours']]:.0f} %",
        ]
        yield "| " + " | ".join(cells) + " |"


def table(folder: Path) -> str:
    """Markdown of all results of a folder; "" if there are none."""
    lines = [line for result in results(folder) for line in lines_of(result)]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS), *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Status 1 where there is nothing to print."""
    headline = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline_table", description=headline)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    found = table(parser.parse_args(arguments).folder)
    say(found or "no results: run `python -m benchmarks.offline_vs_trl` first")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
