"""Steps, epochs and rows: how many, which, and none lost; when a run evaluates and when it stops early."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from plaudit.config.schema import RunConfig
from plaudit.errors import TrainingError
from plaudit.train.schedule import Schedule
from tests.train import runs


def schedule(
    sizes: list[int], weights: list[float] | None = None, *, has_eval: bool = False, **options: Any
) -> Schedule:
    sections = runs.nested({"model.path": "m", "data.train": [{"path": "d"}], "method.name": "sft", **options})
    return Schedule.of(RunConfig.model_validate(sections), sizes, weights or [1.0] * len(sizes), has_eval)


@pytest.mark.parametrize(("rows", "per_step", "epochs", "steps"), [
    (10, 5, 1.0, 2), (11, 5, 1.0, 3), (3, 32, 1.0, 1), (10, 5, 3.0, 6), (11, 5, 2.0, 6), (10, 5, 0.5, 1),
    (10, 5, 0.01, 1), (100, 10, 0.25, 3), (100, 10, 1.5, 15), (30, 10, 1 / 3, 1),
])  # fmt: skip
def test_how_many_steps(rows, per_step, epochs, steps):
    assert schedule([rows], **{"train.groups_per_step": per_step, "train.epochs": epochs}).total_steps == steps


def test_max_steps_ends_the_run_and_its_schedule():
    assert schedule([100], **{"train.groups_per_step": 10, "train.max_steps": 4}).total_steps == 4
    assert schedule([10], **{"train.groups_per_step": 10, "train.max_steps": 4}).total_steps == 4
    both = {"train.groups_per_step": 10, "train.max_steps": 4, "train.epochs": 1}
    assert schedule([10], **both).total_steps == 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_is_seen_once_an_epoch(shuffle):
    plan = schedule([23], **{"train.groups_per_step": 5, "train.epochs": 3.0, "data.shuffle": shuffle})
    epochs = [[i for s in range(e * 5, e * 5 + 5) for i in plan.groups_of(s)] for e in range(3)]
    assert all(sorted(e) == list(range(23)) for e in epochs)
    assert (epochs[0] == epochs[1]) != shuffle
    assert len(plan.groups_of(4)) == 3, "the last step takes what is left"
    assert sorted(plan.all_groups()) == list(range(23))


def test_the_order_is_a_function_of_the_seed():
    def order(seed: int) -> list[int]:
        plan = schedule([40], **{"train.groups_per_step": 8, "train.seed": seed})
        return [i for s in range(5) for i in plan.groups_of(s)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_weights_are_how_often_a_source_is_seen():
    plan = schedule([10, 20, 5], [2.0, 0.5, 1.0], **{"train.groups_per_step": 7, "train.epochs": 2.0})
    assert plan.steps_per_epoch == 5
    epochs = [Counter(i for s in range(e * 5, e * 5 + 5) for i in plan.groups_of(s)) for e in range(2)]
    for seen in epochs:
        assert [seen[i] for i in range(10)] == [2] * 10
        assert sum(seen[i] for i in range(10, 30)) == 10
        assert [seen[i] for i in range(30, 35)] == [1] * 5
    both = epochs[0] + epochs[1]
    assert all(both[i] == 1 for i in range(10, 30)), "the two halves are different"
    assert sorted(plan.all_groups()) == list(range(35))


def test_when_it_evaluates_and_writes():
    plan = schedule(
        [100],
        has_eval=True,
        **{"train.groups_per_step": 10, "train.epochs": 2.0, "eval.every": 6, "checkpoint.every": 8},
    )
    assert [s for s in range(21) if plan.evaluates_after(s)] == [6, 12, 18, 20]
    assert [s for s in range(1, 21) if plan.checkpoints_after(s)] == [6, 8, 12, 16, 18, 20], (
        "before every evaluation too"
    )
    by_default = schedule([100], has_eval=True, **{"train.groups_per_step": 10, "train.epochs": 2.0})
    assert [s for s in range(21) if by_default.evaluates_after(s)] == [10, 20]
    assert by_default.checkpoint_every == 2
    without = schedule([100], **{"train.groups_per_step": 10})
    assert not any(without.evaluates_after(s) for s in range(11))


def test_epochs_are_counted_in_steps():
    plan = schedule([25], **{"train.groups_per_step": 10, "train.epochs": 2.0})
    assert [round(plan.epoch_at(s), 2) for s in (0, 1, 3, 6)] == [0, 0.33, 1, 2]


# -- through a run


@pytest.mark.parametrize("at_start", [True, False])
def test_an_unknown_best_metric_stops_the_run_before_its_first_step(at_start, options):
    asked = options("dpo", **{"eval.best_metric": "eval/perplexity", "eval.at_start": at_start})
    with pytest.raises(TrainingError, match="PL405") as caught:
        runs.train_here("dpo", asked)
    assert "eval/rewards/margins" in str(caught.value)
    assert "eval.best_metric" in str(caught.value)
    from pathlib import Path

    assert not [line for line in runs.lines(Path(asked["run.dir"]) / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("name", ["eval/rewards/margins", "eval/loss", "eval/rewards/accuracies"])
def test_the_direction_of_a_metric_decides_what_is_best(name, options):
    result = runs.train_here("dpo", options("dpo", **{"eval.best_metric": name, "eval.every": 1}))
    seen = {line["step"]: line[name] for line in runs.lines(result.run_dir / "metrics.jsonl") if name in line}
    best = min(seen.values()) if name == "eval/loss" else max(seen.values())
    assert result.summary["best"] == best
    assert result.summary["best_step"] == next(s for s, v in seen.items() if v == best)


def test_early_stopping_stops_and_says_so(options):
    changes = {
        "train.learning_rate": 3.0,
        "train.warmup_steps": 0,
        "eval.every": 1,
        "eval.early_stopping_patience": 2,
        "train.epochs": 9.0,
    }
    result = runs.train_here("sft", options("sft", **changes))
    assert result.steps == 2
    alerts = [a for a in runs.lines(result.run_dir / "alerts.jsonl") if a["code"] == "early_stopping"]
    assert len(alerts) == 1
    assert "has not improved for 2 evaluations" in alerts[0]["message"]
    assert "before the first step" in alerts[0]["advice"]
    assert (result.run_dir / "COMPLETE").exists()


def test_an_evaluation_that_is_not_a_number_is_never_the_best(options, monkeypatch):
    from plaudit.methods.sft import SFT
    from plaudit.train.loop import Trainer

    original = Trainer._evaluate
    derived = SFT.derived

    def broken(self: Trainer) -> None:
        if self.progress.step == 0:
            monkeypatch.setattr(SFT, "derived", lambda self, metrics: {"perplexity": float("nan")})
        original(self)
        monkeypatch.setattr(SFT, "derived", derived)

    monkeypatch.setattr(Trainer, "_evaluate", broken)
    result = runs.train_here("sft", options("sft", **{"eval.best_metric": "eval/perplexity"}))
    assert result.summary["best"] > 0
    assert result.summary["best_step"] > 0


def test_a_remainder_below_the_methods_minimum_joins_the_step_before():
    from plaudit.train.schedule import chunks

    assert chunks(9, 4, 1) == ((0, 4), (4, 8), (8, 9))
    assert chunks(9, 4, 2) == ((0, 4), (4, 9))
    assert chunks(8, 4, 2) == ((0, 4), (4, 8))
    assert chunks(1, 4, 2) == ((0, 1),)  # too few in all is refused before it comes to steps
