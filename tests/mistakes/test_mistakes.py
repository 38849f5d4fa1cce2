"""What a newcomer reads after a mistake: what is wrong, where, and how to mend it. And that nothing else is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plaudit.errors import CODES
from plaudit.train import checkpoint
from tests.conftest import Ended
from tests.mistakes.data import DATA
from tests.mistakes.desk import CHAT, PAIR, Desk, Message, Mistake
from tests.mistakes.models import MODELS
from tests.mistakes.options import OPTIONS
from tests.mistakes.surroundings import SURROUNDINGS

MISTAKES = [*DATA, *MODELS, *OPTIONS, *SURROUNDINGS]
EARLY = [mistake for mistake in DATA if mistake.code in ("PL201", "PL202", "PL203", "PL204", "PL209", "PL210")]
"""What the first rows show."""
TESTS = Path(__file__).parents[1]


@pytest.fixture
def desk(
    tmp_path: Path, tiny_model_dir: Path, call_plaudit: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A newcomer's folder, with the network out of reach."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = Desk(folder, tiny_model_dir, call_plaudit, monkeypatch)
    yield made
    made.leave()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake(mistake: Mistake, desk: Desk) -> None:
    command = mistake.command(desk)
    before = desk.files()
    ended = desk.call(*command)
    message = Message.of(ended.err)
    assert ended.status == 2
    assert message.code == mistake.code
    assert mistake.what in message.what
    # The mistakes in a configuration are listed, each with its place and a hint.
    listed = message.what if mistake.code == "PL100" else ""
    assert mistake.where in (listed or message.where)
    assert mistake.mend in listed + message.mend
    assert message.page == f"docs/errors.md#{mistake.code.lower()}"
    after = desk.files()
    assert before.items() <= after.items(), "something is lost or changed"
    assert all(name.startswith("run") for name in after.keys() - before.keys())


def test_no_name_is_given_twice() -> None:
    names = [mistake.name for mistake in MISTAKES]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= 60


def test_every_code_is_tried() -> None:
    """By a mistake of the tables, or by a test that is about it."""
    written = {code for file in TESTS.rglob("*.py") for code in re.findall(r"PL\d{3}", file.read_text("utf-8"))}
    assert set(CODES) - written == set()


@pytest.mark.parametrize("mistake", EARLY, ids=lambda mistake: mistake.name)
def test_data_is_looked_at_before_a_model_is_loaded(mistake: Mistake, desk: Desk) -> None:
    desk.monkeypatch.setattr("plaudit.train.session.load_model", None)
    assert Message.of(desk.call(*mistake.command(desk)).err).code == mistake.code


def _eval_as_train(desk: Desk) -> list[object]:
    return desk.train("dpo", None, "--eval-data", "pairs.jsonl")


def _template(text: str) -> Callable[[Desk], list[object]]:
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *CHAT]}] * 3
    return lambda desk: desk.train(
        "sft", desk.write("chats.jsonl", rows), "--chat-template", desk.write("chat.jinja", text)
    )


_TURNS = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (_eval_as_train, "3 of 3 groups are trained on too"),
        (_template(_TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"), "system message"),
        (_template(_TURNS), "add_generation_prompt"),
        (lambda desk: desk.train("dpo", model=desk.copy_of_model(tokenizer_config={"eos_token": None})), "no EOS"),
    ],
)
def test_what_may_be_meant_is_said(command: Callable[[Desk], list[object]], said: str, desk: Desk) -> None:
    ended = desk.call(*command(desk))
    assert (ended.status, ended.err) == (0, "")
    assert said in ended.out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b"\xef\xbb\xbf" + (json.dumps(PAIR) + "\r\n").encode() * 3),
        ("rows.json", (json.dumps(PAIR) + "\n") * 3),
        ("rows.csv", 'prompt,chosen,rejected\n"Which,\nof all?",a,b\n'),
        ("rows.csv", b"\xef\xbb\xbfprompt,chosen,rejected\r\nWhich?,a,b\r\n"),
    ],
)
def test_what_other_programs_write_is_read(name: str, content: str | bytes, desk: Desk) -> None:
    assert desk.call(*desk.train("dpo", desk.write(name, content))).status == 0


def test_an_old_checkpoint_stays_when_there_is_no_room_for_the_next(desk: Desk) -> None:
    steps = ("--groups-per-step", 1, "--max-steps", 2, "--checkpoint.every", 1, "--output-dir", "run")
    command = ["dpo", "--model", desk.model, "--data", desk.pairs(), *steps]
    real, calls = checkpoint.save_file, []

    def full(*given: Any, **options: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*given, **options)

    desk.monkeypatch.setattr(checkpoint, "save_file", full)
    ended = desk.call(*command)
    assert Message.of(ended.err).code == "PL505"
    assert [p.name for p in (desk.folder / "run" / "checkpoints").iterdir()] == ["step-00000001"]
    again = desk.call(*command)
    assert again.status == 0
    assert 'resumed="after step 1"' in again.out


@pytest.mark.parametrize("given", [{"model": "some/model"}, {"data": "some/data"}], ids=lambda given: next(iter(given)))
def test_a_hub_that_is_out_of_reach_makes_no_noise(given: dict[str, str], desk: Desk) -> None:
    """Its client tells of every request that it repeats, for half a minute."""
    noise = logging.Handler(logging.WARNING)
    told: list[str] = []
    noise.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    client = logging.getLogger("huggingface_hub")
    client.addHandler(noise)
    desk.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    desk.monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    desk.monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    desk.monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None, time=time))
    try:
        message = Message.of(desk.call(*desk.train("dpo", **given)).err)
    finally:
        client.removeHandler(noise)
    assert message.code == {"model": "PL301", "data": "PL210"}[next(iter(given))]
    assert "cannot be reached" in message.what
    assert told == []
