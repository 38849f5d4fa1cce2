"""The schema for editors accepts what the loader accepts, and refuses typos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from plaudit.config import tree
from plaudit.config.json_schema import json_schema
from plaudit.config.keys import all_keys
from plaudit.config.load import resolve
from plaudit.methods import available, dpo
from plaudit.runs import yaml_text
from tests.conftest import Ended

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
WRITTEN = [*sorted((ROOT / "examples").rglob("*.yaml")), ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def problems(text: str, schema: dict[str, Any] = SCHEMA) -> list[str]:
    """What the schema says of a file, as our loader reads its values."""
    loader: Any = tree._Loader
    found: list[Any] = []
    node = yaml.compose(text, Loader=loader)
    values = tree.plain(tree._build(node, "c.yaml", "c.yaml", "", found))
    assert found == []
    return [error.message for error in Draft7Validator(schema).iter_errors(values)]


def configurations() -> list[Any]:
    found = []
    for file in WRITTEN:
        text = file.read_text(encoding="utf-8")
        parts = [text] if file.suffix == ".yaml" else re.findall(r"^```yaml[^\n]*\n(.*?)^```$", text, re.M | re.S)
        found += [pytest.param(part, id=f"{file.stem}-{i}") for i, part in enumerate(parts)]
    return found


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    definitions = SCHEMA["definitions"]
    named = re.findall(r'"\$ref": "#/definitions/([^"]+)"', json.dumps(SCHEMA))
    assert set(named) == set(definitions)
    assert len(json.dumps(SCHEMA, separators=(",", ":"))) < 200_000


@pytest.mark.parametrize("text", configurations())
def test_configurations_in_the_documents_and_examples_pass(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize("name", available())
def test_the_whole_configuration_of_a_run_passes(name: str) -> None:
    reward = {"reward": "math"} if available()[name].is_online() else {}
    for lora in (True, False):
        run = resolve(name, overrides={"model": "m", "data": "d:train", "lora": lora, **reward})
        text = yaml_text.dump(run.as_dict())
        assert problems(text) == []
        assert problems(text, json_schema(name)) == []


def test_short_forms_pass() -> None:
    assert problems("model: m\ndata: d.jsonl\nmethod: dpo\nlora: true") == []
    assert problems("data: [a.jsonl, {path: b.jsonl, weight: 2}]\nmethod: grpo\nreward: math") == []
    assert problems("data: {train: a.jsonl, eval: {path: b.jsonl, columns: {prompt: q}}}\nlora: false") == []
    assert problems("method: own.py\nwatch: {stop: kl_over_budget, gold: math}\nreward: [math, {kind: length}]") == []
    assert (
        problems("method: {name: own.py, anything: 1}\nlora:\nreward: {rewards: math, shaping: {clip: {low: -1}}}")
        == []
    )
    assert problems("train: {tokens_per_microbatch: auto, learning_rate: 1e-5, betas: [0.9, 0.95]}") == []
    assert problems("method: {beta: 0.2}\nmodel: {precision: bf16}") == []  # the command names the rest


@pytest.mark.parametrize(
    "text",
    [
        "trian: {epochs: 1}",
        "train: {epoch: 1}",
        "train: {epochs: -1}",
        "train: {schedule: cosin}",
        "train: {tokens_per_microbatch: many}",
        "train: {seed: text}",
        "train: {betas: [0.9]}",
        "train: {betas: [0.9, 0.99, 0.999]}",
        "data: {train: []}",
        "data: {train: [{weight: 2}]}",
        "data: {train: a.jsonl, convert: pairs_to_pears}",
        "method: dppo",
        "method: {name: dppo}",
        "method: {name: dpo, btea: 0.1}",
        "method: {name: dpo, beta: -0.1}",
        "method: {name: kto, label_smoothing: 0.1}",
        "method: {btea: 0.1}",
        "lora: {rank: 8}",
        "method: dpo\nreward: math",
        "method: {name: sft}\nrollout: {max_new_tokens: 8}",
        "log: {sinks: [wandbb]}",
        "watch: {kl_buget: 3}",
    ],
)
def test_typos_fail(text: str) -> None:
    assert problems(text) != []


def test_everything_has_its_meaning_its_choices_and_its_default() -> None:
    definitions = SCHEMA["definitions"]
    for name, method in available().items():
        own = definitions[f"method_{name}"]["properties"]
        keys = [
            key for key in all_keys(method.Config).values() if key.section == "method" and key.name != "method.name"
        ]
        assert {"name", *(key.leaf for key in keys)} == set(own)
        assert all(own[key.leaf]["description"] == " ".join(key.doc.split()) for key in keys)
    train = definitions["TrainConfig"]["properties"]
    assert train["schedule"]["enum"] == ["linear", "cosine", "constant"]
    assert (train["groups_per_step"]["default"], train["epochs"]["default"]) == (32, None)
    assert definitions["method_dpo"]["properties"]["beta"]["exclusiveMinimum"] == 0
    assert all("description" in section for section in SCHEMA["properties"].values())


def test_the_command_prints_or_writes_it(
    call_plaudit: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert json.loads(call_plaudit("config", "schema").out) == SCHEMA
    done = call_plaudit("config", "schema", "dpo", "-o", "schema.json")
    assert (done.status, json.loads(Path("schema.json").read_text())) == (0, json_schema("dpo"))
    own = Path(dpo.__file__).read_text(encoding="utf-8").replace("label_smoothing: Annotated", "strictness: Annotated")
    Path("own.py").write_text(own, encoding="utf-8")
    schema = json.loads(call_plaudit("config", "schema", "own.py").out)
    assert problems("method: {name: own.py, strictness: 0.1}", schema) == []
    assert problems("method: {name: own.py, strict: 0.1}", schema) != []
    done = call_plaudit("config", "schema", "-o", "no/schema.json")
    assert (done.status, "[PL102] the file cannot be written" in done.err) == (2, True)
