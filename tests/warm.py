"""Processes that have everything imported.

To import torch, transformers and what builds on them takes seconds of a processor, most of them for a test that starts
a process to kill it, or to be one of two. The processes here are forked from a server that has the imports behind it,
so one costs what it does. What a start itself is to prove (the console script, the launcher) is started for real.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_server = multiprocessing.get_context("forkserver")
_PRELOADED = "tests.preloaded"


@dataclass(frozen=True)
class Program:
    """A function as a process of its own.

    Attributes:
        main: is called with `arguments`; lies in a module.
        output: file that gets what is printed.
        environment: variables beyond those of whoever starts it.
    """

    main: Callable[..., None]
    arguments: tuple[Any, ...]
    output: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        """Run, and leave with 0, or with 1 where it raises."""
        with self.output.open("ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.environ.update(self.environment)
        status = 1
        try:
            self.main(*self.arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # torch's background threads now and then abort an interpreter that ends by itself


def start(target: Callable[..., None], *arguments: Any, daemon: bool = True) -> BaseProcess:
    """Start a process from the warm server.

    It has the variables of this call. What reads variables while it is imported has seen those of the first call.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _server.set_forkserver_preload([_PRELOADED])
    process = _server.Process(target=_within, args=(dict(os.environ), target, arguments), daemon=daemon)
    process.start()
    return process


def _within(variables: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.clear()
    os.environ.update(variables)
    target(*arguments)


def run_all(programs: list[Program], timeout: float) -> None:
    """Run programs side by side.

    Raises:
        AssertionError: one failed, or they took longer; with what all have printed.
    """
    processes = [start(program) for program in programs]
    try:
        for process in processes:
            process.join(timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    printed = [p.output.read_text(encoding="utf-8", errors="replace") for p in programs if p.output.exists()]
    assert codes == [0] * len(programs), f"{codes}\n" + "\n".join(printed)
