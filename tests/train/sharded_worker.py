"""One of two processes that carry out runs one after the other: starting a pair is most of the time of a short run.

`main` runs under the variables that torchrun sets: JOBS is a file with a list of `Task`s as JSON; each process writes
what came of every one to OUTCOMES.RANK.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from plaudit.models.shards import is_shard, whole
from plaudit.runs.observer import SilentObserver
from plaudit.train.interrupt import Interrupted
from plaudit.train.loop import Trainer
from plaudit.train.parallel import start_world
from plaudit.train.running import run_training
from tests.train.runs import resolved, session_of


@dataclass(frozen=True)
class Task:
    """A run.

    Attributes:
        copy_of: a run directory that is copied to this one's place before.
        stop_after: SIGTERM comes in this step.
        state: file for the weights and moments that the run goes on from, as a whole.
    """

    name: str
    method: str
    options: dict[str, Any]
    copy_of: str | None = None
    stop_after: int | None = None
    state: str | None = None


class _Watch(SilentObserver):
    def __init__(self, stop_after: int | None) -> None:
        self.messages: list[str] = []
        self.stop_after = stop_after

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_step(self, step: int, total_steps: int, metrics: Mapping[str, float]) -> None:
        if step == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


def whole_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """fp32 weights and moments in one piece, by the names of a sharded checkpoint."""
    found = {f"weights/{name}": whole(w.detach()).clone() for name, w in trainer.masters.weights.items()}
    for name, weight in trainer.masters.weights.items():
        for key, value in trainer.optimizer.state.get(weight, {}).items():
            found[f"optimizer/{key}/{name}"] = whole(value).clone()
    return found


def _local(tensor: torch.Tensor) -> int:
    return tensor.to_local().numel() if is_shard(tensor) else tensor.numel()  # type: ignore[attr-defined]


def carry_out(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    heard = _Watch(task.stop_after)
    original = Trainer.run

    def run(self: Trainer) -> None:
        if task.state is not None:
            state = whole_state(self)
            if self.world.is_main:
                torch.save(state, task.state)
        original(self)
        weights = list(self.masters.weights.values())
        state = [t for entries in self.optimizer.state.values() for t in entries.values() if t.ndim]
        found["sharded"] = [is_shard(w) for w in weights]
        found["numel"] = sum(w.numel() for w in weights)
        found["local"], found["local_moments"] = sum(map(_local, weights)), sum(map(_local, state))
        found["dtypes"] = sorted({str(w.dtype) for w in weights})

    Trainer.run = run  # type: ignore[method-assign]
    try:
        result = run_training(resolved(task.method, task.options), observers=[heard], session=session_of(task.method))
        found["steps"] = result.steps
        found["held"] = sum(p.numel() for p in result.model.parameters())
    except Interrupted as stopped:
        found["interrupted"] = stopped.signum
    except Exception as error:
        found |= {"error": str(error), "code": getattr(error, "code", None), "traceback": traceback.format_exc()}
    finally:
        Trainer.run = original  # type: ignore[method-assign]
    return found | {"messages": heard.messages}


def main(jobs: Path, outcomes: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    world, found = start_world(), {}
    for values in json.loads(jobs.read_text(encoding="utf-8")):
        task = Task(**values)
        if task.copy_of is not None and world.is_main:
            shutil.copytree(task.copy_of, task.options["run.dir"])
        world.barrier()
        found[task.name] = carry_out(task)
        if "error" in found[task.name]:
            break  # the two may not be at the same place any more
    outcomes.with_suffix(f".{os.environ['RANK']}").write_text(json.dumps(found), encoding="utf-8")
