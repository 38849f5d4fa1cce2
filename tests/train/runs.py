"""Real runs of tiny models: what they are configured with, how a process runs (and kills) one, how two compare.

The processes are warm ones (tests/warm.py), so one costs little more than its training steps. This module is imported
by their server: at import it must not compute anything.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # preloaded
import pytest
import safetensors.torch
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  # preloaded

from plaudit.config.load import Resolved, resolve
from plaudit.methods import available, find
from plaudit.online.session import OnlineSession
from plaudit.runs.observer import SilentObserver
from plaudit.train import session
from plaudit.train.interrupt import Interrupted
from plaudit.train.running import run_training
from plaudit.train.session import TrainResult
from plaudit.types import DataKind
from tests import warm

METHODS = list(available())
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"r": 4}},
    "lora_dropout": {"lora": {"r": 4, "dropout": 0.1}},
    "bf16": {"model.precision": "bf16"},
    "checkpointing": {"model.gradient_checkpointing": True},
}
CORE: dict[str, tuple[str, ...]] = {
    "sft": ("full", "lora_dropout"),
    "dpo": tuple(VARIANTS),
    "kto": ("lora", "checkpointing"),
    "reward": ("lora", "bf16"),
    "bco_pair": ("full", "checkpointing"),
    "tr_dpo": ("lora", "bf16"),
}
"""One method of each kind of machinery: no other role, a reference, fresh completions and two passes, a scalar head,
a state, a moving reference; and the variants that it has in the default run: one method has all, and every variant has
another kind of machinery beside it. Every other method that is no variant of another has one variant, another one for
each; the slow run takes all through all."""


def variants_of(method: str) -> list[str]:
    """The variants that make sense: dropout is refused where a step is scored twice, and where answers are sampled."""
    found = available()[method]
    return [v for v in VARIANTS if v != "lora_dropout" or (found.scope == "group" and not found.is_online())]


def cells(variants: Sequence[str] = tuple(VARIANTS), *, others: bool = True) -> list[Any]:
    """(method, variant) of every method; those beyond the default run are marked slow.

    Args:
        others: whether methods outside `CORE` that are no variant of another have one variant in the default run.
    """
    found = []
    for number, method in enumerate(METHODS):
        fitting = [v for v in variants if v in variants_of(method)]
        alone = others and available()[method].variant_of is None
        shown = CORE.get(method, (fitting[number % len(fitting)],) if alone else ())
        assert method not in CORE or set(shown) & set(fitting), "every kind of machinery takes part"
        found += [pytest.param(method, v, marks=() if v in shown else pytest.mark.slow) for v in fitting]
    return found


def core_methods() -> list[Any]:
    """Every method; those outside `CORE` marked slow."""
    return [pytest.param(m, marks=() if m in CORE else pytest.mark.slow) for m in METHODS]


TIMING = {"tokens_per_second", "step_seconds", "peak_memory_gb", "train_seconds", "rollout/seconds"}
_WORDS = [
    "red",
    "green",
    "blue",
    "grey",
    "round",
    "small",
    "old",
    "new",
    "fast",
    "slow",
    "warm",
    "cold",
    "here",
    "there",
    "now",
    "then",
]


def rows_of(kind: DataKind, count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Ragged rows of a data kind; every row differs from every other."""
    rng = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(low, high)))

    def row(i: int) -> dict[str, Any]:
        prompt = f"thing {i}: {words(1, 9)}?"
        if kind == "prompt":
            return {"prompt": prompt, "answer": words(1, 2)}
        if kind == "preference":
            return {"prompt": prompt, "chosen": f"yes {words(1, 6)}", "rejected": f"no {words(1, 9)}"}
        if kind == "feedback":
            return {"prompt": prompt, "completion": words(1, 8), "label": i % 3 > 0}
        if kind == "ranking":
            answers = [f"{k} {words(1, 6)}" for k in range(4)]
            return {"prompt": prompt, "completions": answers, "ranks": rng.sample([1, 2, 3, 4], 4)}
        answer = {"role": "assistant", "content": words(1, 9)}
        return {"messages": [{"role": "user", "content": prompt}, answer]}

    return [row(i) for i in range(count)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.epochs": 2} → {"train": {"epochs": 2}}."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        *sections, name = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        if isinstance(value, dict) and isinstance(place.get(name), dict):
            place[name].update(value)
        else:
            place[name] = dict(value) if isinstance(value, dict) else value
    return found


def options_for(model: Path, data: Path, run: Path, **changes: Any) -> dict[str, Any]:
    """A short run with everything in it: two epochs, evaluations, pruned checkpoints, several micro-batches."""
    options: dict[str, Any] = {
        "model.path": str(model),
        "model.precision": "fp32",
        "data.train": [{"path": str(data)}],
        "data.eval_fraction": 0.3,
        "train.learning_rate": 2e-3,
        "train.groups_per_step": 4,
        "train.tokens_per_microbatch": 160,
        "train.epochs": 2.0,
        "eval.every": 3,
        "checkpoint.every": 2,
        "run.dir": str(run),
        "run.reference_cache": str(run.parent / f"{run.name}-cache"),
    }
    if data.stem == "prompt":
        del options["run.reference_cache"]  # nothing is cached there
        options |= ONLINE
    return options | changes


ONLINE: dict[str, Any] = {
    "reward.rewards": [f"{Path(__file__).with_name('rewarding.py')}:vowels"],
    "rollout.prompts_per_batch": 8,
    "rollout.completions_per_prompt": 3,
    "rollout.max_new_tokens": 12,
    "rollout.ppo_epochs": 1,
    "rollout.samples_every": 100,
    "log.every": 1,
}
"""Two steps on each rollout batch: an evaluation and a checkpoint in the middle of one."""


def resolved(method: str, options: Mapping[str, Any], **more: Any) -> Resolved:
    return resolve(method, (), nested(options), **more)


# -- a process that runs, and may be killed -------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """Where SIGKILL strikes, counted from the start of the process.

    `at` is one of: step (after the log line of step `number`), evaluation (after its lines), samples (in the middle
    of an evaluation), message (a message that starts with `text`, the `number`-th), operation (before the `number`-th
    file operation below checkpoints/, model/ or best/, of those on paths that have the words of `text` in them).
    """

    at: str
    number: int
    text: str = ""
    signum: int = signal.SIGKILL


@dataclass(frozen=True)
class Job:
    """What a process does."""

    method: str
    options: dict[str, Any]
    outcome: Path
    """JSON: what came of it"""
    kill: Kill | None = None
    environment: dict[str, str] = field(default_factory=dict)
    ahead: int = 256
    fail_in_rank: int | None = None


class _Killer(SilentObserver):
    def __init__(self, kill: Kill) -> None:
        self.kill, self.seen = kill, 0

    def _strike(self, at: str, number: int) -> None:
        if (self.kill.at, self.kill.number) == (at, number):
            os.kill(os.getpid(), self.kill.signum)

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        self._strike("step", step)

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._strike("evaluation", step)

    def on_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        self._strike("samples", step)

    def on_message(self, text: str) -> None:
        if self.kill.text and text.startswith(self.kill.text):
            self.seen += 1
            self._strike("message", self.seen)


_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def _kill_at_operation(kill: Kill) -> None:
    """Die before the n-th operation on files that hold weights, as the interpreter itself reports them."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and isinstance(arguments[0], (str, Path)):
            place = str(arguments[0])
            if all(word in place for word in kill.text.split()) and (
                "/checkpoints/" in place
                or "/model" in place.rpartition("/run")[2]
                or "/best" in place
                or "/.writing-" in place
            ):
                seen += 1
                if seen == kill.number:
                    os.kill(os.getpid(), kill.signum)

    sys.addaudithook(hook)


def shown_samples(policy: Any, tokenizer: Any, groups: Sequence[Any]) -> list[dict[str, Any]]:
    """Stands for generation: draws from the global generator, as sampling does."""
    return [{"prompt": g.prompt_text, "completion": f"{float(torch.rand(())):.6f}"} for g in groups]


def _work(job: Job) -> None:
    os.environ.update(job.environment)
    torch.set_num_threads(1)
    session._AHEAD = job.ahead
    observers: list[Any] = []
    if job.kill is not None:
        observers.append(_Killer(job.kill))
        if job.kill.at == "operation":
            _kill_at_operation(job.kill)
    if job.fail_in_rank is not None and os.environ.get("RANK") == str(job.fail_in_rank):
        os.environ["XDG_CACHE_HOME"] = "/dev/null/nowhere"
        job.options["data.train"] = [{"path": "/nowhere/at/all.jsonl"}]
    found: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        result = run_training(
            resolved(job.method, job.options, files_exist=job.fail_in_rank is None),
            observers=observers,
            answer_sampler=shown_samples,
            session=session_of(job.method),
        )
        found = {"steps": result.steps, "reference_tokens": result.reference_tokens, "dir": str(result.run_dir)}
    except Interrupted as stopped:
        found = {"interrupted": stopped.signum, "message": stopped.message}
    except BaseException as error:
        found = {"error": str(error), "kind": type(error).__name__, "code": getattr(error, "code", None)}
        found["traceback"] = traceback.format_exc()
    found["seconds"] = time.perf_counter() - started
    job.outcome.write_text(json.dumps(found), encoding="utf-8")
    # Whoever waits for a collective of this process must see the connection close.
    os._exit(1 if "error" in found else 0)


def session_of(method: str) -> type[session.Session]:
    """What carries out a run of a method."""
    return OnlineSession if find(method).is_online() else session.Session


def start(job: Job) -> BaseProcess:
    """Start a process from the warm server."""
    job.outcome.parent.mkdir(parents=True, exist_ok=True)
    job.outcome.unlink(missing_ok=True)
    return warm.start(_work, job)


def finish(process: BaseProcess, job: Job, timeout: float = 120) -> dict[str, Any]:
    """Wait for it; an empty outcome means that it was killed."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"the process did not end within {timeout:g} s")
    return json.loads(job.outcome.read_text(encoding="utf-8")) if job.outcome.exists() else {}


def run_process(job: Job, timeout: float = 120) -> dict[str, Any]:
    return finish(start(job), job, timeout)


def completed(job: Job) -> dict[str, Any]:
    """Run to the end; anything else fails."""
    outcome = run_process(job)
    assert "steps" in outcome, outcome.get("traceback", outcome)
    return outcome


def two_ranks(
    job: Job, timeout: float = 120, between: Callable[[list[BaseProcess]], None] | None = None
) -> list[dict[str, Any]]:
    """Two processes of one run, over gloo; `between` is called when both have started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = []
    for rank in range(2):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        jobs.append(
            Job(
                job.method,
                job.options,
                job.outcome.with_suffix(f".{rank}.json"),
                job.kill,
                job.environment | environment,
                job.ahead,
                job.fail_in_rank,
            )
        )
    processes = [start(j) for j in jobs]
    if between is not None:
        between(processes)
    return [finish(p, j, timeout) for p, j in zip(processes, jobs, strict=True)]


def train_here(method: str, options: Mapping[str, Any], **more: Any) -> TrainResult:
    """Train in this process."""
    here = resolved(method, options, objects="model" in more or "rows" in more)
    return run_training(here, session=session_of(method), **more)


# -- what a run leaves behind ----------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def without_timing(line: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in line.items() if k not in TIMING}


def state_of(run: Path) -> dict[str, Any]:
    """Everything that must not depend on having been interrupted, in comparable form."""
    checkpoints = sorted(p for p in (run / "checkpoints").iterdir())
    last = checkpoints[-1]
    progress = json.loads((last / "progress.json").read_text(encoding="utf-8"))
    complete = json.loads((run / "COMPLETE").read_text(encoding="utf-8"))
    exported = {
        str(file.relative_to(run)): file.read_bytes()
        for folder in ("model", "best")
        for file in sorted((run / folder).rglob("*.safetensors"))
    }
    return {
        "checkpoints": [p.name for p in checkpoints],
        "weights": safetensors.torch.load_file(last / "weights.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "random": torch.load(last / "random.pt", weights_only=True),
        "progress": without_timing(progress) | {"last_metrics": without_timing(progress.get("last_metrics", {}))},
        "metrics": [without_timing(line) for line in lines(run / "metrics.jsonl")],
        "samples": lines(run / "samples.jsonl"),
        "alerts": lines(run / "alerts.jsonl"),
        "summary": without_timing(complete["summary"]),
        "exported": exported,
    }


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The first place where two states differ, bit for bit; None if there is none."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
        )
        return None if same else f"{where}: tensors differ"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"
        return next((d for k in a if (d := difference(a[k], b[k], f"{where}/{k}"))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)} entries"
        return next(
            (d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := difference(x, y, f"{where}/{i}"))), None
        )
    return None if a == b or (a != a and b != b) else f"{where}: {a!r:.200} and {b!r:.200}"
