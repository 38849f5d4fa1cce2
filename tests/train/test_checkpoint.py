"""Checkpoints that are whole or not there, and what a run directory that already holds a run is good for."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plaudit.errors import ModelError, RunError
from plaudit.methods import dpo
from plaudit.runs.checkpoints import clean, complete, delete, step_of
from plaudit.runs.observer import SilentObserver
from plaudit.train import checkpoint
from plaudit.train.checkpoint import Snapshot
from tests.conftest import write_tiny_model
from tests.train import runs


def snapshot(step: int, size: int = 64) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(size, size, generator=generator) for name in ("a", "b.c")}
    optimizer = {
        "state": {0: {"step": torch.tensor(float(step)), "exp_avg": weights["a"] * 2}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    return Snapshot(
        step, weights, optimizer, {"best": float("nan"), "method_state": {}}, {"0": checkpoint.random_state()}
    )


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    saved = snapshot(12)
    path = checkpoint.save(tmp_path, saved, lambda folder: _extra(folder))
    assert path.name == "step-00000012"
    found = checkpoint.load(path)
    assert found.step == 12
    for part in ("weights", "optimizer", "progress", "random"):
        assert runs.difference(getattr(found, part), getattr(saved, part)) is None
    assert (path / "adapter" / "x.bin").read_bytes() == b"x"


def _extra(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "x.bin").write_bytes(b"x")


def test_random_generators_go_on_where_they_were():
    import random

    import numpy as np

    def draw() -> tuple[Any, ...]:
        return random.gauss(0, 1), float(np.random.normal()), torch.randn(3).tolist()

    draw()
    state = checkpoint.random_state()
    first = [draw(), draw()]
    checkpoint.restore_random_state(state)
    assert [draw(), draw()] == first


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "optimizer.pt", "random.pt", "progress.json", "adapter/x.bin", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["missing", "shorter", "one bit"])
def test_a_damaged_file_is_named(file, damage, tmp_path):
    path = checkpoint.save(tmp_path, snapshot(3), _extra)
    target = path / file
    data = bytearray(target.read_bytes())
    if damage == "missing":
        target.unlink()
    elif damage == "shorter":
        target.write_bytes(data[: len(data) // 2])
    else:
        if file == "manifest.json":
            at = data.index(b'"bytes"') + len('"bytes": ')
            data[at] = data[at] ^ 1  # another digit: the size no longer fits
        else:
            data[len(data) // 2] ^= 1
        target.write_bytes(bytes(data))
    with pytest.raises(RunError) as caught:
        checkpoint.load(path)
    assert caught.value.code == "PL502"
    assert str(path) in str(caught.value)
    if not (file == "manifest.json" and damage == "one bit"):
        assert file in str(caught.value)


_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def _die_at(folder: Path, number: int) -> None:
    """In a child: die before the n-th operation below the folder, as the interpreter reports it."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_killed_before_each_file_operation_of_a_write(tmp_path):
    """Write step 2 over and over, dying one operation later each time; 1 is always whole, 2 whole or not there."""
    checkpoint.save(tmp_path, snapshot(1), _extra)
    deaths = 0
    for number in range(1, 200):
        child = os.fork()
        if child == 0:
            _die_at(tmp_path, number)
            clean(tmp_path)
            checkpoint.save(tmp_path, snapshot(2), _extra)
            checkpoint.prune(tmp_path, 1, set())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = complete(tmp_path)
        for path in found:
            assert checkpoint.load(path).step == step_of(path)
        assert found
        if os.WIFSIGNALED(status):
            deaths += 1
            continue
        assert os.WEXITSTATUS(status) == 0
        break
    assert deaths > 15
    assert names(tmp_path) == ["step-00000002"]


def _limited(folder: Path, limit: int) -> RunError | None:
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        checkpoint.save(folder, snapshot(2))
    except RunError as error:
        return error
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
    return None


# Of 64 x 64 fp32: the weights take 33 kB, optimizer.pt 18 kB, random.pt 12 kB. Whatever file meets the limit, it is the
# same error.
@pytest.mark.parametrize("limit", [10, 3_000, 15_000, 30_000])
def test_no_room_is_an_error_and_the_previous_checkpoint_stays(limit, tmp_path):
    """A real limit of the kernel, met in the middle of a file."""
    checkpoint.save(tmp_path, snapshot(1))
    error = _limited(tmp_path, limit)
    assert error is not None
    assert error.code == "PL505"
    assert "step 2" in str(error)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoint.load(tmp_path / "step-00000001").step == 1


def test_no_room_for_the_optimizer_only(tmp_path):
    """torch reports a full disk by another class than the operating system."""
    big = snapshot(2, 48)
    big.optimizer["state"][0]["exp_avg"] = torch.zeros(400, 400)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        with pytest.raises(RunError, match="PL505"):
            checkpoint.save(tmp_path, big)
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="PL505"):
        checkpoint.save(tmp_path / "file" / "checkpoints", snapshot(1))


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        checkpoint.save(tmp_path, snapshot(step, 4))
    assert checkpoint.prune(tmp_path, 2, {2}) == [1, 3]
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    assert checkpoint.prune(tmp_path, 1, set()) == [2, 4]


def test_cleaning_removes_what_was_half_done_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, snapshot(1, 4))
    for name in (".writing-00000002-77", ".deleting-step-00000000", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    clean(tmp_path)
    assert names(tmp_path) == ["notes", "step-00000001"]
    clean(tmp_path / "not there")
    assert complete(tmp_path / "not there") == []


# -- through a run


class Listener(SilentObserver):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.plan: dict[str, Any] = {}
        self.steps: list[int] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_start(self, plan: Any) -> None:
        self.plan = dict(plan)

    def on_step(self, step: int, total_steps: int, metrics: Any) -> None:
        self.steps.append(step)


class StopAt(SilentObserver):
    """Stands for Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, total_steps: int, metrics: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def interrupt(method: str, options: dict[str, Any], step: int) -> str:
    with pytest.raises(runs.Interrupted) as caught:
        runs.train_here(method, options, observers=[StopAt(step)])
    return caught.value.message


def test_a_run_keeps_its_best_and_newest_and_offers_both(options):
    """The rate explodes, so an early evaluation is the best one."""
    asked = options("sft", **{"eval.every": 1, "checkpoint.every": 1, "checkpoint.keep": 1, "train.epochs": 3.0})
    asked |= {"train.warmup_steps": 14, "train.learning_rate": 1.0}
    result = runs.train_here("sft", asked)
    best = result.summary["best_step"]
    evaluations = {
        line["step"]: line["eval/loss"] for line in runs.lines(result.run_dir / "metrics.jsonl") if "eval/loss" in line
    }
    assert best == min(evaluations, key=lambda s: evaluations[s])
    assert 0 < best < result.steps
    kept = [step_of(p) for p in complete(result.run_dir / "checkpoints")]
    assert kept == [best, result.steps]
    import safetensors.torch

    exported = safetensors.torch.load_file(result.run_dir / "best" / "model.safetensors")
    stored = checkpoint.load(result.run_dir / "checkpoints" / f"step-{best:08d}").weights
    assert torch.equal(exported["model.norm.weight"], stored["model.model.norm.weight"])
    last = safetensors.torch.load_file(result.run_dir / "model" / "model.safetensors")
    assert not torch.equal(exported["model.norm.weight"], last["model.norm.weight"])
    assert torch.equal(dict(result.model.named_parameters())["model.norm.weight"], last["model.norm.weight"])


def test_a_best_before_the_first_step_is_said(options):
    listener = Listener()
    asked = options("sft", **{"train.learning_rate": 5.0, "train.warmup_steps": 0, "train.max_steps": 2})
    result = runs.train_here("sft", asked, observers=[listener])
    assert result.summary["best_step"] == 0
    assert not (result.run_dir / "best").exists()
    assert any("best before the first step" in m for m in listener.messages)


def test_resume_is_the_same_call(options):
    asked = options("sft")
    message = interrupt("sft", asked, 3)
    assert "resume with" in message
    listener = Listener()
    result = runs.train_here("sft", asked, observers=[listener])
    assert (
        listener.plan["resumed"] == "after step 4"
    )  # the signal came while step 3 was shown; the step under way was finished
    assert listener.steps[0] == 5
    assert result.steps == 10


def test_the_way_to_resume_says_more_where_the_same_command_would_not(options, monkeypatch):
    for if_exists in ("fail", "new"):
        asked = options("sft", f"run-{if_exists}", **{"run.if_exists": if_exists})
        monkeypatch.setattr(sys, "argv", ["/usr/bin/plaudit", "sft", "a b.yaml"])
        message = interrupt("sft", asked, 2)
        assert f"resume with run.dir={asked['run.dir']} run.if_exists=resume, in place of its own" in message
        assert message.endswith("plaudit sft 'a b.yaml'")
        again = runs.train_here("sft", asked | {"run.if_exists": "resume"})
        assert again.steps == 10


def test_fail_refuses_and_new_starts_beside(options):
    asked = options("sft", **{"train.max_steps": 2})
    runs.train_here("sft", asked)
    with pytest.raises(RunError, match="PL501"):
        runs.train_here("sft", asked | {"run.if_exists": "fail"})
    beside = runs.train_here("sft", asked | {"run.if_exists": "new"})
    assert beside.run_dir.name == "run-2"
    assert beside.steps == 2


@pytest.mark.parametrize("name", ["train.learning_rate", "train.seed", "data.shuffle", "method.train_on"])
def test_another_configuration_is_another_run(name, options):
    asked = options("sft", **{"train.max_steps": 2})
    interrupt("sft", asked, 1)
    changed = {"train.learning_rate": 1e-4, "train.seed": 7, "data.shuffle": False, "method.train_on": "sequence"}
    with pytest.raises(RunError) as caught:
        runs.train_here("sft", asked | {name: changed[name]})
    assert caught.value.code == "PL502"
    assert name in str(caught.value)


def test_what_is_only_shown_may_change(options):
    asked = options("sft", **{"train.max_steps": 5})
    interrupt("sft", asked, 1)
    listener = Listener()
    runs.train_here("sft", asked | {"log.every": 2, "checkpoint.keep": 5}, observers=[listener])
    assert any("log.every: was 1, now 2" in m for m in listener.messages)


def test_a_complete_adapter_is_not_put_on_another_base(options, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(options("sft")["model.path"], base)
    asked = options("sft", **{"model.path": str(base), "train.max_steps": 1}, **runs.VARIANTS["lora"])
    runs.train_here("sft", asked)
    write_tiny_model(base, seed=4)
    with pytest.raises(ModelError, match="PL306"):
        runs.train_here("sft", asked)


def test_a_run_does_not_go_on_with_an_edited_method(options, tmp_path):
    own = tmp_path / "own.py"
    text = Path(dpo.__file__).read_text(encoding="utf-8").replace('name = "dpo"', 'name = "own"')
    own.write_text(text, encoding="utf-8")
    asked = options("dpo")
    interrupt(str(own), asked, 2)
    own.write_text(text.replace("(1 - pairs.preference)", "(0.9 - pairs.preference)"), encoding="utf-8")
    with pytest.raises(RunError, match="the method's file changed"):
        runs.train_here(str(own), asked)


def test_a_complete_run_does_nothing_and_says_so(options):
    asked = options("dpo", **{"train.max_steps": 3, "run.reference_cache": "off"})
    first = runs.train_here("dpo", asked)
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(first.run_dir.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }
    listener = Listener()
    again = runs.train_here("dpo", asked, observers=[listener])
    assert any("already complete" in m for m in listener.messages)
    assert listener.steps == []
    assert again.reference_tokens == 0
    assert again.steps == 3
    assert again.metrics == first.metrics
    assert again.summary == first.summary
    assert runs.difference(dict(again.model.named_parameters()), dict(first.model.named_parameters())) is None
    after = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(first.run_dir.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }
    assert after == before


@pytest.mark.parametrize("variant", ["full", "lora"])
def test_the_model_that_comes_back_is_an_ordinary_one(variant, options):
    """It can be called and generated from like before it was trained, after a run and after asking a complete one."""
    asked = options("sft", **{"train.max_steps": 2}, **runs.VARIANTS[variant])
    ids = torch.tensor([[1, 9, 40, 77]])
    found = []
    for _ in range(2):
        result = runs.train_here("sft", asked)
        assert not result.model.training
        with torch.no_grad():
            found.append(result.model(input_ids=ids).logits)
        assert (
            result.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
            ).shape[1]
            > 4
        )
    assert torch.equal(*found)


def test_a_damaged_newest_checkpoint_stops_the_run_until_it_is_deleted(options):
    asked = options("sft", **{"checkpoint.every": 2})
    interrupt("sft", asked, 5)
    kept = complete(Path(asked["run.dir"]) / "checkpoints")
    (kept[-1] / "optimizer.pt").write_bytes(b"")
    with pytest.raises(RunError, match="PL502") as caught:
        runs.train_here("sft", asked)
    assert "optimizer.pt" in str(caught.value)
    delete(kept[-1])
    listener = Listener()
    runs.train_here("sft", asked, observers=[listener])
    assert listener.plan["resumed"] == f"after step {step_of(kept[-2])}"


def test_other_data_under_the_same_name_is_another_run(options, tmp_path):
    asked = options("sft")
    path = runs.write_rows(tmp_path / "own.jsonl", runs.rows_of("completion"))
    asked["data.train"] = [{"path": str(path)}]
    interrupt("sft", asked, 3)
    runs.write_rows(path, [*runs.rows_of("completion"), *runs.rows_of("completion", 1, seed=9)])
    with pytest.raises(RunError, match="PL502") as caught:
        runs.train_here("sft", asked)
    assert "the data changed" in str(caught.value)


def test_another_model_under_the_same_name_is_another_run(options, tmp_path):
    from tests.conftest import write_tiny_model

    asked = options("dpo", **{"model.path": str(write_tiny_model(tmp_path / "model"))})
    interrupt("dpo", asked, 1)
    write_tiny_model(tmp_path / "model", seed=5)
    with pytest.raises(RunError, match="PL502") as caught:
        runs.train_here("dpo", asked)
    assert "the model changed" in str(caught.value)


def test_a_model_in_memory_that_has_moved_cannot_be_a_starting_state(options):
    """The same object after half a run is not what the run started from: its reference would be the wrong one."""
    import transformers

    asked = options("dpo")
    path = asked["model.path"]
    model, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(path),
        transformers.AutoTokenizer.from_pretrained(path),
    )
    with pytest.raises(runs.Interrupted):
        runs.train_here("dpo", asked, model=model, tokenizer=tokenizer, observers=[StopAt(2)])
    with pytest.raises(RunError, match="PL502"):
        runs.train_here("dpo", asked, model=model, tokenizer=tokenizer)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert runs.train_here("dpo", asked, model=fresh, tokenizer=tokenizer).steps == 6


def test_the_manifest_lists_every_file(options):
    result = runs.train_here("sft", options("sft", **{"train.max_steps": 1, **runs.VARIANTS["lora"]}))
    newest = complete(result.run_dir / "checkpoints")[-1]
    listed = json.loads((newest / "manifest.json").read_text())
    assert set(listed) == {str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()} - {"manifest.json"}
    assert "adapter/adapter_model.safetensors" in listed


def test_trackers_receive_the_run(options):
    """TensorBoard is read back by its own reader."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = runs.train_here("sft", options("sft", **{"train.max_steps": 3, "log.sinks": ["tensorboard"]}))
    events = EventAccumulator(str(result.run_dir / "tensorboard"))
    events.Reload()
    assert "loss" in " ".join(events.Tags()["scalars"] + events.Tags()["tensors"])


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_loaded(options):
    from importlib.util import find_spec

    missing = [name for name in ("wandb", "trackio", "tensorboard") if find_spec(name) is None]
    if not missing:
        pytest.skip("all trackers are installed")
    asked = options("sft", **{"train.max_steps": 1})
    with pytest.raises(RunError, match="PL506"):
        runs.train_here("sft", asked | {"log.sinks": [missing[0]]})
    assert runs.train_here("sft", asked).steps == 1, "the directory is free again"
