"""Scripted judges, and a tiny model that has something to say about labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rewards.judges.scripted import Script, Scripted, serving_script

LIKED = {"A": 9.0, "B": 8.0, "C": 6.0, "7": 9.0, "1": 8.0, "2": 7.0, "W": 7.5}
"""Text of a token → what its logit gains, in the tiny judge's reply; others lose as much."""


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], Scripted]]:
    """Start a scripted server; all end with the test."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(serving_script(script))


@pytest.fixture(scope="session")
def judge_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for a question, and a head that likes the labels."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("judge") / "judge"
    shutil.copytree(tiny_model_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    config.tie_word_embeddings = False
    config.max_position_embeddings = 4096
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for opening, liked in {"": LIKED, "1": {"0": 9.0, "<|im_end|>": 9.5}}.items():
            ids = tokenizer(f"Reply.<|im_end|>\n<|im_start|>assistant\n{opening}", return_tensors="pt").input_ids
            hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
            direction = hidden / hidden.square().sum()
            model.lm_head.weight -= 4.0 * direction
            for text, boost in liked.items():
                [token] = tokenizer(text).input_ids
                model.lm_head.weight[token] += boost * direction
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert written["tie_word_embeddings"] is False
    return folder
