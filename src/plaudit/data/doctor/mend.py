"""What can be mended in a row without asking: the row stays, some of its characters go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from plaudit.data.conventions import JUDGED, VOTES, Row
from plaudit.data.doctor.characters import INVISIBLE, unmangled
from plaudit.data.doctor.entries import Entry
from plaudit.data.doctor.leaks import question, without_question
from plaudit.data.doctor.markup import special, without_ends
from plaudit.data.doctor.personal import KINDS, PLACEHOLDERS, personal, replaced

EDITS = ("mojibake", "invisible_characters", *KINDS, "special_tokens", "prompt_leak")
"""Checks whose faults are mended in place."""
_NO_TEXT = {*JUDGED, *VOTES, "label", "kto_tag", "rank", "ranks", "ranking", "score", "scores", "rewards"}
_NO_TEXT_KEYS = {"role", "from", "name", "tool_call_id", "type", "id"}


class Mender:
    """Mends the texts of one row.

    Args:
        of: the row's entry.
        keep: checks that nothing is done about.

    Attributes:
        done: how many places each check had changed.
    """

    def __init__(self, of: Entry, keep: Collection[str] = ()) -> None:
        self.keep = frozenset(keep)
        self.done: Counter[str] = Counter()
        self._extras = of.extras.keys()
        self._prompt = of.prompt if isinstance(of.prompt, str) else None
        self._rendered = self._prompt is not None and special(self._prompt) is not None
        self._answers: set[str] = set()
        for answer in of.answers:
            if isinstance(answer, str):
                self._answers.add(answer)
            else:
                self._answers.update(m.content for m in answer if m.role == "assistant" and m.content)
        # What an answer would repeat, as the row will have it.
        self._question = self._text(question(of.prompt))
        self.done.clear()

    def row(self, row: Row) -> Row:
        """The mended row: the same columns in the same order; columns that are not trained on stay as they are."""
        return {
            name: value if name in self._extras or name in _NO_TEXT else self._value(value)
            for name, value in row.items()
        }

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._leaf(value)
        if isinstance(value, list):
            return [self._value(v) for v in value]
        if isinstance(value, dict):
            return {k: v if k in _NO_TEXT_KEYS else self._value(v) for k, v in value.items()}
        return value

    def _leaf(self, text: str) -> str:
        if text in self._answers:
            return self._answer(text)
        if self._prompt and text.startswith(self._prompt) and text[len(self._prompt) :] in self._answers:
            return self._text(self._prompt) + self._answer(text[len(self._prompt) :])  # a conversation as one text
        return self._text(text)

    def _text(self, text: str) -> str:
        text = self._do("mojibake", text, unmangled)
        if "invisible_characters" not in self.keep:
            text, places = INVISIBLE.subn("", text)
            self.done["invisible_characters"] += places
        kinds = KINDS.keys() - self.keep
        values = [v for v in personal(text) if v.kind in kinds] if kinds else []
        if values:
            self.done.update(v.kind for v in values)
            text = replaced(text, lambda v: PLACEHOLDERS[v.kind] if v.kind in kinds else text[v.start : v.end])
        return text

    def _answer(self, answer: str) -> str:
        text, before = self._text(answer), None
        while text != before:
            before = text
            if not self._rendered:
                text = self._do("special_tokens", text, without_ends)
            text = self._do("prompt_leak", text, lambda t: found if (found := self._unled(t)) is not None else t)
        return text

    def _unled(self, text: str) -> str | None:
        return without_question(self._question, text)

    def _do(self, check: str, text: str, mend: Callable[[str], str]) -> str:
        if check in self.keep:
            return text
        mended = mend(text)
        self.done[check] += mended != text
        return mended
