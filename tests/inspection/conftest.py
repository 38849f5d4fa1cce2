"""Rows of every kind for the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_jsonl

HOSTILE = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title='pwned'\"></textarea>"
TURN = {"role": "user", "content": "Which colour is the sky?"}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHATS: list[dict[str, Any]] = [
    {"messages": [TURN, says("It is blue."), {"role": "user", "content": f"Sure {i}?"}, says("Yes. " * (i + 1))]}
    for i in range(4)
]
PAIRS: list[dict[str, Any]] = [
    {"prompt": [TURN], "chosen": [says(f"Blue {i}.")], "rejected": [says("I do not know at all.")]} for i in range(4)
]
FEEDBACK: list[dict[str, Any]] = [
    {"prompt": f"Thing {i}?", "completion": " A cat and a dog."[: 6 + i], "label": i % 2 == 0} for i in range(4)
]
RANKINGS: list[dict[str, Any]] = [
    {"prompt": [TURN], "completions": [[says("Blue.")], [says("No.")], [says(f"Perhaps {i}?")]], "scores": [3, 1, 2]}
    for i in range(4)
]
PROMPTS: list[dict[str, Any]] = [{"prompt": [TURN]}, {"prompt": [{"role": "user", "content": "Why?"}]}]
ROWS = {"chats": CHATS, "pairs": PAIRS, "feedback": FEEDBACK, "rankings": RANKINGS, "prompts": PROMPTS}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of each kind."""
    for name, rows in ROWS.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
