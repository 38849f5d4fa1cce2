"""What a judge is asked, word by word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from plaudit.data.turns import Turns
from plaudit.rewards.judges.backend import Conversation
from plaudit.rewards.judges.fields import Fence
from plaudit.rewards.judges.rubric import PLACEHOLDERS, Criterion, Rubric
from plaudit.rewards.judges.verdicts import FIRST, SECOND, TIE

_SCORE = """\
You are an impartial judge. Below are a request and an answer to it. Judge the answer by this criterion alone:

{criterion}

The request:

{prompt}

The answer:

{answer}

{reference}Scores are whole numbers from {scale}; the highest is the best."""
_REFERENCE = "A reference answer, which is good:\n\n{field}\n\n"
_COMPARE = f"""\
You are an impartial judge. Below are a request and two answers to it, {FIRST} and {SECOND}. Judge which of them is \
better by this criterion alone:

{{criterion}}

Their order means nothing.

The request:

{{prompt}}

Answer {FIRST}:

{{a}}

Answer {SECOND}:

{{b}}"""
_REASONS = "Think it through first: give your reasons in a few sentences, without a verdict. You are asked for it next."
_COMPARED = f"Reply with {FIRST} if answer {FIRST} is better, {SECOND} if answer {SECOND} is, or {TIE} if neither is"


@dataclass(frozen=True, slots=True)
class Question:
    """What one verdict needs.

    Attributes:
        text: everything but the demand for a verdict.
        demand: that.
        labels: the replies that are verdicts.
        system: a system message, or None.
    """

    text: str
    demand: str
    labels: tuple[str, ...]
    system: str | None = None

    def conversation(self) -> Conversation:
        """Asks for the verdict at once."""
        return self._opened(self.demand)

    def for_reasons(self) -> Conversation:
        """Asks for reasons."""
        return self._opened(_REASONS)

    def after(self, reasons: str) -> Conversation:
        """Asks for the verdict after them."""
        said = reasons.strip() or "…"  # some templates refuse a turn without content
        return [
            *self.for_reasons(),
            {"role": "assistant", "content": said},
            {"role": "user", "content": self.demand},
        ]

    def _opened(self, last: str) -> Conversation:
        lead = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*lead, {"role": "user", "content": f"{self.text}\n\n{last}"}]


def score_question(
    rubric: Rubric, criterion: Criterion, prompt: Turns, answer: str, reference: str | None = None
) -> Question:
    """One answer, by one criterion."""
    low, high = rubric.scale
    request = transcript(prompt)
    fence = Fence.around([request, answer, reference or ""])
    shown = "" if reference is None else _REFERENCE.replace("{field}", fence.field("reference", reference))
    template = rubric.templates.get("score", _SCORE)
    if reference is not None and "{reference}" not in template:
        template += "\n\n{reference}"
    values = {
        "prompt": fence.field("request", request),
        "answer": fence.field("answer", answer),
        "criterion": criterion.description,
        "scale": f"{low} to {high}",
        "reference": shown,
    }
    demand = f"Reply with the score alone, a whole number from {low} to {high}, and nothing else."
    labels = tuple(str(label) for label in range(low, high + 1))
    return Question(_filled(template, "score", values, fence), demand, labels, rubric.system)


def compare_question(rubric: Rubric, criterion: Criterion, prompt: Turns, first: str, second: str) -> Question:
    """Two answers in this order, by one criterion."""
    request = transcript(prompt)
    fence = Fence.around([request, first, second])
    values = {
        "prompt": fence.field("request", request),
        "a": fence.field(f"answer_{FIRST}", first),
        "b": fence.field(f"answer_{SECOND}", second),
        "criterion": criterion.description,
    }
    template = rubric.templates.get("compare", _COMPARE)
    text = _filled(template, "compare", values, fence)
    return Question(text, f"{_COMPARED}: the letter alone, and nothing else.", (FIRST, SECOND, TIE), rubric.system)


def transcript(turns: Turns) -> str:
    """Text as it is; messages one below the other with their roles. A single message of the user's is its text."""
    if isinstance(turns, str):
        return turns
    if len(turns) == 1 and turns[0].role == "user":
        return turns[0].content or ""
    return "\n\n".join(f"[{m.role}]\n{m.content or ''}" for m in turns)


def _filled(template: str, kind: str, values: Mapping[str, str], fence: Fence) -> str:
    """The template with its fields, in one pass: what stands in a field is not looked at."""
    pattern = re.compile("|".join(rf"\{{{name}\}}" for name in PLACEHOLDERS[kind]))
    text = pattern.sub(lambda match: values[match[0][1:-1]], template)
    return f"{text.strip()}\n\n{fence.rule}"
