"""Takes rows in as a run would, packs an epoch of them, and reads the masks back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plaudit.config.load import Resolved
from plaudit.config.schema import DataConfig
from plaudit.data.readers import read
from plaudit.data.recordset import source_list
from plaudit.data.render import Renderer
from plaudit.data.report import Lengths
from plaudit.errors import DataError
from plaudit.inspection.cells import Speller, visible
from plaudit.inspection.examples import LONGEST, Choice, Exhibitor, choose
from plaudit.inspection.histogram import Histogram
from plaudit.inspection.mask import Packer, WithoutWeights
from plaudit.inspection.packing import Ends, Packing, Sampling, Tally, pack_epoch
from plaudit.inspection.results import DroppedRow, Inspection
from plaudit.inspection.witness import Notes
from plaudit.methods.base import Method
from plaudit.models.load import Outline, load_outline
from plaudit.models.positions import PositionRegime
from plaudit.train.intake import Intake, positions_of, read_in
from plaudit.train.schedule import Schedule
from plaudit.train.token_budget import UNMEASURED
from plaudit.types import Source

_DROPPABLE = {"PL200", "PL204", "PL205", "PL206", "PL211"}
"""Errors about single rows: without these rows there is something to look at."""


def inspect_data(
    resolved: Resolved, choice: Choice, *, rows: Any = None, eval_rows: Any = None, by_columns: bool = False
) -> Inspection:
    """Look at the data that `resolved` would be trained on.

    Args:
        choice: which rows are shown.
        rows, eval_rows: rows in memory instead of `data.train` and `data.eval`.
        by_columns: whether nobody named the method.

    Raises:
        PlauditError: PL102 for a row that is not there; PL2xx, PL301, PL303, PL307 and PL401 where nothing is left to
            look at. What only keeps training from starting is in the result's `problem`.
    """
    method = resolved.method(resolved.method_config)
    outline = load_outline(resolved.run.model)
    looked = _Looked(resolved, method, outline, rows, eval_rows)
    intake, groups = looked.intake, looked.intake.groups()
    method.observe(intake.train.groups)
    renderer = Renderer(outline.tokenizer)
    stops, eos = frozenset(renderer.stop_token_ids), renderer.encoder.eos_id
    speller = Speller(outline.tokenizer)
    tally = Tally(Ends(scored=not looked.packer.reads_targets))
    packing, sampling = looked.packing(tally, stops), looked.sampling()
    exhibitor = Exhibitor(looked.packer, speller, looked.notes, stops)
    trained = len(intake.train.groups)
    files = [(f.path, f.rows) for report in looked.reports for f in report.files]
    gone = {refusal.source for refusal in looked.notes.refusals}
    return Inspection(
        method=method,
        by_columns=by_columns,
        model=resolved.run.model.path,
        options=resolved.run.data,
        max_length=intake.max_length,
        reserve=looked.reserve,
        report=intake.train.report,
        eval_report=looked.reports[1] if len(looked.reports) > 1 else None,
        held_out=len(groups) - trained,
        problem=looked.problem,
        drops=looked.notes.drops(),
        histograms=looked.histograms(),
        tally=tally,
        packing=packing,
        sampling=sampling,
        end_names={token: speller.name(token) for token in tally.ends.ended},
        eos=(eos, "" if eos is None else speller.name(eos)),
        has_template=renderer.has_template,
        said=method.notes(),
        examples=[exhibitor.show(groups[i], held_out=i >= trained) for i in choose(groups, choice, files, gone)],
        dropped_rows=list(looked.dropped_rows(choice)),
    )


class _Looked:
    """The rows, taken in."""

    def __init__(self, resolved: Resolved, method: Method, outline: Outline, rows: Any, eval_rows: Any) -> None:
        self.config, self.method, self.outline = resolved.run, method, outline
        self.rows, self.eval_rows = rows, eval_rows
        rollout = self.config.rollout
        self.reserve = rollout.reserve if rollout is not None else 0
        self.notes = Notes()
        self.problem: DataError | None = None
        self.intake = self._take_in()
        budget = self.config.train.tokens_per_microbatch
        self.auto = budget == "auto"
        regime = PositionRegime() if outline.config is None else PositionRegime.of(outline.config)
        model = WithoutWeights(outline.tokenizer.bos_token_id, regime)
        self.packer = Packer(method, model, UNMEASURED if isinstance(budget, str) else budget)
        own = self.intake.held_out if self.intake.own_eval else None
        self.reports = [self.intake.train.report, *([own.report] if own else [])]

    def _take_in(self) -> Intake:
        options = self.config.data
        try:
            return self._read(options)
        except DataError as problem:
            if problem.code not in _DROPPABLE:
                raise
            self.problem = problem
        self.notes = Notes()
        without = {"invalid": "drop", "max_drop_fraction": 1.0}
        if options.overlong == "error":
            without["overlong"] = "drop"
        try:
            return self._read(options.model_copy(update=without))
        except DataError:
            raise self.problem from None

    def _read(self, options: DataConfig) -> Intake:
        positions = None if self.outline.config is None else positions_of(self.outline.config)
        return read_in(
            options,
            self.method,
            self.outline.tokenizer,
            positions,
            self.rows,
            self.eval_rows,
            reserve=self.reserve,
            witness=self.notes,
        )

    def schedule(self) -> Schedule:
        """As a run on these groups has it."""
        data = self.intake.train
        held_out = self.intake.held_out is not None
        return Schedule.of(self.config, data.source_sizes, data.source_weights, held_out, self.method.min_groups)

    def packing(self, tally: Tally, stops: frozenset[int]) -> Packing | None:
        """The epoch; the tally takes up every training group once."""
        groups = self.intake.train.groups
        size = self.config.train.groups_per_step
        for start in range(0, len(groups), size):
            own = groups[start : start + size]
            for group, mask in zip(own, self.packer.masks(own), strict=True):
                tally.look(group, mask, stops)
        if self.method.is_online():
            return None
        return pack_epoch(self.packer, groups, self.schedule(), auto=self.auto)

    def sampling(self) -> Sampling | None:
        """Steps and sizes of a method that samples."""
        rollout, groups = self.config.rollout, self.intake.train.groups
        if rollout is None:
            return None
        schedule = self.schedule()
        return Sampling(
            prompts=len(groups),
            prompts_per_batch=schedule.groups_per_step,
            answers=rollout.completions_per_prompt or 1,
            batches=schedule.steps_per_epoch // schedule.steps_per_batch,
            steps=schedule.steps_per_epoch,
            prompt_tokens=Lengths.of([len(g.prompt_ids) for g in groups]),
            max_new_tokens=rollout.max_new_tokens,
        )

    def histograms(self) -> list[Histogram]:
        """Of the training rows before the length policy."""
        files = {f.path for f in self.intake.train.report.files}
        own = [(prompt, answers) for file, prompt, answers in self.notes.lengths if file in files]
        limit = self.intake.max_length
        room = None if limit is None else limit - self.reserve
        prompts = [prompt for prompt, _ in own]
        if self.method.is_online():
            found = [Histogram.of("prompt", prompts, room)]
        else:
            totals = [prompt + max(answers, default=0) for prompt, answers in own]
            found = [
                Histogram.of("prompt", prompts),
                Histogram.of("completion", [n for _, answers in own for n in answers]),
                Histogram.of("total", totals, room),
            ]
        return [h for h in found if h is not None]

    def dropped_rows(self, choice: Choice) -> Iterator[DroppedRow]:
        """Rows that are not used, as they are: those asked for by number, and with `dropped` some of each reason."""
        refusals = self.notes.refusals
        asked = [r for r in refusals if any(_is(r.source, row) for row in choice.rows)]
        if choice.dropped:
            count: dict[tuple[str, str], int] = {}
            for refusal in refusals:
                key = refusal.source.file, refusal.reason
                count[key] = count.get(key, 0) + 1
                if count[key] <= (choice.first or LONGEST):
                    asked.append(refusal)
        wanted = list(dict.fromkeys(asked))
        contents = self._contents({r.source for r in wanted})
        return (DroppedRow(str(r.source), r.reason, visible(r.detail), contents.get(r.source, {})) for r in wanted)

    def _contents(self, wanted: set[Source]) -> dict[Source, dict[str, str]]:
        """The rows as their files have them."""
        if not wanted:
            return {}
        given: list[Any] = [self.config.data.train if self.rows is None else self.rows]
        given += [self.config.data.eval if self.eval_rows is None else self.eval_rows]
        found: dict[Source, dict[str, str]] = {}
        for sources in given:
            for position, source in enumerate(source_list(sources), start=1):
                rows = read(source, position=position)
                for number, row in rows.rows:
                    if Source(rows.name, number) in wanted:
                        found[Source(rows.name, number)] = {str(k): _as_text(v) for k, v in row.items()}
        return found


def _is(source: Source, asked: str) -> bool:
    file, _, number = asked.rpartition(":")
    return number == str(source.row) and (not file or source.file == file or source.file.endswith("/" + file))


def _as_text(value: Any) -> str:
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


__all__ = ["inspect_data"]
