"""Writes the models of a run: the last state, the best one, and the adapter of a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import nn

from plaudit.errors import RunError
from plaudit.models.adapters import save_adapter
from plaudit.models.forest_model import ForestModel
from plaudit.models.origin import Origin
from plaudit.runs.rundir import BEST_FOLDER, MODEL_FOLDER
from plaudit.train.export import save_model, usable_model
from plaudit.train.parallel import World
from plaudit.train.score_range import score_range
from plaudit.train.sharding import Sharding
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from plaudit.train.loop import Trainer


class ModelKeeper:
    """Saves a run's model. Every process calls it alike, and the main one writes.

    Args:
        run: the run directory.
        model: what is trained.
        tokenizer: saved beside it.
        origin: what the model started from.
        groups: the training data; how far a reward model's scores reach on it is kept with the model.
        tokens: packed tokens of one forward pass.
        sharding: where the weights are sharded; None = every process has them whole.
    """

    def __init__(
        self,
        run: Any,
        world: World,
        model: ForestModel,
        tokenizer: Any,
        origin: Origin,
        groups: Sequence[PromptGroup],
        tokens: int,
        sharding: Sharding | None,
    ) -> None:
        self._run, self._world, self._model, self._tokenizer = run, world, model, tokenizer
        self._origin, self._groups, self._tokens, self._sharding = origin, groups, tokens, sharding

    def write(self, folder: Path) -> None:
        """The model as it is now, with what a reward model's scores reach."""
        origin = self._origin
        if self._model.is_reward and self._groups and (self._world.is_main or self._model.sharded):
            together = self._world if self._model.sharded else World()
            origin = replace(origin, scores=score_range(self._model, self._groups, self._tokens, together))
        self._write(folder, origin)

    def write_light(self, folder: Path) -> None:
        """The same without a look at its scores."""
        self._write(folder, self._origin)

    def _write(self, folder: Path, origin: Origin) -> None:
        if self._sharding is None:
            if self._world.is_main:
                self._save(self._model, folder, origin)
            return
        alone = self._model.has_adapters and not self._model.is_reward
        with self._sharding.gathered(self._model, trained=alone) as whole:
            if self._world.is_main:
                self._save(whole, folder, origin)

    def _save(self, model: ForestModel, folder: Path, origin: Origin) -> None:
        try:
            save_model(model, self._tokenizer, folder, origin)
        except (OSError, SafetensorError) as error:
            raise RunError(
                "PL505",
                f"the model cannot be written: {getattr(error, 'strerror', None) or error}",
                where=str(folder),
                mend="make room or permit writing, then give the same command: it goes on from the last checkpoint",
            ) from error

    def adapter_writer(self) -> Callable[[Path], None] | None:
        """What adds the adapter as it is now to a checkpoint, on the main process; None without an adapter."""
        if not self._model.has_adapters:
            return None
        if self._sharding is None:
            return lambda folder: save_adapter(self._model.model, folder / "adapter", self._origin)
        whole = self._sharding.gather(self._model, trained=True)
        return lambda folder: save_adapter(whole.model, folder / "adapter", self._origin)

    def write_all(self, trainer: Trainer, say: Callable[[str], None]) -> None:
        """`model/` is the last state; `best/` the best one when it is another."""
        progress = trainer.progress
        self.write(self._run.path / MODEL_FOLDER)
        if progress.best_step == 0:
            say(
                f"{trainer.config.eval.best_metric} was best before the first step: no evaluated state is better than "
                "the model that the run started from, and there is no best/"
            )
        elif progress.best_step not in (None, progress.step):
            if self._world.is_main or self._model.sharded:
                last = {name: w.clone() for name, w in trainer.masters.state().items()}
                trainer.store.restore_weights(progress.best_step, trainer.masters)
                self.write(self._run.path / BEST_FOLDER)
                trainer.masters.load(last)
            return
        if self._world.is_main:
            # of when the run was stopped, before it went on
            shutil.rmtree(self._run.path / BEST_FOLDER, ignore_errors=True)

    def usable(self) -> nn.Module:
        """The trained model for whoever called. Of a sharded one the main process has the weights, the others none."""
        return usable_model(self._model if self._sharding is None else self._sharding.gather(self._model))
