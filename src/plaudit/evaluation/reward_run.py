"""`plaudit evaluate reward` from the sources to the files: read, score, evaluate, write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plaudit.config.schema import SourceConfig
from plaudit.data.book import Invalid
from plaudit.data.records import RankingRecord, Turns
from plaudit.data.recordset import RecordSet, Sources, read_records, source_list
from plaudit.errors import ConfigError, EvaluationError
from plaudit.evaluation.judged_rows import (
    LIST_SCORES,
    PAIR_SCORES,
    JudgedRow,
    Record,
    Scorer,
    as_chat,
    given_rows,
    score_rows,
)
from plaudit.evaluation.reward_accuracy import Weigh
from plaudit.evaluation.reward_evaluation import RewardEvaluation, evaluate_rows, is_rewardbench
from plaudit.evaluation.reward_page import reward_page
from plaudit.runs import jsonl
from plaudit.runs.rundir import CONFIG_NAME
from plaudit.types import Source

RESULT_NAME = "evaluation.json"
PAGE_NAME = "evaluation.html"
SCORES_NAME = "scores.jsonl"
_FOLDER = "evaluations"
_JUDGED = ("preference", "margin", "votes", "strength", "annotator")


@dataclass(frozen=True, slots=True)
class Options:
    """How a reward model is evaluated.

    Attributes:
        weigh: what weighs 1: a pair, or a prompt (whose pairs share its weight).
        by: columns of the rows to make strata of.
        bins: of the calibration error; None chooses.
        chat: write text as a user's and an assistant's message; None does it for rows of RewardBench where the model
            has a chat template, as RewardBench's own code does.
        invalid: a row that cannot be read is an error, or dropped and counted.
    """

    weigh: Weigh = "pair"
    by: Sequence[str] = ()
    bins: int | None = None
    chat: bool | None = None
    invalid: Invalid = "error"


def evaluate_model(
    model: Scorer,
    name: str,
    data: Sources,
    options: Options,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[RewardEvaluation, list[JudgedRow]]:
    """Let a reward model score the rows, and evaluate it.

    Raises:
        PlauditError: PL102, PL2xx from the rows, PL7xx from the model, PL8xx.
    """
    # Who does not say whether there is a template is given messages as messages and text as text.
    has_template = bool(getattr(model, "has_template", True))
    found = read_records(data, "ranking", has_template=has_template, invalid=options.invalid)
    notes: list[str] = []
    chat = options.chat
    if chat is None and getattr(model, "has_template", False):
        chat_rows = [is_rewardbench(record.extras) for record in found.records]
    else:
        chat_rows = [bool(chat)] * len(found)
    records: list[Record] = []
    for (record, source), turn in zip(found, chat_rows, strict=True):
        turned = turn and isinstance(record.prompt, str)
        records.append((as_chat(record) if turned else record, source))
        notes += ["text is written as chat messages"] * turned
    for kept_away in ("tools", "chat_template_kwargs"):
        said = f"rows have {kept_away}, which the reward model is not shown"
        notes += [said for record, _ in records if getattr(record, kept_away)]
    before = int(getattr(model, "truncated", 0))
    rows = score_rows(model, records, on_progress)
    cut = int(getattr(model, "truncated", 0)) - before
    if cut:
        notes.append(f"{cut:,} answers were longer than the model's positions: their oldest tokens were not read")
    return _evaluated(rows, found, name, options, _counted(notes, len(records)))


def evaluate_given(data: Sources, options: Options) -> tuple[RewardEvaluation, list[JudgedRow]]:
    """Evaluate the judge whose scores the rows carry: `chosen_score` and `rejected_score`, or `judge_scores`.

    Raises:
        PlauditError: PL102, PL2xx from the rows, PL8xx.
    """
    found = read_records(data, "ranking", has_template=True, invalid=options.invalid)
    rows = given_rows([(record, restored(record, source)) for record, source in found])
    return _evaluated(rows, found, "given scores", options, [])


def _evaluated(
    rows: list[JudgedRow], found: RecordSet[RankingRecord], name: str, options: Options, notes: list[str]
) -> tuple[RewardEvaluation, list[JudgedRow]]:
    evaluation = evaluate_rows(
        rows,
        model=name,
        data=[f.path for f in found.files],
        dropped=found.dropped,
        weigh=options.weigh,
        by=options.by,
        bins=options.bins,
        notes=notes,
    )
    return evaluation, rows


def _counted(notes: list[str], rows: int) -> list[str]:
    return [note if n == 1 else f"{note} ({n:,} of {rows:,} rows)" for note, n in Counter(notes).items()]


def evaluate_source(
    model: Any,
    data: Sources,
    output: str | Path | None,
    *,
    weigh: str,
    by: Sequence[str],
    bins: int | None,
    chat: bool | None,
    invalid: str,
    overlong: str,
    base: str | None,
    precision: str,
    on_progress: Callable[[int, int], None] | None,
) -> RewardEvaluation:
    """What `plaudit.api.evaluate_reward` promises; see there."""
    _check_choices(weigh=(weigh, ("pair", "prompt")), invalid=(invalid, ("error", "drop")))
    _check_choices(overlong=(overlong, ("error", "truncate")))
    if bins is not None and (bins < 2 or bins % 2):
        raise ConfigError(
            "PL102", f"bins is {bins}, must be even and at least 2", where="--bins", mend="for example --bins 10"
        )
    options = Options(weigh, tuple(by), bins, chat, invalid)  # type: ignore[arg-type]  # checked above
    if isinstance(data, (list, tuple)) and not data:
        raise ConfigError(
            "PL102", "no data is named", mend="plaudit evaluate reward MODEL DATA...", where="plaudit evaluate reward"
        )
    named = str(model) if isinstance(model, (str, Path)) else None
    if named is None:
        _check_unused(chat=chat if model is None else None, base=base)
        _check_unused(precision=None if precision == "auto" else precision)
        _check_unused(overlong=None if overlong == "error" else overlong)
    if output is None:
        folder = None
    else:
        folder = default_folder(named, source_names(data)) if output == "auto" else Path(output)
        check_folder(folder)
    if model is None:
        evaluation, rows = evaluate_given(data, options)
    else:
        judge: Any = model
        if named is not None:
            from plaudit.rewards.models.model import RewardModel, ScoringOptions

            scoring = ScoringOptions(overlong=overlong)  # type: ignore[arg-type]
            judge = RewardModel.load(named, base=base, precision=precision, options=scoring)
        name = named or str(getattr(judge, "name", type(judge).__name__))
        evaluation, rows = evaluate_model(judge, name, data, options, on_progress)
    if folder is not None:
        evaluation = replace(evaluation, folder=write_evaluation(evaluation, rows, folder))
    return evaluation


def _check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ConfigError(
                "PL102", f"{name} is {value!r}", where=f"--{name}", mend=f"use one of {', '.join(allowed)}"
            )


def _check_unused(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                "PL102",
                f"{name} has no effect: no model is loaded",
                where=f"--{name}",
                mend="leave it out, or name a model instead of --scored",
            )


def source_names(data: Sources) -> list[str]:
    """Names of the sources for a folder; rows in memory have none."""
    named = (s.path if isinstance(s, SourceConfig) else s for s in source_list(data))
    return [str(name) for name in named if isinstance(name, (str, Path))]


# ---------------------------------------------------------------- files


def default_folder(model: str | None, data: Sequence[str]) -> Path:
    """A folder that does not exist yet: in the run directory of the model, else in `evaluations` where one stands.

    Args:
        model: as it was named; None where the rows carried scores.
        data: names of the sources.
    """
    named = re.sub(r"[^\w.-]+", "-", Path(data[0]).stem if data else "rows").strip("-.") or "rows"
    if model is not None and (Path(model).expanduser() / CONFIG_NAME).is_file():
        first = Path(model).expanduser() / _FOLDER / named
    else:
        whose = re.sub(r"[^\w.-]+", "-", Path(model).name).strip("-.") + "-" if model else ""
        first = Path(_FOLDER) / f"{whose}{named}"
    number, free = 1, first
    while free.exists():
        number += 1
        free = first.with_name(f"{first.name}-{number}")
    return free


def check_folder(folder: Path) -> None:
    """Before the model is loaded: the folder must be new, empty, or hold an earlier evaluation.

    Raises:
        EvaluationError: PL803.
    """
    usable = folder.is_dir() and ((folder / RESULT_NAME).is_file() or not any(folder.iterdir()))
    if folder.exists() and not usable:
        raise EvaluationError(
            "PL803",
            "the folder is not empty and holds no evaluation" if folder.is_dir() else "this is no folder",
            where=str(folder),
            mend="name another folder with --output",
        )


def write_evaluation(evaluation: RewardEvaluation, rows: Sequence[JudgedRow], folder: Path) -> Path:
    """Write evaluation.json, scores.jsonl and evaluation.html; an earlier evaluation in the folder is replaced.

    Raises:
        EvaluationError: PL803, the folder holds something else; RunError: PL505, it cannot be written.
    """
    check_folder(folder)
    with jsonl.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(jsonl.dumps(_line(row)) + "\n" for row in rows)
    jsonl.write_atomically(folder / SCORES_NAME, lines)
    jsonl.write_atomically(folder / PAGE_NAME, reward_page(evaluation))
    jsonl.write_atomically(folder / RESULT_NAME, jsonl.dumps(evaluation.to_json(), indent=2) + "\n")
    return folder


def _line(row: JudgedRow) -> dict[str, Any]:
    """A row with its scores, in the form that `--scored` reads."""
    record = row.record
    line = {k: v for k, v in record.extras.items() if k not in (*PAIR_SCORES, LIST_SCORES)}
    line |= {"source_file": row.source.file, "source_row": row.source.row}
    line |= {name: value for name in _JUDGED if (value := getattr(record, name)) is not None}
    line["prompt"] = _plain(record.prompt)
    answers = [_plain(c) for c in record.completions]
    if record.ranks is not None and len(answers) == 2 and sorted(record.ranks) in ([1.0, 1.0], [1.0, 2.0]):
        chosen = record.ranks.index(1.0)
        order = (chosen, 1 - chosen)
        for side, i in zip(("chosen", "rejected"), order, strict=True):
            line |= {side: answers[i], f"{side}_score": row.scores[i]}
        return line
    line["completions"] = answers
    line |= {"ranks": record.ranks} if record.ranks is not None else {"scores": record.scores}
    line[LIST_SCORES] = list(row.scores)
    return line


def _plain(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [m.model_dump(exclude_none=True) for m in turns]


def restored(record: RankingRecord, source: Source) -> Source:
    """The row that a line of `scores.jsonl` came from."""
    file, row = record.extras.get("source_file"), record.extras.get("source_row")
    return Source(file, row) if isinstance(file, str) and isinstance(row, int) else source
