"""From a trainer to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import RunError
from plaudit.train import checkpoint
from plaudit.train.parallel import World
from plaudit.train.progress import Progress

if TYPE_CHECKING:
    from plaudit.train.loop import Trainer


class CheckpointStore:
    """Saves and restores a trainer.

    Args:
        run: the run directory; only the main process writes to it.
        keep: how many recent checkpoints stay.
        export: adds files to a checkpoint (an adapter in PEFT's format).
    """

    def __init__(self, run: Any, keep: int, world: World, export: Callable[[Any], None] | None = None) -> None:
        self.run, self.keep, self.world, self.export = run, keep, world, export

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the trainer's state; older ones are pruned, never the best."""
        progress = trainer.progress
        source = trainer.source.state()  # first: it may wait for work that draws
        states = self.world.gather(checkpoint.random_state())
        tokens = sum(self.world.gather(progress.computed_tokens))
        pending = trainer.pending()
        if self.world.is_main and not (self.run.checkpoints / f"step-{progress.step:08d}").exists():
            snapshot = checkpoint.Snapshot(
                step=progress.step,
                weights=trainer.masters.state(),
                optimizer=trainer.optimizer.state_dict(),
                progress={
                    **{name: value for name, value in asdict(progress).items() if name != "step"},
                    "computed_tokens": tokens,
                    "pending": pending,
                    "method_state": trainer.method.state.model_dump(mode="json"),
                    "alerts": trainer.alerts.state_dict(),
                    "identity": dict(trainer.identity),
                },
                random={str(rank): state for rank, state in enumerate(states)},
                frozen=trainer.moving.state() if trainer.moving else {},
                source=source,
            )
            path = checkpoint.save(self.run.checkpoints, snapshot, self.export)
            self.run.log_event("checkpoint", step=progress.step, path=path.name)
            self._prune(progress)
        self.world.barrier()

    def _prune(self, progress: Progress) -> None:
        checkpoint.prune(self.run.checkpoints, self.keep, {progress.best_step} if progress.best_step else set())

    def restore(self, trainer: Trainer) -> bool:
        """Bring the trainer to the newest checkpoint; False if there is none.

        Lines that the resumed run will write again are removed.

        Raises:
            RunError: PL502 for a damaged checkpoint, or when model or data are not what the run started from.
        """
        if self.world.is_main:
            checkpoint.clean(self.run.checkpoints)
        self.world.barrier()
        found = checkpoint.complete(self.run.checkpoints)
        if not found:
            if self.world.is_main:
                self.run.truncate_after(-1)
            return False
        snapshot = checkpoint.load(found[-1])
        values = snapshot.progress
        check_identity(values.pop("identity"), trainer.identity, self.run.path)
        trainer.masters.load(snapshot.weights)
        trainer.optimizer.load_state_dict(snapshot.optimizer)
        if trainer.moving:
            trainer.moving.load(snapshot.frozen)
        trainer.method.state = trainer.method.State.model_validate(values.pop("method_state"))
        trainer.alerts.load_state_dict(values.pop("alerts"))
        trainer.restore_pending(values.pop("pending"))
        trainer.source.restore(snapshot.source)
        trainer.progress = Progress(step=snapshot.step, **values)
        if not self.world.is_main:
            trainer.progress.computed_tokens = 0
        if len(snapshot.random) != self.world.size:
            trainer.observers.on_message(
                f"the checkpoint is of {len(snapshot.random)} processes and this run has {self.world.size}: it goes on "
                "with the same data and the same weights, but not with the same bits"
            )
        checkpoint.restore_random_state(snapshot.random.get(str(self.world.rank)) or snapshot.random["0"])
        if self.world.is_main:
            self.run.truncate_after(snapshot.step, evaluated=False)
            self._prune(trainer.progress)
        return True


def check_identity(saved: Mapping[str, str], found: Mapping[str, str], run: Path) -> None:
    """Raise RunError PL502 when something that the run started from is another one now."""
    changed = [name for name in saved if saved[name] != found.get(name)]
    if changed:
        raise RunError(
            "PL502",
            f"{' and '.join(changed)} changed since the run was started, so what goes on would be another run",
            where=str(run),
            mend="bring back what the run was started with, or start another one (run.if_exists=new, or run.dir=…)",
        )
