"""Worker of `benchmarks.two_ranks`: trains as one process or as one of several, and times what passes between them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Recorder, read_job, trunk_of, write_result

WORLD = ("sum_values", "sum_gradients", "gather", "from_main", "barrier")
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "reduce_scatter",
    "reduce_scatter_tensor",
)
"""Functions of torch.distributed; what they start in the background is timed where it is waited for."""


@dataclass
class Clock:
    """Seconds inside of wrapped functions, each moment once however deep they call each other."""

    seconds: float = 0.0
    calls: int = 0
    marks: list[tuple[float, int]] = field(default_factory=list)
    """at the end of each optimiser step"""
    _depth: int = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time taken."""

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - start
                    self.calls += 1

        return inside

    def mark(self, *_: Any) -> None:
        """An optimiser step has ended."""
        self.marks.append((self.seconds, self.calls))

    def window(self) -> tuple[float, int]:
        """Seconds and outermost calls from the end of the first optimiser step to the end of the last."""
        (before, calls_before), (after, calls) = self.marks[0], self.marks[-1]
        return after - before, calls - calls_before


def watch(clock: Clock, owner: Any, names: tuple[str, ...]) -> None:
    """Time these functions of a class or a module, where it has them."""
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, clock.timed(getattr(owner, name)))


def main() -> None:
    """Options: those of `plaudit_offline.settings`. Every process writes a result of its own."""
    job = read_job()
    rank = int(os.environ.get("RANK", "0"))

    import torch.distributed as dist
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from benchmarks.plaudit_offline import reported_losses, settings
    from plaudit import api
    from plaudit.train.parallel import World

    clock = Clock()
    watch(clock, World, WORLD)
    watch(clock, dist, COLLECTIVES)
    watch(clock, dist.Work, ("wait",))
    recorder = Recorder()
    recorder.count_tokens(trunk_of(job["train"]["model"]))
    recorder.start()
    register_optimizer_step_post_hook(clock.mark)

    run_dir = Path(job["scratch"]) / "plaudit"
    api.train(job["train"]["method"], observers=() if rank else None, **settings(job, run_dir))
    result = recorder.result(reported_losses(run_dir))
    seconds, calls = clock.window()
    job["out"] = str(rank_file(Path(job["out"]), rank))
    write_result(job, {**result, "communication_seconds": seconds, "communication_calls": calls})


def rank_file(out: Path, rank: int) -> Path:
    """Where a process writes its result."""
    return out if rank == 0 else out.with_suffix(f".{rank}.json")


if __name__ == "__main__":
    main()
