"""Samples through training: the same prompt at several steps, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PROMPTS = 20
MAX_STEPS = 4
MAX_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class SampleCell:
    """One prompt at one step: its completion (None when the method shows other fields) and the other fields."""

    step: int
    completion: str | None
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """One prompt with what stays the same through training and what changes."""

    prompt: str
    constant: dict[str, Any]
    cells: list[SampleCell]


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
    steps = sorted({int(line["step"]) for line in lines})
    shown = _choose_steps(steps)
    prompts: list[SamplePrompt] = []
    for prompt, all_of_it in by_prompt.items():
        # A prompt that is not in one of the chosen steps is shown at its own steps.
        own = [s for s in all_of_it if s["step"] in shown] or all_of_it[:MAX_STEPS]
        prompts.append(_prompt(prompt, own))
    return SampleView(prompts[:MAX_PROMPTS], len(prompts), shown, len(steps))


def _prompt(prompt: str, samples: Sequence[Mapping[str, Any]]) -> SamplePrompt:
    keys = dict.fromkeys(k for s in samples for k in s if k not in ("step", "prompt", "completion"))
    constant = {
        k: samples[0][k] for k in keys if len(samples) > 1 and all(k in s and s[k] == samples[0][k] for s in samples)
    }
    cells = [
        SampleCell(
            int(s["step"]),
            str(_cut(s["completion"])) if "completion" in s else None,
            {k: _cut(v) for k, v in s.items() if k in keys and k not in constant},
        )
        for s in samples
    ]
    return SamplePrompt(str(_cut(prompt)), {k: _cut(v) for k, v in constant.items()}, cells)
