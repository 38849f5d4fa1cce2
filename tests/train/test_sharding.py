"""Weights sharded over two processes (train.sharding: fsdp): the same losses and the same weights as one process, one
state that any number of processes goes on from, and a model that one process loads."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from plaudit import api
from plaudit.errors import ModelError, RunError, TrainingError
from plaudit.models.forest_model import ForestModel
from plaudit.models.shards import read, shapes_in
from plaudit.runs import checkpoints
from plaudit.runs.rundir import read_config
from plaudit.train import checkpoint, sharding
from plaudit.train.loop import Trainer
from tests import warm
from tests.once import once
from tests.train import runs, sharded_worker
from tests.train.sharded_worker import Task, whole_state
from tests.train.steps import tiny_llama
from tests.train.test_two_ranks import TOLERANCE, largest_difference

Case = tuple[str, dict[str, Any]]
LORA = {"lora": {"r": 4}}
BF16 = {"model.precision": "bf16", "train.max_grad_norm": 1e9}
"""Not clipped: the norm is summed in another order, and a master that differs in its last digit by it is now and then
rounded to the other neighbour. So what is left has to be exact in bf16 too."""
STEADY = {"train.eps": 1e-3, "train.learning_rate": 2e-2, "train.max_grad_norm": 0.05}
"""Steps like SGD's, because Adam magnifies the rounding of gradients that are almost zero; and steps are clipped."""
SHORT = {"train.epochs": None, "train.max_steps": 4, "checkpoint.every": 2, "eval.every": 2, "data.eval_fraction": 0.2}

CASES: dict[str, Case] = {
    "sft, full": ("sft", {}),
    "dpo, full, checkpointing": ("dpo", {"model.gradient_checkpointing": True}),
    "dpo, LoRA, bf16, checkpointing": ("dpo", LORA | BF16 | {"model.gradient_checkpointing": True}),
    "kto, full (a reference of its own)": ("kto", {}),
    "kto, LoRA": ("kto", LORA),
    "reward, full, bf16": ("reward", BF16),
    "reward, LoRA": ("reward", LORA),
}
MORE: dict[str, Case] = {
    "dpo, LoRA": ("dpo", LORA),
    "sft, full, bf16": ("sft", BF16),
    "dpo, full, bf16": ("dpo", BF16),
    "dpo, DoRA": ("dpo", {"lora": {"r": 4, "dora": True}}),
    "kto, full, bf16": ("kto", BF16),
    "kto, LoRA, bf16": ("kto", LORA | BF16),
    "reward, full": ("reward", {}),
    "reward, LoRA, bf16": ("reward", LORA | BF16),
    "bco_pair, full (a state, two passes)": ("bco_pair", {}),
    "orpo, LoRA (prompt targets)": ("orpo", LORA),
    "added tokens": ("sft", LORA | {"model.added_tokens": ["<x>", "<y>"]}),
}
CELLS = [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
Outcomes = list[dict[str, dict[str, Any]]]


def pair(folder: Path, tasks: Sequence[Task]) -> Outcomes:
    """Two processes carry out the tasks; what came of each, by process."""
    (folder / "jobs.json").write_text(json.dumps([asdict(t) for t in tasks]), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    arguments = (folder / "jobs.json", folder / "outcomes")
    programs = [
        warm.Program(
            sharded_worker.main,
            arguments,
            folder / f"printed.{rank}",
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    warm.run_all(programs, timeout=280)
    return [json.loads((folder / f"outcomes.{rank}").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: Any, tiny_model_dir: Path, data_of: Any) -> Callable[[str], tuple[Path, Outcomes]]:
    """Case → its run over two processes and what came of it; the cases of the default run share one pair."""

    def work(cases: Mapping[str, Case], place: Path) -> None:
        def options(name: str, method: str, own: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
            return case(tiny_model_dir, data_of, place, name, method, own, **changes)

        tasks = [Task(name, method, options(name, method, own)) for name, (method, own) in cases.items()]
        if cases is CASES:
            tasks += resumes(options, place)
        outcomes = pair(place, tasks)
        (place / "both.json").write_text(json.dumps(outcomes), encoding="utf-8")

    def of(name: str) -> tuple[Path, Outcomes]:
        cases = MORE if name in MORE else CASES
        place = once(tmp_path_factory, "more" if cases is MORE else "cases", partial(work, cases))
        return place / folder_of(name), json.loads((place / "both.json").read_text(encoding="utf-8"))

    return of


RESUMED = "dpo", {"eval.every": 100, "eval.at_start": False, "log.every": 1}
"""What is stopped behind its third step of four, and gone on with."""


def resumes(options: Callable[..., dict[str, Any]], place: Path) -> list[Task]:
    """A run of one process and one of two with shards are stopped, and two processes go on with both."""
    method, own = RESUMED
    alone = options("stopped, one", method, own, **{"train.sharding": "replicated"})
    kill = runs.Kill("step", 3, signum=signal.SIGTERM)
    stopped = runs.run_process(runs.Job(method, alone, place / "stopped.json", kill))
    assert stopped["interrupted"] == signal.SIGTERM

    def further(name: str, source: str, **changes: Any) -> Task:
        state, copied = place / f"{folder_of(name)}.pt", place / folder_of(source)
        return Task(name, method, options(name, method, own, **changes), str(copied), state=str(state))

    return [
        Task("whole, two", method, options("whole, two", method, own)),
        Task("stopped, two", method, options("stopped, two", method, own), stop_after=3),
        further("two on two", "stopped, two"),
        further("two whole on two", "stopped, two", **{"train.sharding": "replicated"}),
        further("two on one", "stopped, one"),
    ]


def folder_of(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def case(
    model: Path, data_of: Any, place: Path, name: str, method: str, options: Mapping[str, Any], **changes: Any
) -> dict[str, Any]:
    asked = runs.options_for(model, data_of(method), place / folder_of(name), **STEADY, **SHORT)
    return {k: v for k, v in (asked | dict(options) | {"train.sharding": "fsdp"} | changes).items() if v is not None}


def weights_in(checkpoint: Path) -> dict[str, torch.Tensor]:
    """fp32 weights by name, of either kind of checkpoint."""
    if not (checkpoint / "state").exists():
        return safetensors.torch.load_file(checkpoint / "weights.safetensors")
    names = {n: s for n, s in shapes_in(checkpoint / "state").items() if n.startswith("weights/")}
    found = {n: torch.full(shape, torch.nan) for n, shape in names.items()}
    read(checkpoint / "state", found)
    return {n.removeprefix("weights/"): t for n, t in found.items()}


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in runs.TIMING | {"num_tokens"}}
        for line in runs.lines(run / "metrics.jsonl")
    ]


def succeeded(outcomes: Outcomes, name: str) -> list[dict[str, Any]]:
    for rank in outcomes:
        assert name in rank, f"a case before it failed: {[v['traceback'] for v in rank.values() if 'error' in v]}"
        assert "error" not in rank[name], rank[name].get("traceback")
    return [rank[name] for rank in outcomes]


@pytest.mark.parametrize("name", CELLS)
def test_two_processes_with_shards_are_one_run(name, ran, tiny_model_dir, data_of, tmp_path, record_property):
    run, outcomes = ran(name)
    both = succeeded(outcomes, name)
    method, options = (CASES | MORE)[name]
    alone = case(tiny_model_dir, data_of, tmp_path, "alone", method, options, **{"train.sharding": "replicated"})
    result = runs.train_here(method, alone)
    bf16 = options.get("model.precision") == "bf16"

    # Each process holds half of the weights and of their moments (all of them together hold everything once) …
    for own in both:
        assert all(own["sharded"])
        assert own["dtypes"] == ["torch.float32"]
        assert own["local"] <= 0.51 * own["numel"]
        assert own["local_moments"] == 2 * own["local"]
    assert sum(own["local"] for own in both) == both[0]["numel"]
    assert both[0]["held"] == sum(p.numel() for p in result.model.parameters())
    assert both[1]["held"] == 0, "the trained model is brought together on the main process"
    # … and what is computed is the same: the losses of every step, the gradient norms, the weights.
    found, expected = metrics(run), metrics(result.run_dir)
    assert len(found) == len(expected)
    assert bf16 or any(line.get("grad_norm", 0) > 0.05 for line in expected), "nothing was clipped"
    for x, y in zip(found, expected, strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-5)
    # The first step's gradients are those of the same weights.
    one, two = (next(m["grad_norm"] for m in lines if "grad_norm" in m) for lines in (expected, found))
    assert two == pytest.approx(one, rel=1e-5)
    a, b = weights_in(last_checkpoint(run)), weights_in(last_checkpoint(result.run_dir))
    error = largest_difference(a, b)
    record_property("relative_error", error)
    assert error < TOLERANCE
    # The folder that is left behind is a whole model for its own library.
    ids = torch.arange(4, 40)[None] % 300
    one, two = (logits(folder / "model", tiny_model_dir, ids) for folder in (result.run_dir, run))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=2e-2 if bf16 else 1e-4)
    if "lora" in options:
        assert (last_checkpoint(run) / "adapter" / "adapter_config.json").is_file()


@torch.no_grad()
def logits(folder: Path, base: Path, ids: torch.Tensor) -> torch.Tensor:
    """What transformers, with PEFT where it is an adapter, computes with a saved model."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    if not (folder / "adapter_config.json").exists():
        reward = "SequenceClassification" in (folder / "config.json").read_text(encoding="utf-8")
        auto: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
        return auto.from_pretrained(str(folder), dtype=torch.float32)(ids).logits
    from peft import PeftModel

    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    model.resize_token_embeddings(max(model.config.vocab_size, len(AutoTokenizer.from_pretrained(str(folder)))))
    return PeftModel.from_pretrained(model, str(folder))(ids).logits


# -- checkpoints


def content(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments in a checkpoint of several processes."""
    found = {name: torch.full(shape, torch.nan) for name, shape in shapes_in(folder / "state").items()}
    read(folder / "state", found)
    return found


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert {key.split("/")[1] for key in found if key.startswith("optimizer/")} == {"step", "exp_avg", "exp_avg_sq"}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_one_run(run: Path, other: Path, said: Sequence[str], then: str, now: str) -> None:
    error = largest_difference(weights_in(last_checkpoint(run)), weights_in(last_checkpoint(other)))
    assert error < TOLERANCE
    for x, y in zip(metrics(run), metrics(other), strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-5)
    expected = f"the checkpoint is of {then} and this run has {now}: it goes on with the same data"
    assert [line for line in said if line.startswith(expected)], said


def test_going_on_with_two_gives_the_same_bits(ran):
    place, outcomes = ran("two on two")
    both = succeeded(outcomes, "two on two")
    assert succeeded(outcomes, "stopped, two")[0]["interrupted"] == signal.SIGTERM
    whole, run = place.with_name(folder_of("whole, two")), place
    assert_equal(content(last_checkpoint(run)), content(last_checkpoint(whole)))
    assert_equal(torch.load(place.with_suffix(".pt")), content(last_checkpoint(place.with_name("stopped--two"))))
    assert metrics(run) == metrics(whole)
    assert runs.difference(*(torch.load(last_checkpoint(r) / "random.pt") for r in (run, whole))) is None
    assert not [line for line in both[0]["messages"] if "not with the same bits" in line]
    saved = [(r / "model" / "model.safetensors").read_bytes() for r in (run, whole)]
    assert saved[0] == saved[1]


def test_two_that_have_everything_whole_go_on_with_shards(ran):
    place, outcomes = ran("two whole on two")
    said = succeeded(outcomes, "two whole on two")[0]
    assert not any(said["sharded"])
    assert_equal(torch.load(place.with_suffix(".pt")), content(last_checkpoint(place.with_name("stopped--two"))))
    whole = place.with_name(folder_of("whole, two"))
    assert_one_run(place, whole, said["messages"], "2 processes with sharded weights", "2 processes")


def test_shards_go_on_with_a_run_of_one(ran):
    place, outcomes = ran("two on one")
    both = succeeded(outcomes, "two on one")
    assert all(both[0]["sharded"])
    stopped = last_checkpoint(place.with_name(folder_of("stopped, one")))
    saved = torch.load(stopped / "optimizer.pt", weights_only=True)
    state = torch.load(place.with_suffix(".pt"))
    assert {n.removeprefix("weights/"): t for n, t in state.items() if n.startswith("weights/")}.keys()
    for name, value in weights_in(stopped).items():
        assert torch.equal(state[f"weights/{name}"], value), name
    # The optimiser counts weights: matrices first, then vectors, each in the model's order.
    order = sorted(weights_in(stopped), key=lambda n: state[f"weights/{n}"].ndim < 2)
    names = [n for n in state if n.startswith("optimizer/exp_avg/")]
    assert len(names) == len(order) == len(saved["state"])
    sums = sorted(float(entry["exp_avg"].double().abs().sum()) for entry in saved["state"].values())
    assert sums == sorted(float(state[n].double().abs().sum()) for n in names)
    for number, entry in saved["state"].items():
        group = next(g for g in saved["param_groups"] if number in g["params"])
        assert (entry["exp_avg"].ndim >= 2) == (group is saved["param_groups"][0])
    whole = place.with_name(folder_of("whole, two"))
    assert_one_run(place, whole, both[0]["messages"], "1 process", "2 processes with sharded weights")


@pytest.mark.parametrize("wanted", ["fsdp", "replicated"])
def test_one_process_goes_on_with_shards(wanted, ran, tiny_model_dir, data_of, tmp_path, monkeypatch):
    place, outcomes = ran("stopped, two")
    assert succeeded(outcomes, "stopped, two")[1]["interrupted"] == signal.SIGTERM
    method, own = RESUMED
    begun = read_config(place)  # by whichever test process came first, on a model and rows of its own
    same = {"model.path": begun["model"]["path"], "data.train": [{"path": begun["data"]["train"][0]["path"]}]}
    options = case(tiny_model_dir, data_of, tmp_path, "on", method, own, **{"train.sharding": wanted}, **same)
    shutil.copytree(place, options["run.dir"])
    at_start: dict[str, torch.Tensor] = {}
    original = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: (at_start.update(whole_state(self)), original(self)))
    said: list[str] = []
    runs.train_here(method, options, observers=[_Listener(said)])
    assert_equal(at_start, content(last_checkpoint(place)))
    if wanted == "fsdp":
        assert "one process alone: nothing is sharded" in said
    whole = place.with_name(folder_of("whole, two"))
    assert_one_run(Path(options["run.dir"]), whole, said, "2 processes with sharded weights", "1 process")


class _Listener(runs.SilentObserver):
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def on_message(self, text: str) -> None:
        self.said.append(text)


def test_a_checkpoint_of_shards_is_a_model(ran):
    """Wherever a model can be named; and it is the one that was saved, because it is the last state."""
    place, _ = ran("whole, two")
    found, saved = (api.load(path).model.state_dict() for path in (last_checkpoint(place), place / "model"))
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)


def test_a_damaged_shard_is_noticed(ran, tmp_path):
    place, _ = ran("whole, two")
    copied = shutil.copytree(last_checkpoint(place), tmp_path / "step-00000004")
    file = copied / "state" / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found: list[RunError] = []
    for rank in range(2):  # whichever of the two has it in its share
        try:
            checkpoint.load(copied, rank, 2)
        except RunError as error:
            found.append(error)
    assert [error.code for error in found] == ["PL502"]
    assert "__1_0.distcp" in str(found[0])


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(runs.Kill("operation", 1, "00000004 __1_0.distcp"), id="process 1 before its shards"),
        pytest.param(
            runs.Kill("operation", 1, "00000004 manifest.json"), id="before the manifest", marks=pytest.mark.slow
        ),
        pytest.param(runs.Kill("operation", 2, "00000004 manifest.json"), id="while flushing", marks=pytest.mark.slow),
        pytest.param(runs.Kill("operation", 1, "00000004 .metadata"), id="before the table", marks=pytest.mark.slow),
    ],
)
def test_killed_while_writing_the_previous_checkpoint_stays(kill, ran, tiny_model_dir, data_of, tmp_path):
    whole, _ = ran("whole, two")
    method, own = RESUMED
    options = case(tiny_model_dir, data_of, tmp_path, "run", method, own)
    job = runs.Job(method, options, tmp_path / "outcome.json")
    outcomes = runs.two_ranks(replace(job, kill=kill))
    assert {} in outcomes, "nobody was killed"
    run = Path(options["run.dir"])
    assert [p.name for p in checkpoints.complete(run / "checkpoints")] == ["step-00000002"]
    for outcome in runs.two_ranks(job):
        assert "error" not in outcome, outcome["traceback"]
    assert_equal(content(last_checkpoint(run)), content(last_checkpoint(whole)))
    assert metrics(run) == metrics(whole)
    assert not [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]


# -- what is refused


@pytest.mark.parametrize("method", ["grpo", "online_dpo", "tr_dpo", "ppo"])
def test_what_needs_whole_weights_is_refused_before_anything_is_loaded(method, data_of, tmp_path):
    options = runs.options_for(Path("nowhere/at-all"), data_of(method), tmp_path / "run")
    with pytest.raises(TrainingError) as refused:
        runs.run_training(
            runs.resolved(method, options | {"train.sharding": "fsdp"}, files_exist=False),
            session=runs.session_of(method),
        )
    assert refused.value.code == "PL405"
    assert refused.value.where == "train.sharding"
    assert "train.sharding=replicated" in str(refused.value)


def test_experts_of_their_own_are_refused():
    model = tiny_llama()
    layer: Any = model.model.layers[1].mlp
    layer.experts = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
    with pytest.raises(ModelError, match=r"experts"):
        sharding._refuse_single_experts(ForestModel(model))
    layer.experts.requires_grad_(False)
    sharding._refuse_single_experts(ForestModel(model))
