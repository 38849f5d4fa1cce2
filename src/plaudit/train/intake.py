"""Data on its way into a run: read, held against the model's limits, split, and made ready to be packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.config.schema import DataConfig
from plaudit.data.book import Witness
from plaudit.data.convert import Conversion, require_effect
from plaudit.data.prepare import PreparedData, prepare
from plaudit.data.render import Renderer
from plaudit.errors import ModelError, TrainingError
from plaudit.forest.layout import context_ids
from plaudit.methods.base import Method
from plaudit.models.load import Outline
from plaudit.types import PromptGroup


@dataclass(frozen=True, slots=True)
class Intake:
    """The groups of a run and what happened to the rows they came from."""

    train: PreparedData
    held_out: PreparedData | None
    own_eval: bool
    """whether the held-out rows are sources of their own, or a split of the training rows"""
    max_length: int | None = None
    """longest prompt + completion in tokens"""

    def report(self) -> dict[str, Any]:
        """For data_report.json; a split shares the report of the rows it was split from, which tells its size."""
        found = {"train": self.train.report.as_dict()}
        if self.held_out is not None:
            if self.own_eval:
                found["eval"] = self.held_out.report.as_dict()
            else:
                found["train"]["held_out"] = len(self.held_out.groups)
        return found

    def lines(self) -> list[str]:
        """For the log."""
        found = self.train.report.summary_lines()
        if self.own_eval and self.held_out is not None:
            found = [*found, *(f"eval {line}" for line in self.held_out.report.summary_lines())]
        return found

    def groups(self) -> list[PromptGroup]:
        return [*self.train.groups, *(self.held_out.groups if self.held_out else [])]


def _conversion(options: DataConfig, method: Method) -> Conversion | None:
    return Conversion.wanted(options.convert, options.pairs_per_prompt, options.feedback_threshold, method.data_kind)


def take_in(
    options: DataConfig, method: Method, outline: Outline, rows: Any, eval_rows: Any, *, reserve: int = 0
) -> Intake:
    """Read and check the data of a run: `read_in` for a model's outline.

    Raises:
        PlauditError: see `read_in`.
    """
    positions = None if outline.config is None else positions_of(outline.config)
    return read_in(options, method, outline.tokenizer, positions, rows, eval_rows, reserve=reserve)


def check_vocabulary(groups: Sequence[PromptGroup], tokenizer: Any, rows: int) -> None:
    """Find tokens that the embedding has no row for: torch would fail on them in the middle of a step.

    Args:
        rows: of the embedding.

    Raises:
        ModelError: PL309.
    """
    if len(tokenizer) <= rows:
        return
    for group in groups:
        for ids in (group.prompt_ids, *(c.token_ids for c in group.completions)):
            if len(ids) and int(ids.max()) >= rows:
                new = tokenizer.convert_ids_to_tokens(list(range(rows, len(tokenizer))))
                raise ModelError(
                    "PL309",
                    f"the tokenizer has {len(tokenizer)} tokens, the model {rows}, and a row has one of the others: "
                    f"{tokenizer.convert_ids_to_tokens(int(ids.max()))!r}",
                    where=str(group.source),
                    mend="use the model's own tokenizer (model.tokenizer), or give the tokens rows in the model: "
                    f"model.added_tokens={json.dumps(new[:20], ensure_ascii=False)}",
                )


def read_in(
    options: DataConfig,
    method: Method,
    tokenizer: Any,
    positions: int | None,
    rows: Any = None,
    eval_rows: Any = None,
    *,
    reserve: int = 0,
    witness: Witness | None = None,
) -> Intake:
    """Read and check the data of a run. No weights are needed for it.

    Args:
        positions: longest sequence that the model's positions allow; None = no limit.
        reserve: tokens that answers will take which are not there yet; a prompt must leave room for them.
        rows, eval_rows: rows in memory instead of `options.train` and `options.eval`.
        witness: is told what happens to each row.

    Raises:
        DataError: whatever is wrong with files, rows and templates.
        ModelError: PL307 when `max_length` exceeds the model's positions.
        TrainingError: PL401 for fewer groups than the method needs.
    """
    renderer = Renderer(tokenizer, None, options.system_prompt)
    limit = _length_limit(options, positions)
    room = _room(limit, reserve)
    convert = _conversion(options, method)

    def read(source: Any) -> PreparedData:
        return prepare(
            source,
            method.data_kind,
            renderer,
            max_length=room,
            overlong=options.overlong,
            invalid=options.invalid,
            max_drop_fraction=options.max_drop_fraction,
            train_on=method.train_on,
            convert=convert,
            reads=method.reads,
            witness=witness,
        )

    data = read(options.train if rows is None else rows)
    held_out: PreparedData | None = None
    own_eval = eval_rows is not None or bool(options.eval)
    if own_eval:
        held_out = read(options.eval if eval_rows is None else eval_rows)
    elif options.eval_fraction:
        data, held_out = data.split(options.eval_fraction)
    require_effect(convert, [part.report for part in (data, held_out) if part is not None])
    for part in (data, held_out):
        if part is not None and len(part.groups) < method.min_groups:
            raise TrainingError(
                "PL401",
                f"{method.name} needs at least {method.min_groups} rows, and there is {len(part.groups)}",
                where="data.train" if part is data else "data.eval",
                mend="add rows, or use a method that takes one",
            )
    intake = Intake(data, held_out, own_eval, limit)
    for group in intake.groups():
        mask_without_context(group, tokenizer.bos_token_id)
    return intake


def _length_limit(options: DataConfig, positions: int | None) -> int | None:
    if options.max_length is not None and positions is not None and options.max_length > positions:
        raise ModelError(
            "PL307",
            f"data.max_length is {options.max_length}, and the model has {positions} positions",
            where="data.max_length",
            mend=f"set it to {positions} or less, or use a model (or a RoPE scaling in its config) with more",
        )
    return options.max_length or positions


def _room(limit: int | None, reserve: int) -> int | None:
    if limit is not None and reserve >= limit:
        raise ModelError(
            "PL307",
            f"rollout.max_new_tokens is {reserve}, and prompt and answer may have {limit} tokens together",
            where="rollout.max_new_tokens",
            mend="lower it, so that prompts have room; or use a model with more positions (or raise data.max_length)",
        )
    return None if limit is None else limit - reserve


def positions_of(config: Any) -> int | None:
    """Longest sequence that the positions of a model with this (transformers) configuration allow; None = no limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def mask_without_context(group: PromptGroup, bos_id: int | None) -> None:
    """With nothing before it, a completion's first token is no target: its mask says so."""
    if len(context_ids(group, bos_id)) == 0:
        for completion in group.completions:
            completion.action_mask[:1] = False
