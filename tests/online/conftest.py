"""Runs of a small method of somebody's own, on a tiny model, with a reward that is a pure function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plaudit.online.session import OnlineSession
from plaudit.train.running import run_training
from plaudit.train.session import TrainResult
from tests.train import runs

METHOD = str(Path(__file__).with_name("own_method.py"))
Run = Callable[..., TrainResult]


@pytest.fixture(autouse=True)
def _one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twelve prompts with an answer column."""
    return runs.write_rows(tmp_path / "prompt.jsonl", runs.rows_of("prompt", 12))


@pytest.fixture
def options(tiny_model_dir: Path, prompts: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Options of a short run without evaluations."""

    def of(name: str = "run", **changes: Any) -> dict[str, Any]:
        own = {"data.eval_fraction": 0.0, "eval.every": None, "train.epochs": 1.0}
        found = runs.options_for(tiny_model_dir, prompts, tmp_path / name, **(own | changes))
        return {key: value for key, value in found.items() if value is not None}

    return of


@pytest.fixture
def train(options: Callable[..., dict[str, Any]]) -> Run:
    """Train the small method here; keyword arguments are keys with `__` for the dot, `observers` is handed on."""

    def of(name: str = "run", observers: Any = (), method: str = METHOD, **changes: Any) -> TrainResult:
        found = options(name, **{key.replace("__", "."): value for key, value in changes.items()})
        return run_training(runs.resolved(method, found), session=OnlineSession, observers=observers)

    return of


def metrics_of(result: TrainResult) -> list[dict[str, Any]]:
    """The logged lines."""
    return runs.lines(result.run_dir / "metrics.jsonl")


@pytest.fixture(scope="session")
def reward_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with LoRA on the tiny model."""
    folder = tmp_path_factory.mktemp("reward")
    data = runs.write_rows(folder / "preference.jsonl", runs.rows_of("preference"))
    changes = {"lora": {"r": 2}, "train.epochs": 1.0, "data.eval_fraction": 0.0, "eval.every": None}
    options = runs.options_for(tiny_model_dir, data, folder / "run", **changes)
    return runs.train_here("reward", {k: v for k, v in options.items() if v is not None}).run_dir
