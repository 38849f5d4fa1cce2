"""The check that every training makes by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import plaudit as package
from plaudit.train import rehearsal
from tests.preflight.checks import RUN


class Heard:
    """Messages and the plan of a run."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.plan: dict[str, Any] = {}

    def on_message(self, text: str) -> None:
        self.said.append(text)

    def on_start(self, plan: dict[str, Any]) -> None:
        self.plan = dict(plan)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **named: None


class TestBeforeTraining:
    def train(self, place: Path, name: str, **options: Any) -> tuple[Any, Heard]:
        heard = Heard()
        run = {"dir": name, **options.pop("run", {})}
        given = {"model": "tiny-model", "data": "pairs.jsonl", **RUN, "max_steps": 3, "epochs": None, **options}
        return package.train("dpo", **given, run=run, observers=[heard]), heard

    def test_it_runs_by_itself_and_is_kept(self, place: Path) -> None:
        result, heard = self.train(place, "r")
        kept = json.loads((result.run_dir / "check.json").read_text())
        assert kept["counts"]["FAIL"] == 0
        assert {"memory", "disk", "time"} <= set(heard.plan)
        assert {f["topic"] for f in kept["findings"]} >= {"memory", "forward and backward", "disk", "end of answers"}
        assert [s for s in heard.said if s.startswith("check: held-out data: there is none")]
        assert [s for s in heard.said if s.startswith("check: ") and s.endswith(" to look at")]

    def test_nothing_that_is_computed_changes(self, place: Path) -> None:
        with_check, _ = self.train(place, "a", lora={"r": 2, "dropout": 0.1})
        without, heard = self.train(place, "b", lora={"r": 2, "dropout": 0.1}, run={"check": "off"})
        assert not (without.run_dir / "check.json").exists()
        assert "memory" not in heard.plan
        for name in ("loss", "rewards/margins", "grad_norm"):
            assert with_check.metrics[name] == without.metrics[name]

    def test_quick_computes_no_passes(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rehearsal, "materialise", lambda *a: pytest.fail("a forward pass"))
        result, heard = self.train(place, "r", run={"check": "quick"})
        assert "disk" in heard.plan
        assert "memory" not in heard.plan
        assert (result.run_dir / "check.json").exists()

    def test_a_run_that_goes_on_is_not_measured_again(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, _ = self.train(place, "whole")
        (place / "whole" / "COMPLETE").unlink()
        for folder in (place / "whole" / "checkpoints").iterdir():
            if folder.name.endswith("3"):
                shutil.rmtree(folder)
        monkeypatch.setattr(rehearsal, "materialise", lambda *a: pytest.fail("a forward pass"))
        again, heard = self.train(place, "whole")
        assert again.metrics["loss"] == whole.metrics["loss"]
        assert "resumed" in heard.plan
