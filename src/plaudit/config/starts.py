"""Models that a run begins with, where the directory of an earlier run is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plaudit.config.checks import Finding
from plaudit.config.schema import RunConfig
from plaudit.runs.rundir import CONFIG_NAME, MODEL_FOLDER, read_config


def starts(run: RunConfig) -> dict[str, str]:
    """Dotted key → model that something begins with."""
    found = {"model.path": run.model.path, "critic.path": run.critic.path if run.critic else None}
    return {key: path for key, path in found.items() if path is not None}


def trained_model(path: str) -> str:
    """The folder with the model that a run trained, where `path` is its directory; else `path`."""
    is_run = (Path(path).expanduser() / CONFIG_NAME).is_file()
    return str(Path(path) / MODEL_FOLDER) if is_run else path


def runs_without_model(run: RunConfig) -> Iterator[Finding]:
    """Directories of runs that have no model to begin with."""
    for key, path in starts(run).items():
        folder = trained_model(path)
        if folder == path:
            continue
        there = Path(folder).expanduser()
        if (there / "adapter_config.json").is_file():
            what = f"the run {path} trained an adapter, and no whole model"
            base = read_config(Path(path).expanduser()).get("model", {}).get("path")
            more = f"; to train the adapter on, --model {base} --lora.path {folder}" if key == "model.path" else ""
            yield key, what, f"`plaudit merge {path} FOLDER`, and the folder in its place{more}"
        elif not (there / "config.json").is_file():
            yield key, f"the run {path} has no model yet", "finish it: give its command again"
