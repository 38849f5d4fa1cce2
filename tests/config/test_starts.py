"""The directory of a run where a model is asked for: the model that it trained, found before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plaudit.config.load import resolve
from plaudit.errors import ConfigError
from plaudit.train.announce import earlier_run_note

STARTS = {"model.path": ("sft", "model"), "critic.path": ("ppo", "critic")}


def write_run(folder: Path, *files: str, system_prompt: str | None = None) -> Path:
    (folder / "model").mkdir(parents=True)
    values = {"model": {"path": "start"}, "data": {"system_prompt": system_prompt}}
    (folder / "config.yaml").write_text(json.dumps(values), encoding="utf-8")
    for name in files:
        (folder / "model" / name).write_text("{}", encoding="utf-8")
    return folder


def of(key: str, path: Path, **more: Any) -> Any:
    (tmp := path.parent / "data.jsonl").write_text('{"prompt": "a", "completion": " b"}\n', encoding="utf-8")
    method, section = STARTS[key]
    given: dict[str, Any] = {"model": {"path": "m"}, "data": str(tmp)} | more
    if method == "ppo":
        given["reward"] = {"rewards": ["math"]}
    return resolve(method, (), given | {section: {"path": str(path)}}).run


@pytest.mark.parametrize("key", STARTS)
def test_the_model_of_a_run_takes_its_place(key: str, tmp_path: Path) -> None:
    """What is written down names it: an adapter on it has a base that every program loads."""
    run = write_run(tmp_path / "earlier", "config.json")
    found = getattr(of(key, run), STARTS[key][1])
    assert found.path == str(run / "model")
    assert getattr(of(key, run / "model"), STARTS[key][1]) == found


@pytest.mark.parametrize("key", STARTS)
def test_a_run_that_has_none_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no model yet"):
        of(key, write_run(tmp_path / "begun"))
    run = write_run(tmp_path / "lora", "adapter_config.json")
    with pytest.raises(ConfigError) as caught:
        of(key, run)
    assert f"`plaudit merge {run} FOLDER`" in str(caught.value)
    assert (f"--model start --lora.path {run / 'model'}" in str(caught.value)) == (key == "model.path")


def test_the_run_is_named_after_the_directory(tmp_path: Path) -> None:
    assert of("model.path", write_run(tmp_path / "earlier", "config.json")).run.dir == "runs/sft-earlier"


def test_another_system_prompt_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "earlier", "config.json", system_prompt="Be brief.")
    [note] = earlier_run_note(of("model.path", run))
    assert "'Be brief.'; this run has None" in note
    same = {"data": {"train": "pairs:train", "system_prompt": "Be brief."}}
    assert earlier_run_note(of("model.path", run, **same)) == []
