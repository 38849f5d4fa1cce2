"""The Python API: the same shape as the command line, and objects where names would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import plaudit
from plaudit.errors import ConfigError

OPTIONS: dict[str, Any] = {
    "lora_r": 4,
    "groups_per_step": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "reference_cache": "off",
    "observers": (),
}


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def test_paths_rows_and_objects_give_the_same_run(
    tiny_model_dir: Path, preference_file: Path, preference_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    by_path = plaudit.train(
        "dpo", model=tiny_model_dir, data=preference_file, output_dir=str(tmp_path / "a"), **OPTIONS
    )
    by_rows = plaudit.train(
        "dpo", model=str(tiny_model_dir), data=preference_rows, output_dir=str(tmp_path / "b"), **OPTIONS
    )
    loaded = (AutoModelForCausalLM.from_pretrained(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir))
    by_objects = plaudit.train(
        "dpo", model=loaded, data=Dataset.from_list(preference_rows), output_dir=str(tmp_path / "c"), **OPTIONS
    )
    assert by_path.steps == by_rows.steps == by_objects.steps == 2
    assert losses(by_path.run_dir) == losses(by_rows.run_dir) == losses(by_objects.run_dir)
    written = yaml.safe_load((by_objects.run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert written["model"]["path"] == written["data"]["train"][0]["path"] == "<memory>"


def test_a_configuration_file_and_arguments(tiny_model_dir: Path, sft_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {tiny_model_dir}\ndata: {sft_file}\nrun: {{dir: {tmp_path / 'run'}}}\n")
    result = plaudit.train("sft", config=config, train={"max_steps": 1, "groups_per_step": 4}, observers=())
    assert result.steps == 1
    written = yaml.safe_load((result.run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert (written["train"]["max_steps"], written["lora"]) == (1, None)


def test_generate_and_converse_take_a_loaded_model(tiny_model_dir: Path) -> None:
    loaded = plaudit.load(tiny_model_dir)
    rows = list(plaudit.generate(loaded, prompts=["hello", [{"role": "user", "content": "hello"}]], max_new_tokens=3))
    assert [r["row"] for r in rows] == [0, 1]
    greedy = [
        r["completion"]
        for r in plaudit.generate(
            loaded, prompts=["hello", [{"role": "user", "content": "hello"}]], temperature=0, max_new_tokens=8
        )
    ]
    assert greedy[0] == greedy[1]  # a text is put into the chat template
    talk = plaudit.converse(tiny_model_dir, max_new_tokens=3, system="Be brief.")
    talk.say("hello")
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant"]


def test_wrong_objects_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"PL102.*model must be a path"):
        plaudit.train("dpo", model=3, data="x:train")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = plaudit.trian  # type: ignore[attr-defined]
