"""Sentences that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plaudit.data.report import FileReport
from plaudit.inspection.examples import Branch
from plaudit.inspection.packing import Packing, Sampling
from plaudit.inspection.results import Inspection, Note

_ROWS = 8


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def row_numbers(rows: Sequence[int], count: int | None = None) -> str:
    """The first of some row numbers.

    Args:
        count: how many there are, where `rows` has only some of them.
    """
    different = sorted(set(rows))
    shown = ", ".join(map(str, different[:_ROWS]))
    more = len(different) > _ROWS or (count or 0) > len(rows)
    return f"row{'s' if len(different) > 1 else ''} {shown}{', …' if more else ''}"


def note_rows(note: Note) -> str:
    """The rows of a note; empty for one that is about a file's columns."""
    rows = note.affected
    if rows.count == note.of:
        return "all rows"
    return row_numbers(rows.rows, rows.count) if rows.rows else ""


def facts(found: Inspection) -> list[tuple[str, str]]:
    """What is looked at: (name, value)."""
    method = found.method
    how = ", chosen by the columns; --method names another" if found.by_columns else ""
    options = found.options
    policies = f"overlong: {options.overlong}, invalid: {options.invalid}"
    report = found.report
    groups = f"{found.groups:,} to train on" + (f", {found.held_out:,} held out" if found.held_out else "")
    groups += " once the rows that cannot be used are gone" if found.problem is not None else ""
    tally = found.tally
    facts = [
        ("method", f"{method.name} ({method.title}){how}"),
        ("model", f"{found.model}; only its tokenizer and configuration are read"),
        *(("data", _source(f)) for f in found.files),
        ("groups", f"{groups}; rows not used: {found.dropped:,} of {found.rows:,} ({policies})"),
        ("length", found.limit_line),
    ]
    if found.ends.scored:
        facts.append(("loss", "one score for each answer, read on its last token; no single token is trained"))
    elif tally.trained:
        share = 100 * tally.trained / tally.tokens
        facts.append(("loss", f"is computed on {tally.trained:,} of {tally.tokens:,} tokens ({share:.1f} %)"))
    else:
        facts.append(("loss", "is computed on answers that are sampled while training; nothing of a prompt is trained"))
    if report.labels is not None:
        facts.append(("labels", ", ".join(f"{n:,} {label}" for label, n in report.labels.items())))
    return facts


def _source(f: FileReport) -> str:
    parts = [f"{f.path}: {f.rows:,} rows", ", ".join(f.conventions) or "no rows"]
    if f.extras:
        parts.append(f"kept and not trained on: {', '.join(f.extras)}")
    if f.weight != 1:
        parts.append(f"weight {f.weight:g}")
    return "; ".join([*parts, *(line.strip() for line in (f.converted.lines() if f.converted else []))])


def hints(found: Inspection) -> Iterator[str]:
    """What is not wrong, and may not be what was meant."""
    plain = sum(f.notes["plain_text"].count for f in found.files if "plain_text" in f.notes)
    if plain and found.has_template:
        yield (
            f"{counted(plain, 'row')} of plain text: the tokenizer has a chat template, and text does not go through "
            "it. For a chat model, write them as messages: plaudit convert IN OUT --to messages"
        )
    foreign = [name for token, name in found.end_names.items() if token != found.eos[0]]
    if foreign and found.eos[0] is not None:
        yield (
            f"answers end with {', '.join(foreign)}, and the tokenizer's EOS is {found.eos[1]}: whatever serves the "
            "model later has to stop there too (plaudit does)"
        )


def packing_lines(found: Inspection) -> Iterator[str]:
    """How the rows pack, one fact a line."""
    if found.sampling is not None:
        yield from _sampling(found.sampling)
    if found.packing is not None:
        yield from _packing(found.packing)
    if found.method.fresh_completions and not found.method.is_online():
        yield "each step also scores answers to other prompts, without gradient; they are made then, not counted here"


def _packing(p: Packing) -> Iterator[str]:
    each = f"of {p.groups_per_step:,} " if p.groups > p.groups_per_step else ""
    yield (
        f"an epoch: {counted(p.groups, 'group')} in {counted(p.steps, 'optimiser step')} {each}"
        f"(train.groups_per_step: {p.groups_per_step:,})"
    )
    g = p.per_group
    yield f"unique tokens of a group: min {g.min:,}, median {g.median:,.0f}, 95 % {g.p95:,.0f}, max {g.max:,}"
    yield (
        f"sharing the prompt: {p.gain:.2f} × fewer tokens ({p.without_sharing:,} without sharing, {p.unique:,} unique; "
        "padding would come on top)"
    )
    measured = " without a measurement; auto measures before the first step" if p.auto else ""
    yield (
        f"micro-batches: {p.micro_batches:,}, with {p.per_micro_batch:,.0f} tokens on average, {p.largest:,} at most "
        f"(train.tokens_per_microbatch: {p.budget:,}{measured})"
    )
    if p.oversize:
        larger = "is larger" if p.oversize == 1 else "are larger"
        yield f"{p.oversize:,} of them {larger} than that, because a {p.unit} is never cut: memory must hold it"


def _sampling(s: Sampling) -> Iterator[str]:
    yield (
        f"an epoch: {counted(s.prompts, 'prompt')} in {counted(s.batches, 'rollout batch', 'rollout batches')} "
        f"(rollout.prompts_per_batch: {s.prompts_per_batch:,}), {counted(s.steps, 'optimiser step')}"
    )
    t = s.prompt_tokens
    yield f"tokens of a prompt: min {t.min:,}, median {t.median:,.0f}, 95 % {t.p95:,.0f}, max {t.max:,}"
    longest = s.answers * s.max_new_tokens
    yield (
        f"answers: {s.answers:,} to each prompt, at most {s.max_new_tokens:,} tokens each: up to "
        f"{t.max + longest:,} unique tokens behind one prompt"
    )


def cut_note(b: Branch) -> str | None:
    """What is wrong with a completion's end; None where nothing is."""
    if b.cut:
        return f"cut: {b.cut:,} tokens are missing at its end (data.overlong), its end-of-turn token too"
    scored = any(cell.mark == "scored" for cell in b.cells)
    if b.end_trained or not (b.trained or scored):
        return None
    if b.ends is not None:
        return f"its last token, {b.ends}, ends an answer and is not read by the loss"
    return "its last token is no end-of-turn token and no EOS"


__all__ = ["counted", "cut_note", "facts", "hints", "note_rows", "packing_lines", "row_numbers"]
