"""`--detach`: a training command goes on in a session of its own, without this terminal.

What it says goes to console.log in the run directory. This process waits only until the run stands (or has failed, and
then says why), and tells how to watch and to stop it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import typer

from plaudit.cli.launch import PROGRAM, take_processes
from plaudit.errors import SIGNALLED, ConfigError
from plaudit.runs import jsonl
from plaudit.runs.lock import is_locked, owner
from plaudit.runs.rundir import COMPLETE_NAME, CONSOLE_NAME, PLAN_NAME, RunDir

DETACH = "--detach"
DETACH_MEANING = "run without this terminal, with the output in console.log of the run directory"

_SETTLING = 10.0
"""Seconds that a run is watched for once it has its directory: most mistakes show while model and data are loaded."""
_LOOK = 0.1
_SHOWN = 40
"""Lines of the output that are shown of a run that has failed at once."""


def take_detach(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether `--detach` is given, and the other arguments.

    Raises:
        ConfigError: PL102, it has a value.
    """
    for token in arguments:
        if token.startswith(f"{DETACH}="):
            raise ConfigError("PL102", f"{DETACH} takes no value", where=token, mend=f"give {DETACH}, or leave it out")
    return DETACH in arguments, [token for token in arguments if token != DETACH]


def detach(method: str | None, arguments: Sequence[str]) -> int:
    """Start the run that the arguments describe in a session of its own.

    Returns:
        The exit status: 0 where the run stands, or its own where it has ended already.

    Raises:
        ConfigError, RunError: what can be known before anything is started.
    """
    from plaudit.config.load import resolve

    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "PL102", "another launcher has started this process already", where=DETACH, mend=f"leave {DETACH} out"
        )
    _, _, rest = take_processes(arguments)
    config = resolve(method, overrides=rest).run.run
    assert config.dir is not None
    path = RunDir.claim(config.dir, config.if_exists)
    if config.if_exists == "resume" and (path / COMPLETE_NAME).exists():
        typer.echo(f"run directory: {path}\nthe run is already complete; run.if_exists=new starts another")
        return 0
    place = [f"run.dir={path}", "run.if_exists=resume"] if config.if_exists == "new" else []
    log = path / CONSOLE_NAME
    begun, before = time.time(), log.stat().st_size if log.exists() else 0
    process = _start([*_command(method), *arguments, *place], log)
    typer.echo(f"run directory: {path}")
    return _report(path, process) if _stands(path, process, begun) else _failed(process, log, before)


def _command(method: str | None) -> list[str]:
    """The words before the arguments, as they were given."""
    return [method] if method is not None else ["train"]


def _start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with jsonl.writing(log):
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        os.write(output, f"-- {now} plaudit {shlex.join(arguments)}\n".encode(errors="replace"))
        return subprocess.Popen(
            [sys.executable, "-m", "plaudit", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, PROGRAM: sys.argv[0]},
            start_new_session=True,
        )
    finally:
        os.close(output)


def _stands(path: Path, process: subprocess.Popen[bytes], begun: float) -> bool:
    """Wait until the run has loaded model and data, or is at least at it for a while; False when it has ended before.

    Ctrl-C leaves it to itself.
    """
    deadline = None
    try:
        while process.poll() is None:
            if deadline is None and _holds(path, process.pid):
                deadline = time.monotonic() + _SETTLING
            plan = path / PLAN_NAME
            if deadline is not None and (
                time.monotonic() > deadline or (plan.exists() and plan.stat().st_mtime >= begun)
            ):
                return True
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        return True
    return process.returncode == 0  # a short one has come to its end


def _holds(path: Path, pid: int) -> bool:
    """Whether the process, or one that it has started (--processes), holds the lock of the run directory."""
    writer = owner(path)
    return writer is not None and pid in (writer.pid, writer.launcher) and is_locked(path)


def _report(path: Path, process: subprocess.Popen[bytes]) -> int:
    shown = shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))
    ended = process.poll() is not None
    if ended:
        typer.echo("it has come to its end already")
    else:
        typer.echo(f"process: {process.pid}, in a session of its own")
        typer.echo(f"  watch   plaudit watch {shown}")
        typer.echo(f"  stop    plaudit runs stop {shown}")
    typer.echo(f"  output  {shown}/{CONSOLE_NAME}")
    return 0


def _failed(process: subprocess.Popen[bytes], log: Path, before: int) -> int:
    with log.open("rb") as file:
        file.seek(before)
        lines = file.read().decode("utf-8", errors="replace").rstrip().splitlines()[1:]
    left_out = [f"… {len(lines) - _SHOWN} lines before, in {log}"] if len(lines) > _SHOWN else []
    typer.echo("\n".join([*left_out, *lines[-_SHOWN:]]), err=True)
    status = process.returncode
    return status if status > 0 else SIGNALLED - status
