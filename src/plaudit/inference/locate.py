"""Find and load what a run has produced: a run directory, an adapter folder, or any model that can be trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.schema import ModelConfig
from plaudit.errors import ConfigError, ModelError
from plaudit.runs.rundir import CONFIG_NAME, ENVIRONMENT_NAME, MODEL_FOLDER, read_config

if TYPE_CHECKING:
    from plaudit.models.load import LoadedModel

_ADAPTER = "adapter_config.json"
_WEIGHTS = "weights.safetensors"
_SHARDS = "state"
"""In the place of weights.safetensors where the weights were sharded over several processes."""
_PROGRESS = "progress.json"
_DEPTH = 3
"""How far above a folder its run may lie: RUN/checkpoints/step-00000010/adapter."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model is.

    Attributes:
        config: how its base (or itself) is loaded.
        adapter: adapter folder to put on the base, or None.
        system_prompt: the one that training used.
        weights: of a checkpoint of full fine-tuning, to put into the model that the run started from; or None.
    """

    config: ModelConfig
    adapter: Path | None = None
    system_prompt: str | None = None
    weights: Path | None = None


def locate(source: str | Path, *, base: str | None = None, precision: str = "auto") -> Located:
    """Find the parts of a trained model.

    Args:
        source: run directory (or its `best` folder, or a checkpoint), adapter folder, model folder, hub id or .gguf
            file.
        base: the base model, where an adapter does not name a usable one.

    Raises:
        ConfigError: PL102, an option does not fit; ModelError: PL301 or PL306, something is not there.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(
            "PL102", f"precision {precision!r} is not known", where="--precision", mend="auto, fp32 or bf16"
        )
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() != ".gguf":
        raise ModelError(
            "PL301",
            "this is a file, and not a model",
            where=str(source),
            mend="give a run directory, a model or adapter folder, a hub id or a .gguf file",
        )
    if (path / CONFIG_NAME).is_file():
        return _of_run(path, path / MODEL_FOLDER, base, precision)
    if path.is_dir() and (path.absolute().parent / CONFIG_NAME).is_file():
        return _of_run(path.absolute().parent, path, base, precision)
    run = run_of(path)
    if is_checkpoint(path):
        return _of_checkpoint(run, path, base, precision)
    if run is not None:
        return _of_run(run, path, base, precision)
    if (path / _ADAPTER).is_file():
        return Located(_model_config({"path": base or _named_base(path)}, precision), path)
    if base is not None:
        raise ConfigError("PL102", "--base is only for adapters", where=str(source), mend="leave it out")
    return Located(_model_config({"path": str(source)}, precision))


def is_checkpoint(path: Path) -> bool:
    """Whether the folder is a checkpoint that a run goes on from."""
    return (path / _PROGRESS).is_file() and ((path / _WEIGHTS).is_file() or (path / _SHARDS).is_dir())


def holds_model(path: Path) -> bool:
    """Whether `locate` finds a model in the folder itself: an adapter, a whole model, or a checkpoint."""
    return is_checkpoint(path) or any((path / name).is_file() for name in (_ADAPTER, "config.json"))


def run_of(path: Path) -> Path | None:
    """The run directory that a folder lies in; None where it lies in none."""
    above = path.absolute().parents[:_DEPTH] if path.is_dir() else []
    return next((p for p in above if (p / CONFIG_NAME).is_file() and (p / ENVIRONMENT_NAME).is_file()), None)


def start_of(run: Path, *, precision: str = "auto") -> Located:
    """The model that a run started from: its `model.path`, with the adapter that it went on from, if any.

    Raises:
        RunError: PL501, there is no run; PL504, its configuration is damaged.
    """
    values = read_config(run)
    adapter = (values.get("lora") or {}).get("path")
    config = _model_config(dict(values["model"]), precision)
    return Located(config, None if adapter is None else Path(adapter).expanduser(), values["data"].get("system_prompt"))


def _of_checkpoint(run: Path | None, folder: Path, base: str | None, precision: str) -> Located:
    if run is None:
        raise ModelError(
            "PL301",
            "a checkpoint holds what was trained and no model; that is named by config.yaml of its run, which is not "
            "above it",
            where=str(folder),
            mend="leave it in the run directory, or give the run's folder model",
        )
    if (folder / "adapter" / _ADAPTER).is_file():
        return _of_run(run, folder / "adapter", base, precision)
    if base is not None:
        raise ConfigError("PL102", "--base is only for adapters", where=str(folder), mend="leave it out")
    start = start_of(run, precision=precision)
    return Located(
        start.config, None, start.system_prompt, folder / (_SHARDS if (folder / _SHARDS).is_dir() else _WEIGHTS)
    )


def _model_config(values: dict[str, Any], precision: str) -> ModelConfig:
    return ModelConfig.model_validate({**values, "precision": precision, "gradient_checkpointing": False})


def _of_run(run: Path, folder: Path, base: str | None, precision: str) -> Located:
    values = read_config(run)
    section = dict(values["model"])
    system = values["data"].get("system_prompt")
    if (folder / _ADAPTER).is_file():
        config = _model_config({**section, "path": base or section["path"]}, precision)
        return Located(config, folder, system)
    if not (folder / "config.json").is_file():
        raise ModelError(
            "PL301", "the run has no model yet", where=str(folder), mend="finish the run: give its command again"
        )
    if base is not None:
        raise ConfigError("PL102", "--base is only for adapters", where=str(run), mend="leave it out")
    # The folder holds the tokenizer with its template, and the added tokens are part of it.
    kept = {"path": str(folder), "trust_remote_code": section.get("trust_remote_code", False)}
    return Located(_model_config(kept, precision), None, system)


def _named_base(adapter: Path) -> str:
    values = json.loads((adapter / _ADAPTER).read_text(encoding="utf-8"))
    named = values.get("base_model_name_or_path")
    if not named:
        raise ModelError("PL306", "the adapter does not name its base model", where=str(adapter), mend="give --base")
    return str(named)


def load_located(found: Located) -> LoadedModel:
    """Load it for inference, the adapter on its base.

    Raises:
        ModelError: PL301 or PL303 from loading, or where a checkpoint is of another model; PL306 when the adapter
            belongs to another base.
    """
    from plaudit.models.load import load_model

    loaded = load_model(found.config, None, train=False)
    if found.weights is not None:
        from plaudit.models.trained import read_trained

        read_trained(loaded.model, found.weights)
        loaded.notes.append(f"weights of {found.weights.parent}")
    if found.adapter is not None:
        from peft import PeftModel

        from plaudit.models.adapters import check_base, without_peft_noise

        check_base(loaded.model, found.adapter)
        with without_peft_noise():
            loaded.model = PeftModel.from_pretrained(loaded.model, str(found.adapter), autocast_adapter_dtype=False)
        loaded.notes.append(f"adapter {found.adapter}")
    loaded.model.eval()
    return loaded
