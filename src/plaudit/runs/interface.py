"""What can be done with run directories from Python; the commands `plaudit runs` and `plaudit watch` are these."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from plaudit.errors import RunError
from plaudit.runs.comparison import compare_runs, write_comparison
from plaudit.runs.overview import overview as show_run
from plaudit.runs.pruning import Pruned, Rule, plan_pruning, prune, skipped
from plaudit.runs.rundir import content_of
from plaudit.runs.state import RunState
from plaudit.runs.stopping import ask_to_stop, wait_for_end
from plaudit.runs.summary import find_runs, list_runs
from plaudit.runs.watching import Watch


def prune_runs(
    paths: Sequence[str | Path],
    *,
    keep: int = 1,
    older_than: float | None = None,
    dry_run: bool = True,
) -> list[Pruned]:
    """Remove checkpoints of runs, or of all runs below folders.

    Args:
        paths: run directories, or folders with runs below.
        keep: so many of the newest stay.
        older_than: only what was written more than so many seconds ago goes; None = of any age.
        dry_run: change nothing, and return what would go.

    Returns:
        One entry for each run. A running one below a folder is skipped, which its entry says.

    Raises:
        RunError: PL501, there is no run; PL503, a run that was named itself is running; PL504, a run is damaged; PL505,
            something cannot be deleted.
    """
    rule = Rule(keep=keep, older_than=older_than)
    act = plan_pruning if dry_run else prune
    found: list[Pruned] = []
    for path in map(Path, paths):
        below = list(find_runs(path.expanduser()))
        alone = below == [path.expanduser()] or not below  # without any: the error says that it is no run
        for run in below or [path.expanduser()]:
            found.append(act(run, rule) if alone else skipped(run, rule, act))
    return found


def stop_run(
    path: str | Path, *, seconds: float | None = None, on_asked: Callable[[int], None] | None = None
) -> RunState:
    """Ask a run to stop in order, and wait for its end. A run that is not running is left as it is.

    Args:
        seconds: longest time to wait; None = as long as it takes.
        on_asked: told the process that was asked.

    Returns:
        Where it stands then; "running" where the time was not enough.

    Raises:
        RunError: PL501, there is no run; PL507, its process cannot be reached from here.
    """
    path = Path(path).expanduser()
    asked = ask_to_stop(path)
    if asked is not None and on_asked is not None:
        on_asked(asked)
    return wait_for_end(path, seconds=seconds)


def watch_run(
    path: str | Path, stream: TextIO | None = None, *, wait: bool = False, stop: bool = False, look: float = 0.5
) -> RunState:
    """Show a run until it ends, on a terminal as a picture and elsewhere as lines.

    Args:
        path: run directory; the run need not have started.
        stream: where to; None = standard output.
        wait: stay when the run is stopped, until somebody goes on with it.
        stop: ask it to stop in order first.
        look: seconds between two looks.

    Returns:
        How it ended.

    Raises:
        RunError: PL501, the folder holds something else than a run; PL504, a file of the run is damaged; with `stop`
            also PL507.
    """
    path = Path(path).expanduser()
    if content_of(path) == "foreign":
        raise RunError(
            "PL501",
            "the folder holds something else than a run, and none can start in it",
            where=str(path),
            mend="give the directory that the training command printed; `plaudit runs list` shows those in runs/",
        )
    if stop:
        ask_to_stop(path)
    return Watch(path, stream or sys.stdout, wait=wait and not stop, look=look).follow()


__all__ = [
    "compare_runs",
    "list_runs",
    "prune_runs",
    "show_run",
    "stop_run",
    "watch_run",
    "write_comparison",
]
