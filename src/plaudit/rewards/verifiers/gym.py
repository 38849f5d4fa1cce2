"""Tasks of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760): made by name, scored by the package's rules.

An entry of a row says which task it is (name, seed, index, options); the task is made again where it is scored, so
nothing is lost on the way through a file. Scoring runs in worker processes with limits. Some of the package's rules
evaluate the answer as Python, which would let an answer do anything: there, only literals and plain arithmetic are
handed on (see `gym_worker.refused`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from plaudit.config.keys import closest
from plaudit.config.packages import need_packages
from plaudit.config.tree import parse_text
from plaudit.errors import ConfigError
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample, column
from plaudit.rewards.verifiers import gym_worker
from plaudit.rewards.verifiers.reading import boxes, tagged
from plaudit.rewards.workers import Limits, Reply, WorkerPool

_ENTRY = "reasoning_gym"


class GymOptions(RewardOptions):
    """How answers are read and scored."""

    column: str = _ENTRY
    """Column with the entry that `plaudit rewards tasks` writes."""
    tag: str | None = "answer"
    """Read what stands between <tag> and </tag> where it is there once; else a single box, else everything behind the
    thought."""
    partial: bool = False
    """Give the package's own share for answers that are partly right, or right with words around; default is 1 for a
    whole score and 0 otherwise. Some tasks give a little for any answer at all."""
    cpu_seconds: float = Field(10.0, gt=0)
    """Processor time of one answer; past it the answer is wrong."""
    wall_seconds: float = Field(120.0, gt=0)
    """Time on the clock of one answer; past it the result is a failure."""
    workers: int | None = Field(None, ge=1)
    """Processes; default is the number of cores."""


class GymReward(Reward):
    """1 where reasoning-gym's own rule for the task gives the answer its whole score."""

    kind = "reasoning_gym"
    title = "A task of reasoning-gym, scored by its own rule (`plaudit rewards tasks` makes them)"
    Options = GymOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need_packages((gym_worker.PACKAGE,), "the reward reasoning_gym", "gym")
        self._pool = WorkerPool(
            "plaudit.rewards.verifiers.gym_worker:score",
            workers=self.options.workers,
            limits=Limits(cpu_seconds=self.options.cpu_seconds, wall_seconds=self.options.wall_seconds),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The entry."""
        return (self.options.column,)

    def fingerprint(self) -> str:
        """With the package's version."""
        return f"{super().fingerprint()}:{gym_worker.packaged()}"

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        items: list[dict[str, Any] | str] = []
        for sample in samples:
            try:
                items.append(self._item(sample))
            except BadRow as problem:
                items.append(str(problem))
        replies = iter(self._pool.map([item for item in items if not isinstance(item, str)]))
        return [
            RewardResult.failed("bad_row", item) if isinstance(item, str) else self._result(next(replies))
            for item in items
        ]

    def _item(self, sample: Sample) -> dict[str, Any]:
        entry: Any = column(sample, self.options.column, "the task's entry")
        if isinstance(entry, str):
            try:
                entry = json.loads(entry)
            except ValueError as error:
                raise BadRow(f"the column {self.options.column!r} is no JSON: {error}") from error
        wanted = {"task": str, "seed": int, "size": int, "index": int, "options": dict}
        if not isinstance(entry, dict) or any(not isinstance(entry.get(k), t) for k, t in wanted.items()):
            raise BadRow(f"the column {self.options.column!r} must have {', '.join(wanted)}")
        reference = sample.row.get("answer")
        return {
            "entry": {key: entry[key] for key in wanted},
            "reference": None if reference is None else str(reference),
            "answer": self._answer(sample.final),
        }

    def _answer(self, text: str) -> str:
        inside = None if self.options.tag is None else tagged(text, self.options.tag)
        if inside is not None:
            return inside
        boxed = set(boxes(text))
        return boxed.pop() if len(boxed) == 1 else text.strip()

    def _result(self, reply: Reply) -> RewardResult:
        if reply.own_doing:
            return RewardResult.of(0, note="used up its limit", seconds=reply.seconds)
        if reply.kind != "value":
            kind: Any = reply.kind
            return RewardResult.failed(kind, reply.message, seconds=reply.seconds)
        said = reply.value
        if "bad_row" in said:
            return RewardResult.failed("bad_row", said["bad_row"], seconds=reply.seconds)
        share = min(max(said["score"], 0.0), 1.0)
        value = share if self.options.partial else float(share >= 1 - 1e-9)
        return RewardResult.of(value, parts={"share": share}, note=said.get("note", ""), seconds=reply.seconds)


def task_names() -> list[str]:
    """The tasks that can be made and scored.

    Raises:
        ConfigError: PL103, the package is missing.
    """
    need_packages((gym_worker.PACKAGE,), "the list of tasks", "gym")
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def task_rows(name: str, size: int, seed: int, options: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Rows of a task: prompt, answer, and the entry in the column reasoning_gym.

    Args:
        options: key=value of the task's own configuration.

    Raises:
        ConfigError: PL102, there is no such task, or it refuses the options; PL103.
    """
    if name not in task_names():
        near = closest(name, task_names(), 0.6)
        raise ConfigError(
            "PL102",
            f"there is no task {name!r}" + (f"; did you mean {near}?" if near else ""),
            mend="`plaudit rewards tasks` lists them",
            where="task",
        )
    given: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(
                "PL102",
                f"the option {option!r} is not key=value",
                where="--option",
                mend="for example --option min_digits=2",
            )
        given[key] = parse_text(value)
    step = 100
    asked: list[dict[str, Any]] = [
        {"task": name, "seed": seed, "size": size, "options": given, "start": start, "end": min(start + step, size)}
        for start in range(0, size, step)
    ]
    pool = WorkerPool("plaudit.rewards.verifiers.gym_worker:make", limits=Limits(600, 1200))
    try:
        replies = pool.map(asked)
    finally:
        pool.close()
    for item, reply in zip(asked, replies, strict=True):
        said = reply.value if reply.kind == "value" else {"refused": f"{reply.kind}: {reply.message}"}
        if "refused" in said:
            raise ConfigError(
                "PL102",
                f"the task cannot be made: {said['refused']}",
                where=name,
                mend="change the options of the task that it names",
            )
        for index, (question, answer) in enumerate(said["problems"], start=item["start"]):
            entry = {"task": name, "seed": seed, "size": size, "index": index, "options": given}
            yield {"prompt": question, "answer": answer, _ENTRY: entry}
