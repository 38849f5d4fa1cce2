"""`--gpus N` and `--processes N`: a training command as N processes of itself on this machine.

The processes are started and watched by torch's elastic machinery (torch.distributed.elastic.multiprocessing), which
ends the others when one fails. They find each other through a store of this process, on a free port of the loopback
interface. A signal is handed on to all of them, so that the run itself stops as a run of one process does; what this
process adds is one exit status, and silence about the processes beside the first one, unless they fail.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from plaudit.cli.exits import guarded
from plaudit.errors import SIGNALLED, ConfigError
from plaudit.runs.lock import LAUNCHER
from plaudit.train.interrupt import SIGNALS, Halted, Interrupted, let_go_of_terminal

OPTIONS = {
    "--gpus": "this many processes, each on a GPU of this machine",
    "--processes": "this many processes, on the CPU or a GPU each",
}
"""Options of every training command that are about how it runs, and no part of the run's configuration."""

_FOLDER = "PLAUDIT_LAUNCHED"
"""Variable of a started process: the folder where it leaves its exit status."""
PROGRAM = "PLAUDIT_PROGRAM"
"""Variable of a started process: what the command was called as, for the sentence that says how to go on."""
_PATIENCE = 30
"""Seconds between asking a process to end and killing it."""
_SHOWN = 120
"""Lines of a failed process's output that are shown."""


def take_processes(arguments: Sequence[str]) -> tuple[int, str | None, list[str]]:
    """Take the two options out of a command line.

    Returns:
        How many processes are asked for, by which option (None: by none), and the other arguments.

    Raises:
        ConfigError: PL102 for a value that is no number of processes, or both options.
    """
    rest: list[str] = []
    given: dict[str, str] = {}
    waiting = list(arguments)
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.partition("=")
        if name not in OPTIONS:
            rest.append(token)
            continue
        if name in given:
            raise ConfigError("PL102", f"{name} is given twice", where=name, mend="give it once")
        given[name] = value if equals else waiting.pop(0) if waiting else ""
    if len(given) > 1:
        raise ConfigError("PL102", "--gpus and --processes say the same", where="--processes", mend="give one of them")
    for name, value in given.items():
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError("PL102", f"{value!r} is no number of processes", where=name, mend=f"for example {name} 2")
        return int(value), name, rest
    return 1, None, rest


def is_launched() -> bool:
    """Whether this process was started by `launch`."""
    return _FOLDER in os.environ


def launch(processes: int, option: str) -> int:
    """Run this command in so many processes and wait for them.

    Args:
        option: by which option they were asked for.

    Returns:
        The exit status: that of the run, or of the process that failed.

    Raises:
        ConfigError: PL102 for more processes than GPUs, or under another launcher.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "PL102", "another launcher has started this process already", where=option, mend=f"leave {option} out"
        )
    _check_gpus(processes, option)
    with tempfile.TemporaryDirectory(prefix="plaudit-") as folder:
        return _supervise(processes, Path(folder))


def _check_gpus(processes: int, option: str) -> None:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus < processes and (option == "--gpus" or gpus):
        there = {0: "no GPU that torch can use", 1: "1 GPU"}.get(gpus, f"{gpus} GPUs")
        mend = f"give {option} {gpus}" if gpus > 1 else f"leave {option} out"
        if gpus == 0:
            mend += ", or use --processes to share the work on the CPU"
        raise ConfigError("PL102", f"this machine has {there}, not {processes}", where=option, mend=mend)


def _supervise(processes: int, folder: Path) -> int:
    import logging

    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what there is to say is said below
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = range(processes)
    common = _environment(processes, store.port, folder)
    logs = folder / "logs"
    logs.mkdir()
    forwarded = list(SIGNALS)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup: for the processes too, which torch takes it from
        forwarded.remove(signal.SIGHUP)
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGQUIT"
    context = start_processes(
        name="plaudit",
        entrypoint=sys.executable,
        args=dict.fromkeys(ranks, ("-m", "plaudit", *sys.argv[1:])),
        envs={rank: {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks},
        logs_specs=DefaultLogsSpecs(str(logs), redirects={rank: Std.ALL for rank in ranks if rank}),
    )
    try:
        with _forwarding(context.pids().values(), forwarded) as signals:
            while (result := context.wait(timeout=0.2, period=0.05)) is None:
                if len(signals) > 1 and time.monotonic() - signals[1] > _PATIENCE:
                    context.close(signal.SIGKILL)  # asked twice, and one is stuck
    except SignalException as stopped:  # before the signals were forwarded
        context.close(stopped.sigval)
        return SIGNALLED + int(stopped.sigval)
    finally:
        context.close(signal.SIGKILL)
    if not result.is_failed():
        return int((folder / "0").read_text(encoding="utf-8"))
    consequences = {rank for rank in ranks if _because_of_another(folder, rank).exists()}
    failed = _first(result.failures, consequences)
    status = int(failed.exitcode)
    rank = failed.local_rank
    unsaid = [_because_of_another(folder, rank)] if rank in consequences else []
    said = [Path(result.stderrs[rank] or os.devnull)] if rank else []
    if said or unsaid or status < 0:
        _tell(rank, processes, status, said + unsaid, signals)
    return status if status > 0 else SIGNALLED - status


def _environment(processes: int, port: int, folder: Path) -> dict[str, str]:
    """What torchrun sets, and what the processes have to know of this one."""
    found = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # they are clients of our store: nobody can take its port before them
        "TORCHELASTIC_RESTART_COUNT": "0",
        _FOLDER: str(folder),
        PROGRAM: sys.argv[0],
        LAUNCHER: str(os.getpid()),
    }
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    if sys.platform == "linux":
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return {**{name: value for name, value in defaults.items() if name not in os.environ}, **found}


@contextmanager
def _forwarding(pids: Any, signals: Sequence[signal.Signals]) -> Iterator[list[float]]:
    """Hand signals on to the processes, and ignore those of `SIGNALS` that are not given; yields when each came."""
    came: list[float] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        came.append(time.monotonic())
        if signum == signal.SIGHUP:
            let_go_of_terminal()
        for pid in pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue

    for signum in SIGNALS:
        signal.signal(signum, forward if signum in signals else signal.SIG_IGN)
    try:
        yield came
    finally:
        for signum in signals:
            signal.signal(signum, signal.SIG_DFL)


def _first(failures: Mapping[int, Any], consequences: Container[int]) -> Any:
    """The failure that the others come from.

    Not that of a process which was ended because of it, or (`consequences`) has only seen that another is gone. On a
    busy machine both can have ended before anybody looks, so that the time says little.
    """
    return min(
        failures.values(),
        key=lambda f: (
            f.exitcode == -signal.SIGTERM,
            f.local_rank in consequences,
            f.exitcode == -signal.SIGABRT,  # how a library ends a process that waits for a dead one
            f.timestamp,
            f.local_rank,
        ),
    )


def _because_of_another(folder: Path, rank: int) -> Path:
    """The file with its traceback that a process leaves which seems to fail only because another one did."""
    return folder / f"{rank}.consequence"


def _tell(rank: int, processes: int, status: int, outputs: Sequence[Path], signals: Sequence[float]) -> None:
    if status < 0:
        if not signals:
            how = f"was ended by signal {-status} ({signal.Signals(-status).name})"
            sys.stderr.write(f"process {rank} of {processes} {how}; the others were stopped\n")
        return
    text = "".join(output.read_text(encoding="utf-8", errors="replace") for output in outputs)
    lines = text.rstrip().splitlines()
    left_out = f"… {len(lines) - _SHOWN} lines before\n" if len(lines) > _SHOWN else ""
    sys.stderr.write(f"process {rank} of {processes} failed:\n{left_out}" + "\n".join(lines[-_SHOWN:]) + "\n")


# -- in a started process


def work(run: Callable[[], None], debug: bool) -> None:
    """Run the command in a process that `launch` has started, and end the process.

    A run that was stopped, by a signal or an alert, has ended in order: the process leaves its status behind and
    succeeds, because the others are on their way out too. Anything else is a failure, and ends the others.
    """
    _leave_with_parent()
    ordered = False
    status: int | str | None = 1
    try:
        with guarded(debug):
            try:
                run()
            except (Interrupted, Halted):
                ordered = True
                raise
        ordered, status = True, 0
    except SystemExit as stop:
        status = stop.code
        ordered = ordered or not status
    except BaseException as error:
        if _came_from_another(error):
            # Another process has failed. Whoever watches us sees that and ends us, or says this if there is no other.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            unsaid = _because_of_another(Path(os.environ[_FOLDER]), int(os.environ["RANK"]))
            unsaid.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            time.sleep(5)
        else:
            sys.excepthook(type(error), error, error.__traceback__)
    code = status if isinstance(status, int) else int(status is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    (Path(os.environ[_FOLDER]) / os.environ["RANK"]).write_text(str(code), encoding="utf-8")
    # By itself the interpreter now and then aborts in torch's threads, when everything is done.
    os._exit(0 if ordered else code)


def _leave_with_parent() -> None:
    """Stop as after a SIGTERM when the process that watches this one is gone, however it went.

    By asking: the kernel's own signal for this comes once for every thread of the parent, and the second one kills.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _came_from_another(error: BaseException) -> bool:
    """Whether an error was raised while processes talked to each other.

    In a backward pass they do so from C++, where only the message tells.
    """
    if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "by peer")):
        return True
    trace = error.__traceback__
    while trace is not None:
        if "/torch/distributed/" in trace.tb_frame.f_code.co_filename.replace(os.sep, "/"):
            return True
        trace = trace.tb_next
    return False
