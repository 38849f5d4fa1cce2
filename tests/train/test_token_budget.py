"""train.tokens_per_microbatch: auto in real runs: the number is measured, said, kept, and changes nothing else."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from plaudit.errors import RunError, TrainingError
from plaudit.forest.layout import piece_tokens
from plaudit.methods.sft import SFT
from plaudit.models.forest_model import ForestModel
from plaudit.train import rehearsal, token_budget
from plaudit.train.cast import cast_for
from plaudit.train.interrupt import Interrupted
from plaudit.train.parallel import World
from plaudit.train.rehearsal import Rehearsal, Workload, made_up
from plaudit.train.token_budget import Demand, Settling
from tests.train import runs, steps
from tests.train.test_notes import Listener

SHORT = {"train.max_steps": 2, "train.epochs": None, "eval.every": None, "data.eval_fraction": 0.0}
MIB = 2**20


class Plan(Listener):
    def __init__(self):
        super().__init__()
        self.plan = {}

    def on_start(self, plan):
        self.plan = dict(plan)


def short(options, method, name, tokens, **changes):
    """A run of two steps."""
    given = options(method, name, **{**SHORT, "train.tokens_per_microbatch": tokens}, **changes)
    return {key: value for key, value in given.items() if value is not None}


def record_of(given):
    return json.loads((runs.Path(given["run.dir"]) / "token_budget.json").read_text())


class FakeMeter:
    """Memory that is a line over the tokens of the last forest, on a machine of `size` bytes."""

    careful = True

    def __init__(self, size, each=MIB):
        self.size, self.each, self.tokens = size, each, 0

    def used(self):
        return 0

    def limit(self):
        return self.size

    def reset(self):
        self.tokens = 0

    def peak(self):
        return self.each * self.tokens

    def close(self):
        pass

    def see(self, monkeypatch):
        """Count the tokens of every forest that is measured, and be the meter of the run."""
        real = rehearsal.materialise

        def counted(*arguments):
            forest = real(*arguments)
            self.tokens = max(self.tokens, forest.num_tokens)
            return forest

        monkeypatch.setattr(rehearsal, "materialise", counted)
        monkeypatch.setattr(token_budget, "meter_for", lambda device: self)
        return self


# -- nothing else changes


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sft", {"model.gradient_checkpointing": True, "model.precision": "bf16"}),
        ("dpo", {"lora": {"r": 4, "dropout": 0.1}}),
        ("kto", {}),
        ("reward", {}),
        ("grpo", {}),
    ],
)
def test_a_run_is_the_same_as_with_the_number(method, changes, options):
    heard = Plan()
    measured = short(options, method, "measured", "auto", **changes)
    runs.train_here(method, measured, observers=[heard])
    tokens = record_of(measured)["tokens"]
    assert heard.plan["tokens per micro-batch"] == f"{tokens:,} (auto)"
    said = [m for m in heard.messages if m.startswith("tokens per micro-batch: ")]
    assert said == [record_of(measured)["line"]]
    assert "measured on the longest groups" in said[0]
    assert "margin 40 %" in said[0]

    given = short(options, method, "given", tokens, **changes)
    runs.train_here(method, given)
    assert not (runs.Path(given["run.dir"]) / "token_budget.json").exists()
    one, other = (runs.state_of(runs.Path(run["run.dir"])) for run in (measured, given))
    assert runs.difference(one, other) is None


@pytest.mark.parametrize("kind", ["completion", "preference"])
def test_the_largest_step_is_found_without_a_look_at_every_group(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = steps.make_groups(kind, 60)
    method = SFT()
    real, looked = rehearsal._pieces, []
    monkeypatch.setattr(rehearsal, "_pieces", lambda group, *more: looked.append(group) or real(group, *more))
    found = Workload.of(method, groups, 7, None)
    assert len(looked) < 2 * len(groups)
    units = [(piece_tokens(p, None, False), i) for i, g in enumerate(groups) for p in real(g, i, 1, method, None)]
    sizes = [sum(piece_tokens(p, None, False) for p in real(g, i, 2**62, method, None)) for i, g in enumerate(groups)]
    assert found.longest[0] == max(units)[0]
    assert found.total == sum(sorted(sizes)[-7:])
    assert [id(g) for g in found.groups] == [id(groups[i]) for i in sorted(range(60), key=lambda i: -sizes[i])[:7]]


def test_measuring_leaves_nothing_behind():
    setup = steps.build()
    before = {name: w.detach().clone() for name, w in setup.masters.weights.items()}
    gradient = torch.ones_like(next(iter(setup.masters.weights.values())))
    next(iter(setup.masters.weights.values())).grad = gradient
    setup.trained[0].eval()
    workload = Workload.of(SFT(), steps.make_groups("completion"), 7, None)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with Rehearsal(setup.models, setup.masters, [workload], FakeMeter(10**9), held=0).open() as opened:
        opened(50)
        assert setup.trained[0].training
        torch.rand(5)  # what dropout would draw
        reached = [n for n, w in setup.masters.weights.items() if w.grad is not None and w.grad.abs().sum() > 0]
        assert any("embed" in name for name in reached)
    assert torch.equal(torch.rand(3), expected)
    assert not setup.trained[0].training
    first, *others = setup.masters.weights.values()
    assert first.grad is gradient
    assert all(w.grad is None for w in others)
    assert all(torch.equal(w, before[name]) for name, w in setup.masters.weights.items())


# -- what is measured


@pytest.mark.parametrize("method", ["sft", "dpo", "reward", "grpo"])
def test_a_micro_batch_has_the_tokens_that_were_asked_for(method):
    found = runs.available()[method]()
    workload = Workload.of(found, steps.make_groups(found.data_kind, 30), 12, None)
    last = rehearsal.needs_last(found)
    for tokens in (40, 90, 131, 200):
        pieces = workload.pieces(tokens, None)
        # A few more where a piece cannot be cut so far: two tokens of the prompt and of every answer stay.
        least = 2 + 3 * max(len(g.completions) for g in workload.groups)
        assert 0 <= sum(rehearsal.piece_tokens(p, None, last) for p in pieces) - tokens <= least
        for piece in pieces:
            assert all(c.action_mask.any() for c in piece.members())
    whole = workload.pieces(workload.longest[0], None)
    assert rehearsal.piece_tokens(whole[0], None, last) == workload.longest[0]


def test_answers_that_do_not_exist_yet_are_as_long_as_they_can_be():
    prompts = steps.make_groups("prompt", 20)
    for group in prompts:
        group.completions = []
    grpo = runs.available()["grpo"]()
    groups = made_up(prompts, grpo, count=4, answers=3, length=50, vocabulary=61)
    longest = sorted((len(g.prompt_ids) for g in prompts), reverse=True)[:4]
    assert [len(g.prompt_ids) for g in groups] == longest
    assert all(len(c.token_ids) == 50 and c.token_ids.max() < 61 for g in groups for c in g.completions)
    assert all(len(g.completions) == 3 for g in groups)
    pairs = made_up(prompts, runs.available()["online_dpo"](), count=4, answers=5, length=50, vocabulary=61)
    assert [len(g.completions) for g in pairs] == [2, 2, 2, 2]


# -- what does not fit


def test_a_row_that_does_not_fit_is_named_before_training(options, monkeypatch):
    meter = FakeMeter(60 * MIB).see(monkeypatch)
    given = short(options, "dpo", "run", "auto", lora={"r": 2})
    with pytest.raises(
        TrainingError, match=r"PL406.*the longest pair has \d+ tokens and needs about \d+ MiB"
    ) as caught:
        runs.train_here("dpo", given)
    text = str(caught.value)
    assert "60 MiB are free" in text
    assert f"{given['data.train']}:" in text.replace("'", "") or "preference.jsonl:" in text
    assert "data.max_length" in text
    assert "model.gradient_checkpointing=true" in text
    assert "--lora" not in text
    assert not list((runs.Path(given["run.dir"]) / "checkpoints").iterdir())
    # Nothing was computed, so the mended command goes on in the same directory.
    meter.size = 10**10
    runs.train_here("dpo", given)
    assert record_of(given)["tokens"] > 0


def test_gradients_and_optimiser_alone_may_be_too_much(options, monkeypatch):
    FakeMeter(MIB).see(monkeypatch)
    with pytest.raises(TrainingError, match=r"gradients and optimiser state alone need about .*") as caught:
        runs.train_here("sft", short(options, "sft", "run", "auto"))
    assert "--lora" in str(caught.value)


def test_optimiser_state_is_allowed_for(options, monkeypatch):
    FakeMeter(10**9, each=0).see(monkeypatch)
    given = short(options, "sft", "run", "auto")
    result = runs.train_here("sft", given)
    trained = sum(p.numel() for p in result.model.parameters())
    assert record_of(given)["bytes"] == 8 * trained  # two fp32 moments; the gradients are seen by a real meter


def test_where_nothing_can_be_measured_the_default_is_taken_and_said(options, monkeypatch):
    monkeypatch.setattr(token_budget, "meter_for", lambda device: None)
    heard = Plan()
    runs.train_here("sft", short(options, "sft", "run", "auto"), observers=[heard])
    assert heard.plan["tokens per micro-batch"] == "4,096 (auto)"
    assert any("4,096 (auto): not measured" in m for m in heard.messages)


# -- going on


class Stops(Plan):
    def on_step(self, step, total_steps, metrics):
        if step == 1:  # it is noticed behind the next step, where a checkpoint is due
            os.kill(os.getpid(), signal.SIGTERM)


def resumable(options, name, tokens):
    return {**short(options, "dpo", name, tokens), "train.max_steps": 4}


def test_a_resumed_run_takes_the_number_that_it_was_started_with(options, monkeypatch):
    given = resumable(options, "stopped", "auto")
    meter = FakeMeter(10**9).see(monkeypatch)
    with pytest.raises(Interrupted):
        runs.train_here("dpo", given, observers=[Stops()])
    before = record_of(given)
    meter.size = before["bytes"] * 2  # a new choice would be another one
    meter.each = 0
    heard = Plan()
    runs.train_here("dpo", given, observers=[heard])
    assert heard.plan["tokens per micro-batch"] == f"{before['tokens']:,} (auto)"
    assert any("measured when the run was started" in m for m in heard.messages)
    assert record_of(given) == before
    whole = resumable(options, "whole", before["tokens"])
    runs.train_here("dpo", whole)
    one, other = (runs.state_of(runs.Path(run["run.dir"])) for run in (given, whole))
    for state in (one, other):  # what was scored before the stop is not scored again
        state["summary"].pop("reference_tokens")
    assert runs.difference(one, other) is None


def test_a_resumed_run_says_when_its_number_does_not_fit_any_more(options, monkeypatch):
    given = resumable(options, "stopped", "auto")
    meter = FakeMeter(10**9).see(monkeypatch)
    with pytest.raises(Interrupted):
        runs.train_here("dpo", given, observers=[Stops()])
    record = record_of(given)
    meter.size = record["bytes"] - 20 * MIB
    with pytest.raises(
        TrainingError, match=rf"PL406.*started with {record['tokens']} tokens per micro-batch"
    ) as caught:
        runs.train_here("dpo", given)
    assert "run.if_exists=new" in str(caught.value)
    # Another number is another run, as for every option.
    meter.size = 10**9
    with pytest.raises(RunError, match=r"(?s)PL502.*train.tokens_per_microbatch"):
        runs.train_here("dpo", resumable(options, "stopped", record["tokens"]))
    (runs.Path(given["run.dir"]) / "token_budget.json").unlink()
    with pytest.raises(RunError, match=r"PL504.*tokens per micro-batch"):
        runs.train_here("dpo", given)


# -- several processes


@dataclass(frozen=True, slots=True)
class Two(World):
    """A process that is told what another one has: less memory, and twice the need."""

    free: int = 0

    def gather(self, item: Any) -> list[Any]:
        return [item, self.free]

    def together(self, work: Any) -> list[Any]:
        own = work()
        other = [rehearsal.Measurement(m.tokens, None if m.bytes is None else 2 * m.bytes, m.seconds) for m in own]
        return [*own, *other]

    def from_main(self, item: Any) -> Any:
        return item

    def barrier(self) -> None:
        pass


class NoRun:
    def token_budget(self):
        return None

    def write_token_budget(self, facts):
        self.facts = facts


@pytest.mark.parametrize(("free", "expected"), [(10**12, 384), (500 * MIB, 192)])
def test_all_processes_take_what_the_worst_of_them_can(free, expected, monkeypatch):
    # Alone: 80 % of 1000 MiB at 1 MiB per token. The other process needs twice as much, and then has half of it.
    meter = FakeMeter(1000 * MIB).see(monkeypatch)
    meter.careful = False  # speed is of no interest here
    model = ForestModel(steps.tiny_llama())
    groups = steps.make_groups("completion", 120)
    given = {"model.path": "x", "data.train": "x", "train.groups_per_step": 120, "train.tokens_per_microbatch": "auto"}
    config, method = runs.resolved("sft", given, files_exist=False).run, SFT()

    def chosen(world):
        settling = Settling(config, cast_for(method, model), world, NoRun(), lambda line: None)
        return settling.budget(lambda: Demand.of(config, method, None, groups, 1.0)).tokens

    assert chosen(World()) == 768
    assert chosen(Two(size=2, free=free)) == expected
