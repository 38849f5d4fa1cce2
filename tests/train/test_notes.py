"""What a run says about decisions that nobody asked for."""

from __future__ import annotations

import pytest

from plaudit.errors import ModelError, RunError, TrainingError
from plaudit.runs.observer import SilentObserver
from tests.train import runs


class Listener(SilentObserver):
    def __init__(self):
        self.messages = []

    def on_message(self, text):
        self.messages.append(text)


def test_units_over_the_budget_are_counted(options):
    heard = Listener()
    runs.train_here("dpo", options(**{"train.tokens_per_microbatch": 30, "train.max_steps": 1}), observers=[heard])
    said = [m for m in heard.messages if "larger than train.tokens_per_microbatch=30" in m]
    assert len(said) == 1
    assert "pairs" in said[0]

    heard = Listener()
    large = options(name="large", **{"train.tokens_per_microbatch": 4096, "train.max_steps": 1})
    runs.train_here("dpo", large, observers=[heard])
    assert not [m for m in heard.messages if "larger than" in m]


def test_a_max_length_beyond_the_models_positions_is_refused(options):
    with pytest.raises(ModelError, match=r"PL307.*has \d+ positions"):
        runs.train_here("dpo", options(**{"data.max_length": 100_000}))


def test_a_complete_run_does_not_pass_for_one_on_other_data(options, data_of):
    given = options(**{"train.max_steps": 1, "data.eval_fraction": 0.0, "eval.every": None})
    runs.train_here("dpo", given)
    again = runs.train_here("dpo", given)  # nothing to do, and said to be complete
    assert again.steps == 1
    path = data_of("dpo")
    kept = path.read_text()
    path.write_text("".join(kept.splitlines(keepends=True)[:-3]))
    try:
        with pytest.raises(RunError, match=r"PL502.*the data changed"):
            runs.train_here("dpo", given)
    finally:
        path.write_text(kept)


def test_an_optimiser_without_its_gpu_is_refused_before_the_model_is_loaded(options):
    with pytest.raises(TrainingError, match="needs a GPU"):
        runs.train_here("dpo", options(**{"train.optimizer": "adamw_8bit", "model.path": "hub/no-such-model"}))


@pytest.mark.parametrize("method", ["kto", "bco"])
def test_a_step_with_answers_of_one_class_is_no_alarm(method, options, tmp_path):
    rows = runs.rows_of("feedback", 16)
    for i, row in enumerate(rows):
        row["label"] = i < 12
    data = runs.write_rows(tmp_path / "rows.jsonl", rows)
    given = {"train.groups_per_step": 4, "data.shuffle": False, "train.max_steps": 4, "data.train": str(data)}
    result = runs.train_here(
        method, options(method, **given, **{"data.eval_fraction": 0.0, "eval.every": None, "log.every": 1})
    )
    logged = runs.lines(result.run_dir / "metrics.jsonl")
    absent = [line for line in logged if "rewards/rejected" not in line]
    assert absent, "the rows were to give a step of one class"
    for line in logged:
        assert all(v == v for v in line.values()), line
        assert ("rewards/margins" in line) == {"rewards/chosen", "rewards/rejected"}.issubset(line)
    assert "not_finite" not in (result.run_dir / "alerts.jsonl").read_text()
