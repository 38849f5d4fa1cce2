"""JSON that a schema accepts.

Some answers take exponential time against some schemas (patterns, branches that refer to each other), so validation
runs in worker processes with limits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from plaudit.config.packages import need_packages
from plaudit.errors import ConfigError
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample, column
from plaudit.rewards.verifiers.schema_worker import BadSchema, validator_of
from plaudit.rewards.workers import Limits, Reply, WorkerPool


class SchemaOptions(RewardOptions):
    """Which schema, and how strictly."""

    file: str | None = None
    """A file with the schema; default is a schema per row."""
    column: str = "schema"
    """Column with the schema, as an object or as JSON text."""
    partial: bool = False
    """Give the share of the schema's required properties that are right, instead of 0 or 1."""
    fenced: bool = True
    """A single block between ``` is read where the answer is more than JSON."""
    characters: int = Field(100_000, ge=1)
    """A longer answer is wrong."""
    cpu_seconds: float = Field(5.0, gt=0)
    """Processor time of one answer; one that needs more is wrong."""
    wall_seconds: float = Field(60.0, gt=0)
    """Time on the clock of one answer; past it the result is a failure."""
    workers: int | None = Field(None, ge=1)
    """Processes; default is the number of cores."""


class SchemaReward(Reward):
    """1 where the answer is one JSON value that the schema accepts.

    NaN, Infinity, and a key that is given twice are no JSON here. A reference to a schema elsewhere is not followed.
    Formats (date, email …) are checked as far as the package jsonschema does without further packages.
    """

    kind = "json_schema"
    title = "The answer is JSON that a schema accepts"
    Options = SchemaOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need_packages(("jsonschema",), "the reward json_schema", "verify")
        self._fixed = None if self.options.file is None else _of_file(Path(self.options.file))
        self._pool = WorkerPool(
            "plaudit.rewards.verifiers.schema_worker:check",
            workers=self.options.workers,
            limits=Limits(cpu_seconds=self.options.cpu_seconds, wall_seconds=self.options.wall_seconds),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The schema, where no file has it."""
        return () if self.options.file is not None else (self.options.column,)

    def fingerprint(self) -> str:
        """With the content of the file."""
        return f"{super().fingerprint()}:{self._fixed}"

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        asked = [self._asked(sample) for sample in samples]
        replies = iter(self._pool.map([item for item in asked if isinstance(item, dict)]))
        return [_result(next(replies)) if isinstance(item, dict) else item for item in asked]

    def _asked(self, sample: Sample) -> dict[str, Any] | RewardResult:
        """What a worker is asked, or what needs no asking."""
        try:
            schema = self._fixed or _text(column(sample, self.options.column, "the schema"))
        except BadRow as problem:
            return RewardResult.failed("bad_row", str(problem))
        answer = sample.final
        text = self._json_text(answer.strip()) if len(answer) <= self.options.characters else None
        if text is None:  # the schema is looked at all the same: a bad row is one whatever the answer is
            text = "too long, and no JSON"
        return {"schema": schema, "text": text, "partial": self.options.partial}

    def _json_text(self, text: str) -> str:
        if self.options.fenced and text[:1] not in ("{", "[") and text.count("```") == 2:
            _, inside, _ = text.split("```")
            first, line_end, rest = inside.partition("\n")
            if line_end and first.strip().lower() in ("", "json"):
                return rest
        return text


def _of_file(path: Path) -> str:
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        validator_of(text)
    except (OSError, ValueError) as error:
        what = str(error) if isinstance(error, BadSchema) else f"the schema cannot be read: {error}"
        raise ConfigError("PL102", what, where=str(path), mend="give a file with a JSON schema") from error
    return text


def _text(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"the schema is no JSON: {error}") from error


def _result(reply: Reply) -> RewardResult:
    if reply.own_doing:
        return RewardResult.of(0, note="took more time or memory than a comparison may", seconds=reply.seconds)
    if reply.kind != "value":
        kind: Any = reply.kind
        return RewardResult.failed(kind, reply.message, seconds=reply.seconds)
    if "bad_schema" in reply.value:
        return RewardResult.failed("bad_row", reply.value["bad_schema"], seconds=reply.seconds)
    return RewardResult.of(reply.value["value"], note=reply.value["note"], seconds=reply.seconds)
