"""The demo from its first line to its last, on a model that learns nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.mark.parametrize("method", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_the_demo_runs_through(tiny_model_dir: Path, preference_file: Path, tmp_path: Path, method: str) -> None:
    """With data of one's own, which needs no packaged model; the training writes where the command is given."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 2048  # the untouched text is long in the tiny model's tokens
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, str(DEMO / "run_demo.py"), "--model", str(model), "--precision", "fp32"]
    done = subprocess.run(
        [*command, "--method", method, "--data", str(preference_file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "preference accuracy" in done.stdout
    [written] = (tmp_path / "runs").glob("*/demo.json")
    numbers = json.loads(written.read_text(encoding="utf-8"))
    assert 0 <= numbers["preference_accuracy"]["value"] <= 1
    assert numbers["kl"]["value"] > -1
    assert (written.parent / "report.html").is_file()
