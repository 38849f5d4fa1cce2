"""Models that are kept for good where the KL to the reference first passes given values (Gao et al. 2022, arXiv
2210.10760: what a policy is worth is a curve over the square root of that KL, and the best point is only known later).

The KL is the metric `kl` in nats per answer, as the mean of the last three logged values. What was passed is in every
checkpoint, so an interrupted run keeps the same models with the same numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plaudit.runs import jsonl
from plaudit.runs.rundir import KL_FOLDER, KL_GRID_NAME
from plaudit.train.parallel import World
from plaudit.train.progress import Progress


class KLGrid:
    """Notices that a value was passed, and keeps the model.

    Args:
        values: nats per answer, rising; none: nothing is kept.
        run: the run directory; only the main process writes to it.
        save: writes the model as it is to a folder, for every command that takes one; called on every process.
    """

    def __init__(self, values: Sequence[float], run: Any, world: World, save: Callable[[Path], None]) -> None:
        self.values, self._run, self._world, self._save = tuple(values), run, world, save

    def look(self, progress: Progress, kl: float | None) -> None:
        """Take the smoothed KL of a logged step; None where there is none. Values that it passes first are noted."""
        if not self.values or kl is None:
            return
        before = progress.kl_highest
        if before is not None and kl <= before:
            return
        progress.kl_highest = kl
        passed = [v for v in self.values if v <= kl and (before is None or v > before)]
        if passed:
            progress.crossed = {"grid": passed, "kl": kl}

    def keep(self, progress: Progress, metrics: Mapping[str, float]) -> str | None:
        """Keep the model if a value has just been passed.

        Args:
            metrics: its numbers.

        Returns:
            What to tell, or None.
        """
        if progress.crossed is None:
            return None
        grid, kl = progress.crossed["grid"], progress.crossed["kl"]
        name = f"{KL_FOLDER}{grid[-1]:g}"
        entry = {"grid": grid, "step": progress.step, "kl": kl, "path": name, "metrics": dict(metrics)}
        progress.kept, progress.crossed = [*progress.kept, entry], None
        self._save(self._run.path / name)
        if self._world.is_main:
            self._write(progress)
            self._run.log_event("kept", step=progress.step, path=name, kl=kl)
        self._world.barrier()
        return f"kl has passed {' and '.join(f'{v:g}' for v in grid)} nats per answer: the model is kept in {name}/"

    def restore(self, progress: Progress) -> None:
        """Bring the folder to what the checkpoint knows: a model that was kept later will be kept again."""
        if not self._world.is_main:
            return
        known = {entry["path"] for entry in progress.kept}
        for path in self._run.path.glob(f"{KL_FOLDER}*"):
            if path.is_dir() and path.name not in known:
                shutil.rmtree(path)
        if progress.kept or (self._run.path / KL_GRID_NAME).exists():
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        jsonl.write_atomically(self._run.path / KL_GRID_NAME, jsonl.dumps(progress.kept, indent=2) + "\n")
