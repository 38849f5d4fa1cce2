"""A tiny model and tiny data that are real: everything that runs on a large one runs on these in a second."""

from __future__ import annotations

import gc
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SENTENCES = [
    "What is the capital of France? The capital of France is Paris.",
    "Which colour is the sky? The sky is blue, and the grass is green.",
    "user system assistant",
    "Tell me about cats and dogs, please. I do not know.",
]
VOCABULARY = 300
SLOW_LIMIT = 900
"""Seconds for a test that is marked as slow."""


def pytest_configure(config: pytest.Config) -> None:
    """Signals as in a terminal. What is started with nohup, or in the background of a script, inherits that they are
    ignored, and so would the commands that tests start."""
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests train models to the end. Beside other work one of two minutes took five, the limit of the others."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there by now (modules, tests) stays: collections of garbage, which training asks for too, skip it."""
    gc.collect()
    gc.freeze()


def write_tiny_model(folder: Path, *, seed: int = 0, positions: int = 256) -> Path:
    """A Llama with about 0.2M random weights and a byte-level BPE tokenizer with a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=special[1], eos_token=special[2], pad_token=special[0]
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model; do not write into it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def warm_plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command as a program that has everything imported already, called `plaudit`, in a folder for the PATH.

    For tests of what a command does; a test of how it starts, starts it for real."""
    from tests.warm_command import install

    program, server = install(tmp_path_factory.mktemp("warm"))
    yield program
    server.terminate()
    server.join()


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What it has printed, as JSONL."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def call_plaudit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs `plaudit …` in this process."""
    from plaudit.cli import main

    def run(*arguments: object, stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["plaudit", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium (`tests.browser`). Of a module, because no other test may run an event loop beside it."""
    from tests.browser import chromium

    with chromium() as running:
        yield running


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def preference_rows() -> list[dict[str, Any]]:
    """Sixteen pairs as plain rows; the better answer names a colour."""
    colours = ["blue", "green", "red", "grey"]
    return [
        {"prompt": f"Which colour is thing {i}?", "chosen": f"It is {colours[i % 4]}.", "rejected": "I do not know."}
        for i in range(16)
    ]


@pytest.fixture
def preference_file(tmp_path: Path, preference_rows: list[dict[str, Any]]) -> Path:
    """`preference_rows` as JSONL."""
    return write_jsonl(tmp_path / "pairs.jsonl", preference_rows)


@pytest.fixture
def sft_file(tmp_path: Path) -> Path:
    """Eight conversations as JSONL."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Which colour is thing {i}?"},
                {"role": "assistant", "content": "It is blue."},
            ]
        }
        for i in range(8)
    ]
    return write_jsonl(tmp_path / "demonstrations.jsonl", rows)
