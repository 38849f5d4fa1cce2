"""The project's own files: the scripts parse, the constraints pin, the package ships what it reads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "scripts").glob("*.sh"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shell_scripts_parse_and_stop_at_errors(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "lint", "docs"])
def test_make_knows_its_targets(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "-c constraints.txt" in done.stdout
    assert "-m venv" in done.stdout


def test_every_install_goes_through_constraints() -> None:
    for file in [ROOT / "Makefile", *SCRIPTS]:
        for line in file.read_text(encoding="utf-8").splitlines():
            if "pip install" in line and not line.lstrip().startswith("#"):
                assert "-c " in line or "--no-deps" in line, f"{file.name}: {line}"


def test_lower_bounds_are_exact_versions() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "lower_bounds.py")], capture_output=True, text=True, check=True
    )
    pins = dict(line.split("==") for line in done.stdout.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"transformers", "peft", "datasets", "numpy", "pydantic"} <= set(pins)
    assert f"torch=={pins['torch']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"transformers>={pins['transformers']}" in project["optional-dependencies"]["train"]


def test_source_files_stay_readable() -> None:
    for file in (ROOT / "src").rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 500, f"{file} is two things in one"
