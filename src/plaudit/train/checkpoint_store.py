"""From a trainer to a checkpoint and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.errors import RunError
from plaudit.models.masters import Masters
from plaudit.runs import checkpoints
from plaudit.train import checkpoint, sharded_checkpoint
from plaudit.train.optimizer_state import by_name, put_moments
from plaudit.train.parallel import World
from plaudit.train.progress import Progress

if TYPE_CHECKING:
    from plaudit.train.loop import Trainer


Export = Callable[[Path], None]


class CheckpointStore:
    """Saves and restores a trainer.

    Args:
        run: the run directory; only the main process writes to it.
        keep: how many recent checkpoints stay.
        export: gives what adds files to a checkpoint (an adapter in PEFT's format), or None; asked on every process
            where the weights are sharded.
    """

    def __init__(self, run: Any, keep: int, world: World, export: Callable[[], Export | None] = lambda: None) -> None:
        self.run, self.keep, self.world, self.export = run, keep, world, export

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the trainer's state; older ones are pruned, never the best."""
        progress = trainer.progress
        source = trainer.source.state()  # first: it may wait for work that draws
        states = self.world.gather(checkpoint.random_state())
        tokens = sum(self.world.gather(progress.computed_tokens))
        pending = trainer.pending()
        sharded = trainer.model.sharded
        there = (
            self.world.from_main(self._path(progress.step).exists()) if sharded else self._path(progress.step).exists()
        )
        if (self.world.is_main or sharded) and not there:
            snapshot = checkpoint.Snapshot(
                step=progress.step,
                weights={} if sharded else trainer.masters.state(),
                optimizer={} if sharded else trainer.optimizer.state_dict(),
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
            if sharded:
                tensors = sharded_checkpoint.tensors_of(trainer.masters, trainer.optimizer)
                path = sharded_checkpoint.save(self.run.checkpoints, snapshot, tensors, self.world, self.export())
            else:
                path = checkpoint.save(self.run.checkpoints, snapshot, self.export())
            if self.world.is_main:
                self.run.log_event("checkpoint", step=progress.step, path=path.name)
                self._prune(progress)
        self.world.barrier()

    def _path(self, step: int) -> Path:
        return Path(self.run.checkpoints) / checkpoints.name_of(step)

    def _prune(self, progress: Progress) -> None:
        checkpoint.prune(self.run.checkpoints, self.keep, {progress.best_step} if progress.best_step else set())

    def restore(self, trainer: Trainer) -> bool:
        """Bring the trainer to the newest checkpoint; False if there is none.

        Lines that the resumed run will write again are removed.

        Raises:
            RunError: PL502 for a damaged checkpoint, or when model or data are not what the run started from.
        """
        if self.world.is_main:
            checkpoints.clean(self.run.checkpoints)
        self.world.barrier()
        found = checkpoints.complete(self.run.checkpoints)
        if not found:
            if self.world.is_main:
                self.run.truncate_after(-1)
            return False
        snapshot = self._load(found[-1])
        values = snapshot.progress
        check_identity(values.pop("identity"), trainer.identity, self.run.path)
        self._restore_tensors(trainer, snapshot, found[-1])
        if trainer.moving:
            trainer.moving.load(snapshot.frozen)
        trainer.method.state = trainer.method.State.model_validate(values.pop("method_state"))
        trainer.alerts.load_state_dict(values.pop("alerts"))
        trainer.restore_pending(values.pop("pending"))
        trainer.source.restore(snapshot.source)
        trainer.progress = Progress(step=snapshot.step, **values)
        if not self.world.is_main:
            trainer.progress.computed_tokens = 0
        then = _described(len(snapshot.random), checkpoint.is_sharded(found[-1]))
        now = _described(self.world.size, trainer.model.sharded)
        if then != now:
            trainer.observers.on_message(
                f"the checkpoint is of {then} and this run has {now}: it goes on "
                "with the same data and the same weights, but not with the same bits"
            )
        checkpoint.restore_random_state(snapshot.random.get(str(self.world.rank)) or snapshot.random["0"])
        if self.world.is_main:
            self.run.truncate_after(snapshot.step, evaluated=False)
            self._prune(trainer.progress)
        return True

    def _load(self, path: Path) -> checkpoint.Snapshot:
        """Read a checkpoint; the processes share the work of checking it, and an error of one is an error of all."""
        found: list[checkpoint.Snapshot] = []

        def work() -> list[None]:
            found.append(checkpoint.load(path, self.world.rank, self.world.size))
            return []

        self.world.together(work)
        return found[0]

    def _restore_tensors(self, trainer: Trainer, snapshot: checkpoint.Snapshot, path: Path) -> None:
        if checkpoint.is_sharded(path):
            sharded_checkpoint.restore(path, trainer.masters, trainer.optimizer)
            return
        trainer.masters.load(snapshot.weights)
        if trainer.model.sharded:
            names = trainer.masters.weights
            put_moments(trainer.optimizer, names, by_name(snapshot.optimizer, trainer.optimizer, names))
        else:
            trainer.optimizer.load_state_dict(snapshot.optimizer)

    def restore_weights(self, step: int, masters: Masters) -> None:
        """Give the masters the weights of a checkpoint.

        Raises:
            RunError: PL502 for a damaged checkpoint.
        """
        path = self._path(step)
        put_weights(path, checkpoint.load(path), masters)


def put_weights(path: Path, snapshot: checkpoint.Snapshot, masters: Masters) -> None:
    """Give the masters the weights of a checkpoint that was read."""
    if checkpoint.is_sharded(path):
        sharded_checkpoint.restore_weights(path, masters)
    else:
        # Of a critic in it nothing may be wanted any more.
        masters.load({name: snapshot.weights[name] for name in masters.weights})


def _described(processes: int, sharded: bool) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}{' with sharded weights' if sharded else ''}"


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
