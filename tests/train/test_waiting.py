"""Between two log lines nothing makes the host wait for the device, in any method on given answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import find_packed_sequence_indices

from plaudit.methods import available
from plaudit.train.loop import Trainer
from plaudit.train.reference_role import asked_ahead
from tests.train import runs
from tests.train.reads import Reads, watched

ONLINE = [name for name, method in available().items() if method.is_online()]
OFFLINE = [name for name, method in available().items() if not method.is_online()]


def reads_of(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, part: str = "_train_step"
) -> list[list[tuple[str, str]]]:
    """What waits in each step, the log line not included."""
    seen: list[list[tuple[str, str]]] = []
    honest: Callable[..., None] = getattr(Trainer, part)

    def step(self: Trainer, *arguments: Any) -> None:
        reads = Reads()
        with watched(reads):
            honest(self, *arguments)
        seen.append(reads.found)

    monkeypatch.setattr(Trainer, part, step)
    runs.train_here(method, options)
    return seen


def excused(method: str, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without what a method cannot do without: the metrics of a step that its state takes in (one read), and scores of
    completions that are new in every step or of a reference that moves (read when all are queued)."""
    kind = available()[method]
    places = []
    if kind.updates_state():
        places += ["plaudit/train/step.py:read (read)"]
    if kind.fresh_completions or kind(kind.Config()).moves_reference():
        places += ["plaudit/train/scorer.py:_collect (_collect)"]
    return [(reason, place) for reason, place in found if place not in places]


NOTHING_ELSE = {"log.every": 3, "train.max_steps": 3, "data.eval_fraction": 0.0, "eval.every": None}


@pytest.mark.parametrize("method", OFFLINE)
def test_no_step_waits(method: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = reads_of(method, options(method, **NOTHING_ELSE), monkeypatch)
    assert len(seen) == 3
    for found in seen:
        assert excused(method, found) == []
        assert sum(place.startswith("plaudit/train/step.py:read") for _, place in found) <= 1


WATCHED = {"sft": ("lora",), "dpo": ("lora", "bf16", "checkpointing"), "aot": ("bf16",), "reward": ("checkpointing",)}
"""Variants in the default run; the slow run takes the others too."""


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        pytest.param(method, variant, marks=() if variant in shown else pytest.mark.slow)
        for method, shown in WATCHED.items()
        for variant in WATCHED["dpo"]
    ],
)
def test_no_variant_waits(
    method: str, variant: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(method, **NOTHING_ELSE, **runs.VARIANTS[variant])
    runs.train_here(method, {**given, "run.dir": f"{given['run.dir']}-first"})  # with adapters it fills the cache
    for found in reads_of(method, given, monkeypatch):
        assert found == []


@pytest.mark.parametrize("method", ONLINE)
def test_no_update_waits(method: str, options: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(method, **{**NOTHING_ELSE, "train.max_steps": 2})
    seen = reads_of(method, given, monkeypatch, "_optimise")
    assert seen
    for found in seen:
        assert found == []


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "list index": lambda x: x[[0, 1]],
    "repeat": lambda x: torch.repeat_interleave(x, torch.ones(3, dtype=torch.long)),
    "new tensor": lambda x: torch.tensor(1.0, device=x.device),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "packed rows in transformers": lambda x: find_packed_sequence_indices(torch.arange(5)[None]),
}


@pytest.mark.parametrize("what", WAITING)
def test_the_watch_sees(what: str) -> None:
    reads = Reads()
    with watched(reads):
        WAITING[what](torch.tensor([1.0, -1.0, 2.0]))
    assert reads.found


def test_the_watch_lets_pass() -> None:
    reads, x = Reads(), torch.tensor([1.0, -1.0, 2.0])
    with watched(reads):
        torch.repeat_interleave(x, torch.ones(3, dtype=torch.long), output_size=3)
        x[1:].add_(x.index_select(0, torch.arange(2))).masked_fill_(x[:2] > 0, 0)
        torch.full((), 2.0, device=x.device)
        x.mean().clamp(max=1.0)
    assert reads.found == []


def test_adapters_on_a_gpu_ask_their_reference_ahead() -> None:
    dpo, kto, grpo = (available()[name](available()[name].Config()) for name in ("dpo", "kto", "grpo"))
    assert asked_ahead("computed ahead", dpo, True, "cpu")
    assert asked_ahead("adapter off", dpo, True, "cuda")
    assert asked_ahead("frozen adapter", dpo, True, "cuda")
    assert not asked_ahead("adapter off", dpo, True, "cpu")
    assert not asked_ahead("adapter off", dpo, False, "cuda"), "nothing is kept"
    assert not asked_ahead("adapter off", kto, True, "cuda"), "its completions are new in every step"
    assert not asked_ahead("adapter off", grpo, True, "cuda")
