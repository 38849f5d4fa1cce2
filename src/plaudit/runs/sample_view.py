"""Samples through training: the same prompt at several steps, side by side, with what has changed since the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.runs.metrics import format_value
from plaudit.runs.text_diff import Piece, pieces

MAX_PROMPTS = 20
MAX_STEPS = 4
MAX_CHARACTERS = 4000
OF_THE_ANSWER = ("reward", "parts", "note", "error", "tokens", "finish_reason")
"""Fields that belong to an answer even where all answers to a prompt agree in them."""
OF_THE_ROW = ("margin", "logps/chosen", "logps/rejected")
"""Numbers about a row of the data, which stand in a table of their own."""


@dataclass(frozen=True, slots=True)
class SampleCell:
    """One answer at one step.

    Attributes:
        completion: None when the method shows other fields.
        pieces: the completion in parts, marked where they are not in the first step's answer.
        same: whether it is the first step's answer; None at the first step.
        fields: what else is known of it.
    """

    step: int
    completion: str | None
    fields: dict[str, Any]
    pieces: list[Piece]
    same: bool | None = None


@dataclass(frozen=True, slots=True)
class NumberRow:
    """A number of a prompt through training.

    Attributes:
        values: as text, one for each shown step; "–" where there is none.
        change: from the first to the last, as text with its sign; empty where it is not known.
    """

    name: str
    values: list[str]
    change: str


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """One prompt with what stays the same through training and what changes.

    Attributes:
        steps: the shown ones.
        cells: answers by step, in the order of `steps`.
        numbers: rows of a table over `steps`.
        fixed: the answers do not change (a model scores them): they are shown once, and their scores are `numbers`.
    """

    prompt: str
    constant: dict[str, Any]
    steps: list[int]
    cells: list[list[SampleCell]]
    numbers: list[NumberRow]
    fixed: bool


@dataclass(frozen=True, slots=True)
class SampleView:
    """What the report shows, and how much there is."""

    prompts: list[SamplePrompt]
    prompt_count: int
    steps_shown: list[int]
    step_count: int


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        return f"{value[:MAX_CHARACTERS]}… (+{len(value) - MAX_CHARACTERS:,} characters, see samples.jsonl)"
    return value


def _choose_steps(steps: Sequence[int]) -> list[int]:
    """First, last and evenly between."""
    if len(steps) <= MAX_STEPS:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (MAX_STEPS - 1))] for i in range(MAX_STEPS)]


def sample_view(lines: Sequence[Mapping[str, Any]]) -> SampleView:
    """Group the lines of samples.jsonl by prompt. A prompt sampled several times at one step keeps every sample."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_prompt.setdefault(str(line.get("prompt", "")), []).append(line)
    prompts: list[SamplePrompt] = []
    for prompt in _choose_prompts(by_prompt):
        own = by_prompt[prompt]
        shown = _choose_steps(sorted({int(s["step"]) for s in own}))
        prompts.append(_prompt(prompt, shown, own))
    seen = sorted({step for prompt in prompts for step in prompt.steps})
    return SampleView(prompts, len(by_prompt), seen, len({int(line["step"]) for line in lines}))


def _choose_prompts(by_prompt: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """At most `MAX_PROMPTS`, in their order: those that come at several steps, which show how answers change, before
    those that come once (of a rollout batch), of which the first, the last and evenly between are taken."""
    if len(by_prompt) <= MAX_PROMPTS:
        return list(by_prompt)
    once = {prompt: int(s[0]["step"]) for prompt, s in by_prompt.items() if len({line["step"] for line in s}) == 1}
    chosen = [prompt for prompt in by_prompt if prompt not in once][:MAX_PROMPTS]
    steps = _choose_steps(sorted(set(once.values())))
    for i, step in enumerate(steps):
        room = (MAX_PROMPTS - len(chosen)) // (len(steps) - i)
        chosen += [prompt for prompt, at in once.items() if at == step][:room]
    taken = set(chosen)
    return [prompt for prompt in by_prompt if prompt in taken]


def _prompt(prompt: str, steps: list[int], lines: Sequence[Mapping[str, Any]]) -> SamplePrompt:
    by_step = [[line for line in lines if line["step"] == step] for step in steps]
    samples = [line for own in by_step for line in own]
    keys = dict.fromkeys(k for s in samples for k in s if k not in ("step", "prompt", "completion"))
    constant = {
        k: samples[0][k]
        for k in keys
        if k not in (*OF_THE_ANSWER, *OF_THE_ROW)
        and len(samples) > 1
        and all(k in s and s[k] == samples[0][k] for s in samples)
    }
    answers = [[s.get("completion") for s in own] for own in by_step]
    fixed = len(steps) > 1 and answers[0][0] is not None and all(row == answers[0] for row in answers)
    fixed = fixed and not any(key in sample for sample in samples for key in OF_THE_ANSWER if key != "reward")
    numbers = _row_numbers(by_step)
    if fixed:
        numbers += _score_numbers(by_step)
    own_keys = [k for k in keys if k not in constant and k not in OF_THE_ROW]
    cells = [
        [_cell(line, own_keys, by_step[0][i] if column and i < len(by_step[0]) else None) for i, line in enumerate(own)]
        for column, own in enumerate(by_step)
    ]
    return SamplePrompt(
        str(_cut(prompt)), {k: _cut(v) for k, v in constant.items()}, steps, cells, numbers, fixed and bool(numbers)
    )


def _cell(line: Mapping[str, Any], keys: Sequence[str], first: Mapping[str, Any] | None) -> SampleCell:
    fields = {k: _cut(line[k]) for k in keys if k in line}
    if "completion" not in line:
        return SampleCell(int(line["step"]), None, fields, [])
    text = str(_cut(line["completion"]))
    before = str(_cut(first["completion"])) if first is not None and "completion" in first else None
    parts = [Piece(text)] if before is None else pieces(before, text)
    return SampleCell(int(line["step"]), text, fields, parts, None if before is None else before == text)


def _row_numbers(by_step: Sequence[Sequence[Mapping[str, Any]]]) -> list[NumberRow]:
    rows = []
    for name in OF_THE_ROW:
        values = [next((s[name] for s in own if name in s), None) for own in by_step]
        if any(value is not None for value in values):
            rows.append(_number_row(name, values))
    return rows


def _score_numbers(by_step: Sequence[Sequence[Mapping[str, Any]]]) -> list[NumberRow]:
    """The scores of answers that do not change, and how far the first is above the last of them."""
    count = len(by_step[0])
    scores: list[list[Any]] = [[s.get("reward") for s in own] for own in by_step]
    if any(not _is_number(score) for own in scores for score in own):
        return []
    rows = [
        _number_row("reward" if count == 1 else f"reward of answer {i + 1}", [own[i] for own in scores])
        for i in range(count)
    ]
    if count > 1:
        rows.insert(0, _number_row("margin", [own[0] - own[-1] for own in scores]))
    return rows


def _number_row(name: str, values: Sequence[Any]) -> NumberRow:
    texts = [format_value("", value) if _is_number(value) else "–" for value in values]
    first, last = values[0], values[-1]
    known = len(values) > 1 and all(_is_number(end) and math.isfinite(end) for end in (first, last))
    return NumberRow(name, texts, f"{'+' if last > first else ''}{format_value('', last - first)}" if known else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
