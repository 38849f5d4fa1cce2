"""Running contenders against each other: environments, worker processes, interleaved repeats, results on disk.

A benchmark is a workload folder, a list of `Variant`s and the bars to reach. Every measured run is a process of its
own; runs are interleaved (A B C D A B C D …), so that a slow minute of the machine falls on everybody.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
RESULTS = ROOT / "benchmarks" / "results"
MIB = 1024**2

Side = Literal["ours", "rival"]


class BenchmarkError(RuntimeError):
    """A run failed, or the two sides did not do the same work: there is no number to report."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work."""

    name: str
    side: Side
    python: Path
    """Interpreter of the environment the worker runs in."""
    module: str
    """Worker module, e.g. benchmarks.trl_offline."""
    options: Mapping[str, Any]
    """What the worker is told besides the common settings."""
    note: str = ""
    """Shown under the table."""
    warm_reference: bool = False
    """The reference log-probs come from a cache that an unmeasured run has filled."""
    same_rows: bool = True
    """Its optimiser steps hold the rows of everybody else's. If not, losses are not compared, and time is per token."""
    threads: int | None = None
    """Other than the session's."""
    launcher: tuple[str, ...] = ()
    """Arguments of the interpreter before the worker's, e.g. -m torch.distributed.run."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of one variant. The window is `steps` optimiser steps after one warm-up step."""

    steps: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Peak resident memory over the post-import baseline, model and optimiser included."""
    baseline_bytes: int
    grad_tokens: int
    """Token positions through the trunk with gradient in the window, padding included."""
    reference_tokens: int
    """The same without gradient."""
    ahead_seconds: float
    """The part of `seconds` that was spent before the first step, on what is computed for all steps at once."""
    uncharged_tokens: int
    """Token positions without gradient up to the end of the warm-up step that no time stands for."""
    losses: tuple[float, ...]
    """Per optimiser step, the warm-up step first."""
    versions: Mapping[str, str]
    threads: int
    flops: float = 0.0
    """Floating-point operations in the window, where they were counted."""


def environment(name: str, requirements: Sequence[str], constraints: Path) -> Path:
    """The interpreter of `.bench/<name>/`, a virtual environment made once from pip requirements."""
    folder = BENCH / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    wanted = "\n".join([*requirements, constraints.read_text(encoding="utf-8")])
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        say(f"installing {' '.join(requirements)} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(constraints), *requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def worker_environment(threads: int) -> dict[str, str]:
    """The environment variables of every worker: fixed threads, nothing from the network, no telemetry."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "LD_PRELOAD")}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONHASHSEED": "0",
    }


@dataclass(frozen=True)
class Session:
    """What all runs of a benchmark have in common."""

    workload: Path
    train: Mapping[str, Any]
    """Optimiser settings, equal on both sides."""
    threads: int
    scratch: Path
    """Caches and outputs of the workers."""
    timeout: float = 3600.0

    def run(self, variant: Variant, steps: int) -> Measurement:
        """One measured process. Raises BenchmarkError with the end of its output if it fails."""
        result = self.work(variant, steps, prime=False)
        return Measurement(**{**result, "losses": tuple(result["losses"])})

    def prime(self, variant: Variant, steps: int) -> None:
        """Fill the caches of a later `run` with exactly these settings, in an unmeasured process."""
        self.work(variant, steps, prime=True)

    def work(self, variant: Variant, steps: int, *, prime: bool = False) -> dict[str, Any]:
        """What one process wrote. Raises BenchmarkError as `run` does."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        job_file, out, log = (self.scratch / f for f in ("job.json", "result.json", "worker.log"))
        out.unlink(missing_ok=True)
        job = {
            "workload": str(self.workload),
            "train": dict(self.train),
            "options": dict(variant.options),
            "steps": steps,
            "prime": prime,
            "scratch": str(self.scratch),
            "out": str(out),
        }
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [str(variant.python), *variant.launcher, "-m", variant.module, str(job_file)]
        with log.open("w", encoding="utf-8") as sink:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=worker_environment(variant.threads or self.threads),
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=self.timeout,
                check=False,
            )
        if done.returncode != 0 or not out.exists():
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
            raise BenchmarkError(f"'{variant.name}' ended with status {done.returncode}:\n{tail}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result


def interleave(
    variants: Sequence[Variant], repeats: int, run: Callable[[Variant], Measurement]
) -> dict[str, list[Measurement]]:
    """Run A B C D, A B C D, …; every variant gets `repeats` measurements, in the order of the rounds."""
    runs: dict[str, list[Measurement]] = {variant.name: [] for variant in variants}
    for turn in range(1, repeats + 1):
        for variant in variants:
            measured = run(variant)
            runs[variant.name].append(measured)
            say(
                f"round {turn}/{repeats}  {variant.name:<24} {measured.seconds / max(measured.steps, 1):7.2f} s/step"
                f"  cpu {measured.cpu_seconds / max(measured.steps, 1):7.2f}"
                f"  peak +{measured.peak_bytes / MIB:6.0f} MiB"
            )
    return runs


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system, for the record."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory / 1024**3, 1), "system": platform.system()}


def write_results(name: str, content: Mapping[str, Any], markdown: str, folder: Path = RESULTS) -> Path:
    """Write `<name>.json` (every raw run) and `<name>.md` (the tables). Returns the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    stamped = {"written": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **content}
    target = folder / f"{name}.json"
    target.write_text(json.dumps(stamped, indent=1, default=_plain) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown + "\n", encoding="utf-8")
    return target


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_relative_to(ROOT) else value.name
    raise TypeError(f"cannot write {type(value).__name__}")


def say(text: str) -> None:
    """A line of progress or result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
