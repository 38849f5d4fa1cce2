"""Samples through training: the same prompt at several steps, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PROMPTS = 20
MAX_STEPS = 4
MAX_CHARACTERS = 4000
OF_THE_ANSWER = ("reward", "parts", "note", "error", "tokens", "finish_reason")
"""Fields that belong to an answer even where all answers to a prompt agree in them."""


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
    prompts: list[SamplePrompt] = []
    for prompt in _choose_prompts(by_prompt):
        own = by_prompt[prompt]
        shown = _choose_steps(sorted({int(s["step"]) for s in own}))
        prompts.append(_prompt(prompt, [s for s in own if s["step"] in shown]))
    seen = sorted({cell.step for prompt in prompts for cell in prompt.cells})
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


def _prompt(prompt: str, samples: Sequence[Mapping[str, Any]]) -> SamplePrompt:
    keys = dict.fromkeys(k for s in samples for k in s if k not in ("step", "prompt", "completion"))
    constant = {
        k: samples[0][k]
        for k in keys
        if k not in OF_THE_ANSWER and len(samples) > 1 and all(k in s and s[k] == samples[0][k] for s in samples)
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
