"""Mistakes with the machine: its devices, packages, disk, memory and ports, and the folders of runs."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch

from plaudit.runs.lock import RunLock
from tests.mistakes.desk import PAIR, Desk, Mistake


def _without_gpu(*options: object) -> Any:
    def command(desk: Desk) -> list[object]:
        desk.monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        return desk.train("dpo", None, *options)

    return command


def _two_gpus(desk: Desk) -> list[object]:
    desk.monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    desk.monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return desk.train("dpo", None, "--gpus", 4)


def _lacks(*packages: str) -> Callable[[Desk], None]:
    """A machine without some packages."""

    def hide(desk: Desk) -> None:
        from importlib.util import find_spec

        there = "plaudit.config.packages.find_spec"
        desk.monkeypatch.setattr(there, lambda name: None if name in packages else find_spec(name))

    return hide


def _light_core(desk: Desk) -> list[object]:
    _lacks("torch", "transformers")(desk)
    return desk.train("dpo")


def _no_server(desk: Desk) -> list[object]:
    _lacks("uvicorn")(desk)
    return ["serve", desk.model]


def _old_transformers(desk: Desk) -> list[object]:
    from importlib.metadata import version

    there = "plaudit.config.packages.version"
    desk.monkeypatch.setattr(there, lambda name: "4.57.1" if name == "transformers" else version(name))
    return desk.train("dpo")


def _no_tracker(desk: Desk) -> list[object]:
    desk.monkeypatch.setitem(sys.modules, "wandb", None)
    return desk.train("dpo", None, "--sinks", "wandb")


def _raising(target: str, error: BaseException) -> Any:
    """A training command on a machine where something fails."""

    def command(desk: Desk) -> list[object]:
        def fail(*given: object, **options: object) -> None:
            raise error

        desk.monkeypatch.setattr(target, fail)
        return desk.train("dpo")

    return command


def _taken(desk: Desk) -> list[object]:
    (desk.folder / "run").mkdir()
    desk.keep(RunLock(desk.folder / "run"))
    return desk.train("dpo")


def _something_else(desk: Desk) -> list[object]:
    (desk.folder / "run").mkdir()
    desk.write("run/thesis.tex", "years of work")
    return desk.train("dpo")


def _after(*options: object, method: str = "dpo", data: Any = None) -> Any:
    """The command of a finished step, with something changed."""

    def command(desk: Desk) -> list[object]:
        assert desk.call(*desk.train("dpo")).status == 0
        return desk.train(method, None if data is None else data(desk), *options)

    return command


def _other_rows(desk: Desk) -> str:
    return desk.write("pairs.jsonl", [PAIR] * 3)


def _damaged(name: str) -> Any:
    def command(desk: Desk) -> list[object]:
        assert desk.call(*desk.train("dpo")).status == 0
        [file] = (desk.folder / "run").glob(name)
        file.write_bytes(b"x" * 100)
        (desk.folder / "run" / "COMPLETE").unlink()
        return desk.train("dpo")

    return command


def _beyond_measure(desk: Desk) -> list[object]:
    data = desk.write("rows.jsonl", [{"prompt": f"{i}?", "completion": "Blue."} for i in range(20)])
    small = ("--groups-per-step", 2, "--max-steps", 10, "--warmup-steps", 0, "--output-dir", "run")
    return ["sft", "--model", desk.model, "--data", data, *small, "--lr", "1e30"]


def _port_in_use(desk: Desk) -> list[object]:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    desk.keep(taken)
    return ["serve", desk.model, "--port", taken.getsockname()[1]]


SURROUNDINGS = [
    Mistake(
        "GPUs that are not there", "PL102", _without_gpu("--gpus", 2), "this machine has no GPU that torch can use",
        "--gpus", "--processes",
    ),
    Mistake(
        "more processes than GPUs", "PL102", _two_gpus, "this machine has 2 GPUs, not 4", "--gpus", "give --gpus 2",
    ),
    Mistake(
        "no number of processes", "PL102", _without_gpu("--processes", "many"), "'many' is no number of processes",
        "--processes", "--processes 2",
    ),
    Mistake(
        "an optimiser of the GPU without one", "PL405", _without_gpu("--optimizer", "adamw_8bit"),
        "adamw_8bit needs a GPU", "train.optimizer", "train.optimizer=adamw",
    ),
    Mistake(
        "the light core alone", "PL103", _light_core, "this needs torch, transformers", "the Python of",
        "pip install 'plaudit[train]'",
    ),
    Mistake(
        "an endpoint without its packages", "PL103", _no_server, "the endpoint needs uvicorn", "the Python of",
        "pip install 'plaudit[train,serve]'",
    ),
    Mistake(
        "a library that is too old", "PL103", _old_transformers, "transformers 4.57.1 is too old", "the Python of",
        "pip install -U 'transformers>=5.0'",
    ),
    Mistake(
        "a tracker that is not installed", "PL506", _no_tracker, "the tracker wandb is not installed", "log.sinks",
        "pip install 'plaudit[wandb]'",
    ),
    Mistake(
        "a full disk",
        "PL505",
        _raising("plaudit.train.checkpoint.save_file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        "the checkpoint of step 1 cannot be written: No space left on device; it takes 1.1 MB, and",
        "run/checkpoints",
        "make room",
    ),
    Mistake(
        "a folder that may not be written",
        "PL505",
        _raising("pathlib.Path.mkdir", OSError(errno.EACCES, os.strerror(errno.EACCES))),
        "cannot write: Permission denied",
        "run",
        "run.dir",
    ),
    Mistake(
        "a run that another process writes", "PL503", _taken, f"process {os.getpid()}", "run", "run.if_exists=new",
    ),
    Mistake(
        "a folder with something else", "PL501", _something_else, "not empty and holds no run", "run", "run.dir=",
    ),
    Mistake(
        "another learning rate for a run that has begun", "PL502", _after("--lr", "1e-3"), "train.learning_rate",
        "run", "run.if_exists=new",
    ),
    Mistake(
        "another method for a run that has begun", "PL502", _after(method="ipo"), "method.name: was \"dpo\", now",
        "run", "run.if_exists=new",
    ),
    Mistake(
        "other rows for a run that has begun", "PL502", _after(data=_other_rows), "the data changed since", "run",
        "run.if_exists=new",
    ),
    Mistake(
        "a checkpoint that is damaged", "PL502", _damaged("checkpoints/step-00000001/weights.safetensors"),
        "the checkpoint is damaged: weights.safetensors", "step-00000001", "delete this folder",
    ),
    Mistake(
        "a configuration of a run that is damaged", "PL504", _damaged("config.yaml"), "config.yaml", "run", "restore",
    ),
    Mistake(
        "a run that is not there", "PL501", lambda desk: ["report", "runs/dpo"], "there is no such run directory",
        "runs/dpo", "plaudit runs list",
    ),
    Mistake(
        "a port in use", "PL102", _port_in_use, "the address cannot be used: Address already in use", "127.0.0.1:",
        "--port",
    ),
    Mistake(
        "too little memory on the GPU",
        "PL406",
        _raising(
            "plaudit.train.step.StepRunner.gradients",
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of …"),
        ),
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "train.tokens_per_microbatch",
        "--lora true",
    ),
    Mistake(
        "too little memory",
        "PL406",
        _raising("plaudit.train.step.StepRunner.gradients", MemoryError()),
        "memory",
        "train.tokens_per_microbatch",
        "2048",
    ),
    Mistake(
        "a learning rate beyond all measure", "PL402", _beyond_measure, "not finite", "step",
        "lower train.learning_rate",
    ),
]  # fmt: skip
