"""One of two processes that carry out runs one after the other: starting a pair is most of the time of a short run.

Run under the variables that torchrun sets, as `python -m tests.train.sharded_worker JOBS OUTCOMES`: JOBS holds
[[name, method, options], …]; each process writes what came of every one to OUTCOMES.RANK.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from plaudit.models.shards import is_shard
from plaudit.runs.observer import SilentObserver
from plaudit.train.loop import Trainer
from plaudit.train.session import run_training
from tests.train.runs import resolved, session_of


class Heard(SilentObserver):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def watch_weights(found: dict[str, Any]) -> None:
    """Note how much of the trained weights and of their moments this process holds."""
    original = Trainer.run

    def run(self: Trainer) -> None:
        original(self)
        weights = self.masters.weights.values()
        state = [t for entries in self.optimizer.state.values() for t in entries.values() if t.ndim]
        found["sharded"] = [is_shard(w) for w in weights]
        found["numel"] = sum(w.numel() for w in weights)
        found["local"] = sum(w.to_local().numel() if is_shard(w) else w.numel() for w in weights)  # type: ignore[attr-defined]
        found["local_moments"] = sum(t.to_local().numel() if is_shard(t) else t.numel() for t in state)  # type: ignore[attr-defined]
        found["dtypes"] = sorted({str(w.dtype) for w in weights})

    Trainer.run = run  # type: ignore[method-assign]
    found["undo"] = original


def carry_out(method: str, options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    heard = Heard()
    watch_weights(found)
    try:
        result = run_training(resolved(method, options), observers=[heard], session=session_of(method))
        found["steps"] = result.steps
        found["empty"] = all(p.numel() == 0 for p in result.model.parameters())
    except Exception as error:
        found |= {"error": str(error), "code": getattr(error, "code", None), "traceback": traceback.format_exc()}
    Trainer.run = found.pop("undo")  # type: ignore[method-assign]
    return found | {"messages": heard.messages}


def main(jobs: Path, outcomes: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    found = {}
    for name, method, options in json.loads(jobs.read_text(encoding="utf-8")):
        found[name] = carry_out(method, options)
        if "error" in found[name]:
            break  # the two may not be at the same place any more
    outcomes.with_suffix(f".{os.environ['RANK']}").write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # torch's background threads now and then abort an interpreter that ends by itself


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
