"""What a run says about decisions that nobody asked for."""

from __future__ import annotations

import pytest

from plaudit.errors import ModelError
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
