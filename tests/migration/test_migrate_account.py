"""The account: every key is in one list; and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.config.keys import all_keys
from plaudit.config.load import resolve
from plaudit.methods import available
from plaudit.migration.rules import Rule
from plaudit.migration.tables.axolotl import AXOLOTL, AXOLOTL_NAMES
from plaudit.migration.tables.llama_factory import LLAMA_FACTORY, LLAMA_FACTORY_NAMES
from plaudit.migration.tables.trl import TRL
from tests.migration.conftest import Migrate
from tests.migration.test_migrate_axolotl import DPO as AXOLOTL_DPO
from tests.migration.test_migrate_factory import DPO as FACTORY_DPO
from tests.migration.test_migrate_trl import DPO as TRL_DPO
from tests.migration.test_migrate_trl import GRPO as TRL_GRPO

CLASSES: dict[str, list[str]] = json.loads((Path(__file__).parent / "trl_1_16_keys.json").read_text(encoding="utf-8"))
"""Class of TRL 1.16 → its fields (those of TrainingArguments once)."""
EXAMPLES = {"trl": TRL_DPO, "grpo": TRL_GRPO, "llama-factory": FACTORY_DPO, "axolotl": AXOLOTL_DPO}
TABLES = {"trl": (TRL, {}), "llama-factory": (LLAMA_FACTORY, LLAMA_FACTORY_NAMES), "axolotl": (AXOLOTL, AXOLOTL_NAMES)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_key_of_trl_is_known(name: str) -> None:
    assert not [key for key in CLASSES[name] if key not in TRL]


@pytest.mark.parametrize("tool", TABLES)
def test_what_tables_name_exists(tool: str) -> None:
    table, names = TABLES[tool]
    assert set(names.values()) <= set(table)
    ours = {key for method in available().values() for key in all_keys(method.Config)} | {"lora", "method.losses"}
    for key, rule in table.items():
        assert isinstance(rule, Rule)
        if rule.fate in ("same", "part"):
            assert rule.ours in ours, key
        else:
            assert rule.why, key


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_key_is_in_exactly_one_list(migrate: Migrate, name: str) -> None:
    found = migrate(EXAMPLES[name] + "    a_key_of_nobody: 3\n", "dpo.yaml")
    given = [o.setting.key for o in found.outcomes]
    assert len(given) == len(set(given))
    lists = [{o.setting.key for o in found.of(part)} for part in ("taken", "different", "missing")]
    assert sum(map(len, lists)) == len(set.union(*lists)) == len(given)
    top = [line.strip().partition(":")[0] for line in EXAMPLES[name].splitlines() if line[:5].strip() and ":" in line]
    top = [key for key in top if not key.startswith("#")]
    assert set(top) <= set(given)
    unknown = [o for o in found.outcomes if o.unknown]
    assert [o.setting.key for o in unknown] == ["a_key_of_nobody"]
    assert found.lossy


@pytest.mark.parametrize("name", ["DPOConfig", "GRPOConfig", "SFTConfig"])
def test_a_saved_configuration_with_every_key(migrate: Migrate, name: str) -> None:
    """As `to_json_string` writes it: all fields, most of them null."""
    keys = [*CLASSES["TrainingArguments"], *CLASSES[name]]
    values = dict.fromkeys(keys) | {"learning_rate": 1e-6, "bf16": True, "lr_scheduler_type": "linear"}
    found = migrate(json.dumps(values, indent=1), "training_args.json", method=name.removesuffix("Config").lower())
    assert [o.setting.key for o in found.outcomes] == keys
    assert not found.lossy, [o.setting.key for o in found.of("missing") if o.changes]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_loads_as_what_was_checked(migrate: Migrate, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out.yaml"
    found = migrate(EXAMPLES[name], "dpo.yaml", output=output)
    assert output.read_text(encoding="utf-8") == found.text
    assert resolve(None, [output], files_exist=False).as_dict() == found.resolved.as_dict()


def test_the_command(call_plaudit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    file, output = tmp_path / "dpo.yaml", tmp_path / "config.yaml"
    file.write_text("model_name_or_path: m\ndataset_name: d\nlerning_rate: 1e-6\nrun_name: x\nddp_timeout: 5\n")
    ended = call_plaudit("migrate", file, "-o", output)
    assert (ended.status, ended.out) == (0, "")
    for words in (
        "TRL, dpo → plaudit dpo",
        "Taken over\n  model_name_or_path: m  model.path: m",
        "Different here\n  run_name: x  a run is named by its directory, run.dir",
        "No counterpart, and the result changes\n  lerning_rate: 1e-06  TRL has no such key; did you mean learning_",
        "No counterpart, and the result does not change\n  ddp_timeout: 5",
        f"  plaudit check {output}\n  plaudit dpo {output}\n",
    ):
        assert words in ended.err
    again = call_plaudit("migrate", file, "-o", output)
    assert again.status == 2
    assert "is there already" in again.err
    shown = call_plaudit("migrate", file, "--strict")
    assert shown.status == 2
    assert shown.out == output.read_text()
    machine = call_plaudit("migrate", file, "--json")
    account = json.loads(machine.out)
    assert (account["method"], account["lossy"]) == ("dpo", True)
    assert [e["key"] for e in account["no_counterpart"]] == ["lerning_rate", "ddp_timeout"]
    assert account["no_counterpart"][0]["unknown"]
    assert account["config"]["model"]["path"] == "m"


def test_the_command_takes_a_command(call_plaudit: Callable[..., Any]) -> None:
    words = ("trl", "dpo", "--model_name_or_path", "m", "--dataset_name", "d", "--beta", "0.3")
    ended = call_plaudit("migrate", "--strict", "--", *words)
    assert ended.status == 0
    assert "beta: 0.3" in ended.out


def test_what_does_not_load_is_said_with_our_reasons(call_plaudit: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text("model_name_or_path: m\ndataset_name: d\nloss_type: robust\nlabel_smoothing: 0.7\n")
    ended = call_plaudit("migrate", file)
    assert ended.status == 2
    assert "PL104" in ended.err
    assert "method.label_smoothing  must be less than 0.5" in ended.err


@pytest.mark.parametrize("tool", TABLES)
def test_keys_that_mean_something_together_are_read_by_a_part(tool: str) -> None:
    folder = Path(plaudit.__file__).parent / "migration"
    sources = [f.read_text(encoding="utf-8") for f in (*folder.glob("*.py"), *folder.glob("parts/*.py"))]
    parts = [key for key, rule in TABLES[tool][0].items() if rule.fate == "part"]
    assert not [key for key in parts if not any(f'"{key}"' in source for source in sources)]
