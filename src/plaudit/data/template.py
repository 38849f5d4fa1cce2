"""The chat template as text: a conversation rendered once, and where in that text each assistant turn begins and ends.

Turns are found by rendering prefixes of the conversation, so any template works, with or without `{% generation %}`
marks. A template that renders earlier turns differently once later ones follow (Qwen3, gpt-oss, GLM-4 strip old
thinking) is noticed because the prefixes do not match; `spans` then answers None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from plaudit.data.turns import Message, RowProblem, shared_length
from plaudit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""[start, end) in characters of the rendered text."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with what its template needs besides."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    kwargs: dict[str, Any] | None = None

    def first(self, n: int) -> Chat:
        """The conversation's first n messages."""
        return Chat(self.messages[:n], self.tools, self.kwargs)

    def same(self, other: Chat) -> bool:
        """Whether both hold the very same message objects."""
        return (
            len(self.messages) == len(other.messages)
            and all(a is b for a, b in zip(self.messages, other.messages, strict=True))
            and self.tools is other.tools
            and self.kwargs is other.kwargs
        )


class ChatTemplate:
    """Renders conversations as text.

    Args:
        tokenizer: any transformers tokenizer.
        chat_template: Jinja source that replaces the tokenizer's own.
        system_prompt: system message for conversations that have none.

    Attributes:
        end_of_turn: the special token that ends an assistant turn, or None when the template writes none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None, system_prompt: str | None
    ) -> None:
        self.tokenizer, self.chat_template = tokenizer, chat_template
        self._system = Message(role="system", content=system_prompt) if system_prompt else None
        self._last: tuple[Chat, bool, str] | None = None
        self.exists = bool(chat_template or tokenizer.chat_template)
        special = {str(t) for t in tokenizer.all_special_tokens}
        special |= {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._special = tuple(sorted((s for s in special if s.strip()), key=len, reverse=True))
        self._tail_piece = re.compile("|".join([r"\s", *map(re.escape, self._special)]))
        self.end_of_turn = self._find_end_of_turn() if self.exists else None
        self._tools_shown: bool | None = None
        self._lacks_header: bool | None = None

    def chat(self, messages: Sequence[Message], tools: Any = None, kwargs: Any = None) -> Chat:
        """The conversation as it is rendered: with the default system prompt where it has none.

        Raises:
            DataError: PL208, there is no chat template.
        """
        if not self.exists:
            raise DataError(
                "PL208",
                "the rows are chat messages, and the tokenizer has no chat template",
                where=str(self.tokenizer.name_or_path) or None,
                mend="set model.chat_template to a Jinja file, use the chat model's tokenizer, or give text rows",
            )
        turns = list(messages)
        if self._system is not None and not any(m.role == "system" for m in turns):
            turns.insert(0, self._system)
        return Chat(turns, tools, kwargs)

    def render(self, chat: Chat, *, open_turn: bool = False) -> str:
        """The conversation as text; with `open_turn`, the header of the answer that is to come is added.

        Raises:
            RowProblem: the template refuses this conversation; DataError: PL208, it is no template.
        """
        if self._last is not None and self._last[1] == open_turn and self._last[0].same(chat):
            return self._last[2]  # the prompt of the second answer of a pair
        try:
            text = self.tokenizer.apply_chat_template(
                [m.for_template() for m in chat.messages],
                tools=list(chat.tools) if chat.tools else None,
                chat_template=self.chat_template,
                add_generation_prompt=open_turn,
                tokenize=False,
                **(chat.kwargs or {}),
            )
        except TemplateSyntaxError as error:
            raise DataError(
                "PL208",
                f"the chat template is not valid Jinja: {error.message}",
                where=f"line {error.lineno} of the chat template",
                mend="mend it, or give another one: model.chat_template",
            ) from None
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(m.role for m in chat.messages)
            raise RowProblem("template", f"the chat template refuses the turns ({roles}): {error}") from None
        if open_turn:
            self._last = chat, open_turn, str(text)
        return str(text)

    def prompt(self, chat: Chat, full: str, n: int) -> tuple[str, bool] | None:
        """The part of `full` that comes before the answer at message n.

        Returns:
            (prompt, exact): not exact when the generation prompt is only in part how the template renders an answer.
            None when the template rewrites the history.
        """
        if n == 0:
            return self._header_at_start(full)
        before = chat.first(n)
        opened = self.render(before, open_turn=True)
        if full.startswith(opened):
            return opened, True
        closed = self.render(before)
        shared = shared_length(opened, full)
        if shared < len(closed):
            return None
        header = full[len(closed) : shared]
        kept = max((header.rfind(s) + len(s) for s in self._special if s in header), default=0)
        return full[: len(closed) + kept], False

    def _header_at_start(self, full: str) -> tuple[str, bool]:
        """A conversation that starts with the assistant: its header is the generation prompt of any other."""
        probe = Chat([Message(role="user", content="?")])
        opened = self.render(probe, open_turn=True)
        header = opened[shared_length(opened, self.render(probe)) :]
        at = full.find(header) if header else -1
        if at < 0:
            raise RowProblem("template", "the conversation starts with an assistant turn; put a user turn first")
        return full[: at + len(header)], True

    def spans(self, chat: Chat, full: str, turns: Sequence[int]) -> tuple[list[Span], bool] | None:
        """Where the assistant turns (message numbers) are in `full`, each with its end-of-turn token.

        Returns:
            (spans, exact) as in `prompt`; None when the template rewrites the history.
        """
        found: list[Span] = []
        all_exact = True
        for n in turns:
            head = self.prompt(chat, full, n)
            end = self._end(chat, full, n)
            if head is None or end is None or end <= len(head[0]):
                return None
            found.append((len(head[0]), self.trim(full, len(head[0]), end)))
            all_exact &= head[1]
        return found, all_exact

    def _end(self, chat: Chat, full: str, n: int) -> int | None:
        """Where the text of messages[: n + 1] ends in `full`. What a template writes only at the very end of a
        conversation (Phi-3's EOS) may be missing there; anything else that is missing means a rewritten history."""
        if n == len(chat.messages) - 1:
            return len(full)
        so_far = self.render(chat.first(n + 1))
        shared = shared_length(so_far, full)
        if shared == len(so_far):
            return shared
        end = content_end = self._tail_start(so_far, 0)
        if end > shared:
            return None
        while (piece := self._tail_piece.match(so_far, end)) and piece.end() <= shared:
            end = piece.end()
        # a turn that ends otherwise in the history than at the end (gpt-oss) is rewritten too
        loses_its_end = self.has_special(so_far[content_end:]) and not self.has_special(so_far[content_end:end])
        return None if loses_its_end else end

    def trim(self, full: str, start: int, end: int) -> int:
        """The end of a turn without what follows its end-of-turn token (mostly a line end that nobody samples)."""
        tail_start = self._tail_start(full[:end], start)
        tail = full[tail_start:end]
        if self.end_of_turn and self.end_of_turn in tail:
            return tail_start + tail.rfind(self.end_of_turn) + len(self.end_of_turn)
        first = min(((tail.find(s), -len(s)) for s in self._special if s in tail), default=None)
        return end if first is None else tail_start + first[0] - first[1]

    def has_special(self, text: str) -> bool:
        """Whether a special token is in the text."""
        return any(s in text for s in self._special)

    def ends_turn(self, text: str) -> bool:
        """Whether the text ends with a special token."""
        return text.endswith(self._special)

    def display(self, text: str) -> str:
        """An answer without its end-of-turn token, for people."""
        return text[: self._tail_start(text, 0)].strip()

    def _tail_start(self, text: str, start: int) -> int:
        """Where the trailing run of white space and special tokens begins, not before `start`."""
        end = len(text)
        while True:
            stripped = len(text[start:end].rstrip()) + start
            special = next((s for s in self._special if text.endswith(s, start, stripped)), None)
            if special is None:
                return stripped
            end = stripped - len(special)

    def _find_end_of_turn(self) -> str | None:
        answer = "plaudit"
        try:
            text = self.render(Chat([Message(role="user", content="?"), Message(role="assistant", content=answer)]))
        except RowProblem:
            # the template wants something else first (tools, a system turn); the first special token of a tail serves
            return None
        tail = text[text.rfind(answer) + len(answer) :]
        return min((s for s in self._special if s in tail), key=lambda s: (tail.find(s), -len(s)), default=None)

    def remarks(self, chat: Chat, text: str) -> list[str]:
        """Notes on what the template does not show, or shows as something else than text."""
        notes = []
        for m in chat.messages:
            content = (m.content or "").strip()
            if m.role == "system" and content not in text:
                notes.append("system_ignored")
            if self.end_of_turn and self.end_of_turn in content:
                notes.append("markers_in_content")
            if m.model_extra:
                notes.append("message_keys")
        if self._lacks_generation_prompt():
            notes.append("no_generation_prompt")
        if chat.tools and not self._shows_tools(chat):
            notes.append("tools_ignored")
        return list(dict.fromkeys(notes))

    def _lacks_generation_prompt(self) -> bool:
        """Whether answers have a header, and the template does not write it where an answer is to come."""
        if self._lacks_header is None:
            asked = Chat([Message(role="user", content="?")])
            try:
                closed, opened = self.render(asked), self.render(asked, open_turn=True)
                text = self.render(Chat([*asked.messages, Message(role="assistant", content="plaudit")]))
            except RowProblem:  # it wants something else first (tools, a system turn)
                self._lacks_header = False
            else:
                header = text[len(closed) : text.rfind("plaudit")] if text.startswith(closed) else ""
                self._lacks_header = opened == closed and bool(header.strip())
        return self._lacks_header

    def _shows_tools(self, chat: Chat) -> bool:
        if self._tools_shown is None:
            before = Chat(chat.messages[:-1] or chat.messages, chat.tools, chat.kwargs)
            bare = Chat(before.messages, None, chat.kwargs)
            self._tools_shown = self.render(before) != self.render(bare)
        return self._tools_shown
