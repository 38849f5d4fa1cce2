"""A row as prompt and answers, whatever its kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.data.records import AnyRecord, CompletionRecord, FeedbackRecord, PreferenceRecord, RankingRecord
from plaudit.data.turns import Message, Turns


@dataclass(frozen=True, slots=True)
class Entry:
    """A row.

    Attributes:
        prompt: None for text that is trained as a whole.
        answers: of a pair the chosen one first, then one or several rejected ones; none for prompts.
        ranks: [len(answers)] 1 is best, equal is a tie; None where nothing is compared.
        label: of feedback: whether the answer was liked.
        extras: columns that are kept with the row.
    """

    prompt: Turns | None
    answers: tuple[Turns, ...]
    ranks: tuple[float, ...] | None
    label: bool | None
    extras: dict[str, object]

    @property
    def standings(self) -> tuple[str, ...]:
        """What each answer is called."""
        if self.label is not None:
            return ("liked" if self.label else "disliked",)
        if self.ranks is None:
            return ("answer",) * len(self.answers)
        return tuple(f"rank {rank:g}" for rank in self.ranks)

    def messages(self) -> list[list[Message]]:
        """The conversations: prompt and answer, once for each answer; empty for text."""
        if isinstance(self.prompt, str):
            return []
        head = self.prompt or []
        tails = [answer for answer in self.answers if not isinstance(answer, str)]
        return [head + tail for tail in tails] if self.answers else [head]


def entry(records: Sequence[AnyRecord]) -> Entry:
    """The entry of a row from its records; several are pairs with the same chosen answer."""
    record = records[0]
    if isinstance(record, PreferenceRecord):
        pairs = [r for r in records if isinstance(r, PreferenceRecord)]
        tie = record.preference == 0.5
        ranks = (1.0, *(1.0 if tie else 2.0 for _ in pairs))
        return Entry(record.prompt, (record.chosen, *(p.rejected for p in pairs)), ranks, None, record.extras)
    if isinstance(record, RankingRecord):
        by_place = sorted((i, rank) for rank, i in record.ranked())
        return Entry(record.prompt, tuple(record.completions), tuple(r for _, r in by_place), None, record.extras)
    if isinstance(record, FeedbackRecord):
        return Entry(record.prompt, (record.completion,), None, record.label, record.extras)
    if isinstance(record, CompletionRecord):
        prompt, answer = _demonstration(record)
        return Entry(prompt, (answer,), None, None, record.extras)
    return Entry(record.prompt, (), None, None, record.extras)


def _demonstration(record: CompletionRecord) -> tuple[Turns | None, Turns]:
    if record.text is not None:
        return None, record.text
    if record.messages is None or isinstance(record.messages, str):
        assert record.completion is not None
        return record.prompt, record.completion
    turns = record.messages
    end = max(i for i, m in enumerate(turns) if m.role == "assistant") + 1
    start = max((i for i, m in enumerate(turns[:end]) if m.role == "user"), default=-1) + 1
    return turns[:start], turns[start:]


def plain(turns: Turns | None, *, system: bool = True) -> str:
    """Everything that is said, one message after the other."""
    if turns is None or isinstance(turns, str):
        return turns or ""
    parts = []
    for message in turns:
        if message.role == "system" and not system:
            continue
        parts.append(message.content or "")
        if message.tool_calls:
            parts.append(json.dumps(message.tool_calls, sort_keys=True, ensure_ascii=False))
    return "\n".join(parts)
