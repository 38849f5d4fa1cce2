"""What became of the rows, and what the loss reads of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from plaudit.data.notes import NOTES
from plaudit.data.render import Renderer
from plaudit.data.report import LENGTH_REASONS, REASONS, Affected, DataReport
from plaudit.errors import RewardError
from plaudit.inspection.mask import Packer, WithoutWeights
from plaudit.inspection.packing import Ends, Tally
from plaudit.preflight.findings import Finding
from plaudit.train.intake import positions_of
from plaudit.train.prepared import TRIED_PROMPTS, Prepared
from plaudit.types import PromptGroup

MANY = 0.05
"""Share of rows that are left out, repeated or cut from which it is a warning."""
_CONTRADICTED = 0.02
_LOOKED = 256
"""Groups whose masks are read back, at most."""
_NOTABLE = (
    *("no_eos", "no_generation_prompt", "generation_prompt_differs", "system_ignored", "tools_ignored"),
    *("answer_changed", "markers_in_content", "double_bos"),
)
"""Decisions of the renderer that mean more often than not that something is wrong."""
_INSPECT = "plaudit inspect shows the rows as the model sees them"


def data(prepared: Prepared) -> Iterator[Finding]:
    """Rows that are not used, that repeat others, or that contradict others."""
    intake = prepared.intake
    reports = [("", intake.train.report)]
    if intake.own_eval and intake.held_out is not None:
        reports.append(("held out: ", intake.held_out.report))
    for name, report in reports:
        groups = report.groups
        unit = "group" if groups == 1 else "groups"
        yield Finding("OK", "data", f"{name}{report.rows:,} {report.kind} rows, {groups:,} {unit}")
        yield from _left_out(name, report, _longer(prepared))
        yield from _repeats(name, report)


def _left_out(name: str, report: DataReport, longer: str) -> Iterator[Finding]:
    reasons: dict[str, Affected] = {}
    for file in report.files:
        for reason, affected in file.dropped.items():
            found = reasons.setdefault(reason, Affected())
            found.count += affected.count
            found.rows += affected.rows
    total = sum(affected.count for affected in reasons.values())
    if not total:
        return
    listed = "; ".join(f"{REASONS[reason]}: {a.count:,} ({a.where})" for reason, a in reasons.items())
    text = f"{name}{total:,} of {report.rows:,} rows are left out: {listed}"
    if total >= MANY * report.rows:
        long = any(reason in LENGTH_REASONS for reason in reasons)
        mend = f"{longer}, or data.overlong=truncate_prompt" if long else "mend these rows (plaudit doctor --fix)"
        yield Finding("WARN", "data", text, mend)
    else:
        yield Finding("OK", "data", text)


def _repeats(name: str, report: DataReport) -> Iterator[Finding]:
    doctor = "plaudit doctor shows them, and --fix leaves them out"
    repeated = sum(file.duplicates.count for file in report.files)
    opposed = sum(file.contradictions.count for file in report.files)
    for what, limit, count in (
        ("repeat an earlier row", MANY, repeated),
        ("say the opposite of an earlier row about the same answers", _CONTRADICTED, opposed),
    ):
        if count and count >= limit * report.rows:
            yield Finding("WARN", "data", f"{name}{count:,} of {report.rows:,} rows {what}", doctor)


def held_out(prepared: Prepared) -> Iterator[Finding]:
    """Whether there are held-out rows, and whether they are held out."""
    found = prepared.intake.held_out
    if found is None:
        text = "there is none: nothing will say whether the model gets better at rows that it has not seen"
        yield Finding("WARN", "held-out data", text, "data.eval=FILE, or data.eval_fraction=0.05")
        return
    train, rows, prompts = prepared.intake.train.groups, set(map(_row, found.groups)), set(map(_prompt, found.groups))
    trained = {_row(g) for g in train if _prompt(g) in prompts} & rows
    asked_for = {prompt for g in train if (prompt := _prompt(g)) in prompts}
    same = sum(_row(g) in trained for g in found.groups)
    asked = sum(_prompt(g) in asked_for and len(g.prompt_ids) > 0 for g in found.groups)
    total = len(found.groups)
    if same:
        text = f"{same:,} of {total:,} groups are trained on too, and say nothing about rows that are new"
        yield Finding("WARN", "held-out data", text, "give other rows; plaudit doctor --against shows the overlap")
    elif asked:
        text = f"{asked:,} of {total:,} have a prompt that is trained on with other answers"
        yield Finding("WARN", "held-out data", text, "split by prompt, as data.eval_fraction does")
    else:
        yield Finding("OK", "held-out data", f"{total:,} groups, none of them trained on")


def _prompt(group: PromptGroup) -> bytes:
    return group.prompt_ids.tobytes()


def _row(group: PromptGroup) -> bytes:
    answers = sorted(c.token_ids.tobytes() for c in group.completions)
    return b"\xff\xff\xff\xff".join([_prompt(group), *answers])


def _longer(prepared: Prepared) -> str:
    """What makes room for longer rows: the limit is the user's, or the model's own."""
    own, limit = positions_of(prepared.cast.trained.model.config), prepared.intake.max_length
    limited = limit is not None and (own is None or limit < own)
    return "raise data.max_length" if limited else "take a model with more positions"


def lengths(prepared: Prepared) -> Iterator[Finding]:
    """How long the rows are, and how many were cut."""
    intake = prepared.intake
    report, limit = intake.train.report, intake.max_length
    of = f" of {limit:,} tokens" if limit is not None else ", without a limit"
    sizes = [len(g.prompt_ids) + max((len(c.token_ids) for c in g.completions), default=0) for g in intake.train.groups]
    middle, high = np.percentile(sizes, [50, 95])
    what = "prompts" if prepared.method.is_online() else "prompt + answer"
    text = f"{what}: median {middle:,.0f}, 95 % up to {high:,.0f}, longest {max(sizes):,}{of}"
    cut = sum(affected.count for file in report.files for affected in file.truncated.values())
    if cut >= MANY * report.rows and cut:
        text += f"; {cut:,} rows are cut to fit, {cut / report.rows:.0%}".replace("%", " %")
        yield Finding("WARN", "lengths", text, f"{_longer(prepared)}, or data.overlong=drop")
    else:
        yield Finding("OK", "lengths", text)


def template(prepared: Prepared) -> Iterator[Finding]:
    """What the chat template did to the rows."""
    has_template = Renderer(prepared.tokenizer).has_template
    notes: dict[str, Affected] = {}
    for file in prepared.intake.train.report.files:
        for key, affected in file.notes.items():
            found = notes.setdefault(key, Affected())
            found.count += affected.count
            found.rows += affected.rows
    bad = [key for key in _NOTABLE if key in notes]
    for key in bad:
        yield Finding("WARN", "template", f"{NOTES[key]}: {notes[key].count:,} rows ({notes[key].where})", _INSPECT)
    plain = notes.get("plain_text")
    if plain is not None and has_template:
        text = f"the model has a chat template, and {plain.count:,} rows are plain text, which is trained on without it"
        yield Finding(
            "WARN",
            "template",
            text,
            "write them as messages (plaudit convert IN OUT --to messages), unless plain text is what you mean",
        )
    elif not bad and plain is None:
        yield Finding("OK", "template", "the prompt that is sampled from is the beginning of what is trained on")
    elif not bad:
        yield Finding("OK", "template", "the model has none; the rows are plain text")


def ends(prepared: Prepared) -> Iterator[Finding]:
    """Whether the model learns where an answer ends: read back from the micro-batches that training computes."""
    if prepared.method.is_online():
        return
    model = prepared.cast.trained
    packer = Packer(prepared.method, WithoutWeights(model.bos_id, model.regime), prepared.budget.tokens)
    every: Sequence[PromptGroup] = prepared.intake.train.groups
    groups = every[:: -(-len(every) // _LOOKED)]  # of all files, which may differ
    tally, stops = Tally(Ends(scored=not packer.reads_targets)), frozenset(Renderer(prepared.tokenizer).stop_token_ids)
    for group, mask in zip(groups, packer.masks(groups), strict=True):
        tally.look(group, mask, stops)
    found = tally.ends
    missing = found.stretches - found.count
    what = "the score is read on the end" if found.scored else "the end is trained"
    looked = f"of {found.stretches:,} answers looked at"
    if not missing:
        yield Finding("OK", "end of answers", f"{what} in all {looked}")
        return
    rows = ", ".join(f"{file}:{row}" for file, row in sorted(set(found.open))[:3])
    so = "their score is read on another token" if found.scored else "the model does not learn there to stop"
    text = f"{missing:,} {looked} end with no end-of-turn token and no EOS: {so} ({rows})"
    yield Finding("WARN", "end of answers", text, f"give the template or the tokenizer its end token; {_INSPECT}")


def reward(prepared: Prepared) -> Iterator[Finding]:
    """Whether the rewards can work: they are opened, and score an answer that nobody has given to a few prompts.

    Raises:
        PlauditError: a reward cannot work here at all: a model that is not there, a package that is missing.
        RewardError: PL706, it fails on the rows.
    """
    if prepared.try_rewards is None:
        return
    failures, tried = prepared.try_rewards(), min(TRIED_PROMPTS, len(prepared.intake.train.groups))
    rows = [message for kind, message in failures if kind == "bad_row"]
    if len(rows) == tried:
        raise RewardError(
            "PL706",
            f"it fails on each of the first {tried} rows: {rows[-1]}",
            where="reward",
            mend="mend the rows, or name the columns; `plaudit score` shows the failure of every row",
        )
    if failures:
        text = f"{len(failures)} of {tried} answers that were made up have no reward: {failures[-1][1]}"
        yield Finding("WARN", "reward", text, "an answer may say anything: `plaudit rewards probe` tries many")
    else:
        yield Finding("OK", "reward", f"it works on the first {tried} rows")
