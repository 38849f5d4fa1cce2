"""Reward models that are real and tiny: from here (saved as training saves them) and from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.models.writing import write_foreign, write_own

Maker = Callable[..., Path]


@pytest.fixture(scope="session")
def foreign_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A LlamaForSequenceClassification from elsewhere; do not write into it."""
    return write_foreign(tmp_path_factory.mktemp("foreign") / "rm", tiny_model_dir)


@pytest.fixture
def own(tmp_path: Path, tiny_model_dir: Path) -> Maker:
    """own(name, seed=…, …) writes a model as `plaudit reward` does and returns its folder."""

    def make(name: str, **options: Any) -> Path:
        return write_own(tmp_path / name, tiny_model_dir, **options)

    return make


ITEMS: list[tuple[Any, list[Any]]] = [
    ("Which colour is the sky?", ["It is blue.", "I do not know.", "The sky is blue, and the grass is green."]),
    ([{"role": "user", "content": "Tell me about cats."}], ["No."]),
    ("Which colour is grass?", [[{"role": "assistant", "content": "Green."}], "Blue"]),
]


@pytest.fixture
def items() -> list[tuple[Any, list[Any]]]:
    """Text and messages, one to three answers."""
    return [(prompt, list(answers)) for prompt, answers in ITEMS]
