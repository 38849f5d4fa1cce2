"""`plaudit generate` with an output file: stopped anywhere, it goes on and ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import plaudit as package
from plaudit.errors import ConfigError
from tests.conftest import write_jsonl

OPTIONS: dict[str, Any] = {"n": 3, "max_new_tokens": 12, "seed": 7, "temperature": 0.8, "stop": ["xyz"], "top_p": 0.9}
PROMPTS = ["one", "two", "one", "three", "four"]


@pytest.fixture
def start(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    """Generate into a file of this test; nothing is drawn before a row is asked for."""

    def begin(name: str = "out.jsonl", **changes: Any) -> Any:
        given = {"prompts": PROMPTS, **OPTIONS, **changes}
        return package.generate(str(tiny_model_dir), output=tmp_path / name, token_logprobs=True, **given)

    return begin


def test_rows_carry_tokens_and_logprobs(start: Callable[..., Any], tmp_path: Path) -> None:
    rows = list(start())
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows
    assert [(r["row"], r["sample"]) for r in rows] == [(i, k) for i in range(5) for k in range(3)]
    for row in rows:
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["full_logprobs"]) == row["tokens"] <= 12
        assert sum(row["logprobs"]) == pytest.approx(row["logprob"], abs=1e-4)
        # What was sampled had lost the tail of the distribution; the whole softmax has it.
        assert all(a >= b - 1e-5 for a, b in zip(row["logprobs"], row["full_logprobs"], strict=True))


TAKEN, TORN = (1, 3, 4, 8, 14, 15), (b"", b'{"row": 9, "sam', b'{"row": 9}\n')
"""How many rows were asked for, and what a stop left behind them."""


def stops() -> list[Any]:
    """In the default run every torn end behind four rows, and another one behind each other number."""
    return [
        pytest.param(taken, torn, marks=() if taken == 4 or n % 3 == m else pytest.mark.slow)
        for n, taken in enumerate(TAKEN)
        for m, torn in enumerate(TORN)
    ]


@pytest.mark.parametrize(("taken", "torn"), stops())
def test_it_goes_on_where_it_was_stopped(start: Callable[..., Any], tmp_path: Path, taken: int, torn: bytes) -> None:
    whole = list(start("whole.jsonl"))
    stream = start()
    list(islice(stream, taken))
    stream.close()
    path = tmp_path / "out.jsonl"
    with path.open("ab") as file:
        file.write(torn)
    said: list[str] = []
    rest = list(start(on_message=said.append))
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    done = -(-taken // 3)  # a prompt's lines are written together
    assert rest == whole[3 * done :]
    assert any(f"{done} of 5 prompts are there already" in text for text in said)
    assert list(start()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 8}, "other sampling options"),
        ({"n": 2}, "other n"),
        ({"prompts": [*PROMPTS[:4], "five"]}, "other prompts"),
        ({"temperature": 1.0, "prompts": PROMPTS[:3]}, "other prompts, sampling"),
    ],
)
def test_another_command_does_not_go_on_with_the_file(
    start: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    list(islice(start(), 4))
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"PL102.*{what}"):
        start(**changes)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert len(list(start(**changes, overwrite=True))) > 0


def test_another_model_does_not_go_on_with_the_file(start: Callable[..., Any]) -> None:
    list(islice(start(), 4))
    with pytest.raises(ConfigError, match="other weights"):
        start(precision="bf16")


def test_a_file_of_something_else_is_left_alone(start: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("my notes\n")
    with pytest.raises(ConfigError, match="nothing says what it holds"):
        start()
    assert path.read_text() == "my notes\n"


def test_progress_counts_prompts(start: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []
    list(islice(start(), 4))
    list(start(on_progress=lambda done, total: seen.append((done, total))))
    assert seen == [(3, 5), (4, 5), (5, 5)], "two prompts were there already"


def test_columns_with_other_names(start: Callable[..., Any], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"q": "one", "prompt": "other"}])
    rows = list(start(prompts=(), prompts_file=tmp_path / "in.jsonl", columns={"prompt": "q"}))
    assert {row["prompt"] for row in rows} == {"one"}
    with pytest.raises(ConfigError, match="only a file has columns"):
        start("other.jsonl", columns={"prompt": "q"})
