"""Which models a frontier is made of: the checkpoints of a run, or folders that somebody names."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plaudit.errors import EvaluationError, RunError
from plaudit.evaluation.frontier.results import ONE_CURVE
from plaudit.inference.locate import Located, holds_model, is_checkpoint, locate, run_of
from plaudit.runs import jsonl
from plaudit.runs.ledger import LEDGER_NAME
from plaudit.runs.rundir import (
    CHECKPOINTS_NAME,
    COMPLETE_NAME,
    CONFIG_NAME,
    KL_FOLDER,
    KL_GRID_NAME,
    MODEL_FOLDER,
    read_json,
)

_STEP = re.compile(r"step-(\d+)$")
_BEST = "best"
_OUTSIDE = "models in no run"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".distcp")


@dataclass(frozen=True, slots=True)
class Place:
    """A model on the disk.

    Attributes:
        name: for tables and pages.
        step: of its run; None where it is not known.
        run: the run directory that it lies in; None where it lies in none.
        curve: that it is a point of: one per run, and one for all models that lie in none.
    """

    name: str
    folder: Path
    step: int | None = None
    run: Path | None = None
    curve: str = ONE_CURVE

    def located(self, *, base: str | None, precision: str) -> Located:
        """Its parts; see `locate`."""
        return locate(self.folder, base=base, precision=precision)

    def identity(self) -> str:
        """A digest of its weight files: known without loading a model."""
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(p for p in self.folder.rglob("*") if p.suffix in _WEIGHTS and p.is_file()):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "blake2b").hexdigest()
            digest.update(f"{file.relative_to(self.folder)} {content}\n".encode())
        return digest.hexdigest()


def find_places(given: Sequence[str | Path]) -> list[Place]:
    """The models that are named, each once: a run directory stands for all states it has kept, in order of their steps;
    a folder of models or checkpoints for each of them; and a model, adapter or checkpoint folder for itself. The points
    of a curve stand together, and the curves in the order in which they are first named.

    Raises:
        EvaluationError: PL804, a folder is not there or holds no model; RunError: PL504, a file of a run is damaged.
    """
    found: list[Place] = []
    for source in given:
        path = Path(source).expanduser()
        places = list(_of_run(path)) if (path / CONFIG_NAME).is_file() else list(_of_folder(path))
        if not places:
            what = "holds no model, no checkpoint and no run" if path.is_dir() else "is no folder"
            raise EvaluationError(
                "PL804",
                f"it {what}",
                mend="give the directory of a run with checkpoints (checkpoint.keep says how many it keeps), or "
                "folders of models, adapters or checkpoints",
                where=str(path),
            )
        found += [p for p in places if p.folder.resolve() not in {f.folder.resolve() for f in found}]
    return _named(found)


def _of_run(run: Path) -> Iterator[Place]:
    """Every state once: `model`, `best` and a checkpoint can be of one step."""
    candidates = [*_kept(run), *((step_of(f), f) for f in _models_in(run / CHECKPOINTS_NAME))]
    states: dict[object, Place] = {}
    for step, folder in candidates:
        if holds_model(folder):
            states.setdefault(folder if step is None else step, Place("", folder, step, run))
    yield from sorted(states.values(), key=lambda p: (p.step is None, p.step or 0))


def _kept(run: Path) -> list[tuple[int | None, Path]]:
    """(step, folder) of the states whose step the run alone knows: their folders do not say it."""
    last, best = _ends(run)
    return [(last, run / MODEL_FOLDER), (best, run / _BEST), *_grid(run)]


def _ends(run: Path) -> tuple[int | None, int | None]:
    """The steps of `model` and of `best`: of a complete run, or of one that an alert has stopped; None = not known."""
    complete = read_json(run / COMPLETE_NAME)
    if complete is not None:
        summary = complete.get("summary", {})
        return summary.get("steps"), summary.get("best_step")
    stops = [event for event in jsonl.read_lines(run / LEDGER_NAME) if event.get("event") == "stopped"]
    return (stops[-1].get("step"), stops[-1].get("best_step")) if stops else (None, None)


def _grid(run: Path) -> Iterator[tuple[int | None, Path]]:
    """(step, folder) of the states that were kept for good."""
    file = run / KL_GRID_NAME
    try:
        entries = jsonl.loads(file.read_bytes()) if file.is_file() else []
        steps = {str(e["path"]): int(e["step"]) for e in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise RunError("PL504", "the file is damaged", where=str(file), mend="restore it from a copy") from error
    for folder in sorted(p for p in run.iterdir() if p.is_dir() and p.name.startswith(KL_FOLDER)):
        yield steps.get(folder.name, step_of(folder)), folder


def _of_folder(path: Path) -> Iterator[Place]:
    folders = [path] if holds_model(path) else _models_in(path)
    runs = {folder: run_of(folder) for folder in folders}
    steps = {f.resolve(): step for run in {r for r in runs.values() if r is not None} for step, f in _kept(run)}
    places = [Place("", f, steps.get(f.resolve(), step_of(f)), run) for f, run in runs.items()]
    yield from sorted(places, key=lambda p: (p.step is None, p.step or 0))


def _models_in(path: Path) -> list[Path]:
    """Folders in it that are a model, or hold one in `model`."""
    children = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".") if path.is_dir() else []
    found = [p if holds_model(p) else p / MODEL_FOLDER for p in children]
    return [p for p in found if holds_model(p)]


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint, from what it says itself or from its name."""
    if is_checkpoint(folder):
        return int(json.loads((folder / "progress.json").read_text(encoding="utf-8"))["step"])
    for name in (folder.name, folder.parent.name):
        if match := _STEP.search(name):
            return int(match[1])
    return None


def _named(places: Sequence[Place]) -> list[Place]:
    """With their curves, and short names that are made longer where they would be equal."""
    curves = _curves(places)
    places = [replace(p, curve=curves[_key(p)]) for p in places]
    order = list(curves.values())
    places.sort(key=lambda p: order.index(p.curve))
    names = [_state(p) if len(curves) == 1 or p.run is None else f"{p.curve} {_state(p)}" for p in places]
    longer = ["/".join(p.folder.absolute().parts[-3:]) for p in places]
    names = [long if names.count(short) > 1 else short for short, long in zip(names, longer, strict=True)]
    names = [str(p.folder) if names.count(n) > 1 else n for n, p in zip(names, places, strict=True)]
    return [replace(p, name=n) for p, n in zip(places, names, strict=True)]


def _key(place: Place) -> Path | None:
    return None if place.run is None else place.run.resolve()


def _curves(places: Sequence[Place]) -> dict[Path | None, str]:
    """The name of each run's curve, in their order: the run's own, with folders above it where two would be equal."""
    runs = {_key(p): p.run for p in places}
    if len(runs) == 1:
        return dict.fromkeys(runs, ONE_CURVE)
    parts = {key: (_OUTSIDE,) if run is None else Path(os.path.abspath(run)).parts for key, run in runs.items()}
    for depth in range(1, max(map(len, parts.values())) + 1):
        names = {key: Path(*own[-depth:]).as_posix() for key, own in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _state(place: Place) -> str:
    """Which state of its run it is; for a model that lies in no run its folder's name."""
    if place.run is not None and place.step is not None:
        return f"step {place.step}"
    folder = place.folder
    inner = folder.name == MODEL_FOLDER and (place.run is None or folder.parent.resolve() != place.run.resolve())
    return folder.parent.name if inner else folder.name
