"""Text and chat messages, and how a prompt is told from an answer when a row mixes the two."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class RowProblem(ValueError):
    """A row cannot be used. Never shown by itself: `prepare` adds file and row and applies the `invalid` policy.

    Args:
        reason: stable key that the report counts by.
        detail: one sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


Role = Literal["system", "user", "assistant", "tool"]


class Message(BaseModel):
    """One chat message. Keys besides these (name, reasoning_content, …) are handed to the chat template."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    role: Role
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    weight: Literal[0, 1] | None = None
    """0: the assistant turn is context only and not trained (the convention of OpenAI's fine-tuning files)."""

    @property
    def says_something(self) -> bool:
        return bool((self.content or "").strip() or self.tool_calls)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it: without empty keys."""
        message: dict[str, Any] = {"role": self.role, "content": self.content or ""}
        for key in ("tool_calls", "tool_call_id", "name"):
            if getattr(self, key) is not None:
                message[key] = getattr(self, key)
        message.update({k: v for k, v in (self.model_extra or {}).items() if v is not None})
        return message


Turns = str | list[Message]


def parse_turns(value: Any, name: str = "") -> Turns:
    """Text, or a list of messages (one message counts as a list).

    Args:
        name: what the problem's sentence begins with: the column. Empty where the caller puts it there (`build`).

    Raises:
        RowProblem: None, another type, an unknown role, a message without content, or a picture.
    """
    try:
        return _parsed(value)
    except RowProblem as problem:
        if not name:
            raise
        raise RowProblem(problem.reason, f"{name} {problem.detail}") from None


def _parsed(value: Any) -> Turns:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "role" in value:
        value = [value]
    if value is None:
        raise RowProblem("missing", "is missing (null)")
    if not isinstance(value, list):
        raise RowProblem("wrong_type", f"is {type(value).__name__}, must be text or a list of messages")
    return [_message(v, i) for i, v in enumerate(value)]


def _message(value: Any, index: int) -> Message:
    at = f"message {index + 1}"
    if isinstance(value, Message):
        return value
    if not isinstance(value, dict) or "role" not in value:
        raise RowProblem("wrong_type", f"{at} must have the keys role and content, is {_short(value)}")
    if value["role"] not in get_args(Role):
        known = get_args(Role)
        near = get_close_matches(str(value["role"]).lower(), known, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise RowProblem("wrong_type", f"{at}: role is {_short(value['role'])}, must be {', '.join(known)}{guess}")
    fields = {k: v for k, v in value.items() if v is not None}
    if isinstance(fields.get("content"), list):
        fields["content"] = _text_parts(fields["content"], at)
    try:
        message = Message(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise RowProblem(
            "wrong_type", f"{at}: {'.'.join(map(str, first['loc']))} is {_short(first['input'])}: {first['msg']}"
        ) from None
    if message.content is None and not message.tool_calls and not message.model_extra:
        raise RowProblem("missing", f"{at} ({message.role}) has no content")
    if not (message.content or "").strip() and message.role in ("user", "system"):
        raise RowProblem("empty", f"{at} ({message.role}) is empty")
    return message


def _text_parts(parts: list[Any], at: str) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise RowProblem("wrong_type", f"{at} has a part of type {kind}; only text is supported")
    return "".join(texts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_messages(value: Turns, role: Literal["user", "assistant"]) -> list[Message]:
    """Text as one message of `role`; messages as they are."""
    return [Message(role=role, content=value)] if isinstance(value, str) else value


def turns_key(turns: Turns) -> str:
    """Text or messages as one string; equal for what a template would show in the same way."""
    if isinstance(turns, str):
        return json.dumps(turns)
    return json.dumps([m.for_template() for m in turns], sort_keys=True, default=str)


def align(a: Turns, b: Turns) -> tuple[Turns, Turns]:
    """Two answers in the same form: when one is messages, the other becomes an assistant message."""
    if isinstance(a, str) and isinstance(b, str):
        return a, b
    return as_messages(a, "assistant"), as_messages(b, "assistant")


def without_prompt(prompt: Turns, answer: Turns, name: str) -> tuple[Turns, Turns]:
    """Prompt and answer in the same form; an answer that repeats the prompt (UltraFeedback) loses that part.

    Raises:
        RowProblem: the answer is a whole conversation, but not one with this prompt.
    """
    if isinstance(prompt, str) and isinstance(answer, str):
        return prompt, answer
    answer_turns = as_messages(answer, "assistant")
    if answer_turns and answer_turns[0].role != "assistant":
        return _out_of_conversation(prompt, answer_turns, name)
    return as_messages(prompt, "user"), answer_turns


def _out_of_conversation(prompt: Turns, conversation: list[Message], name: str) -> tuple[Turns, Turns]:
    if not isinstance(prompt, str):
        head = [m.for_template() for m in conversation[: len(prompt)]]
        if head == [m.for_template() for m in prompt]:
            return prompt, conversation[len(prompt) :]
    else:
        for i in reversed(range(len(conversation))):
            if conversation[i].role == "user" and (conversation[i].content or "").strip() == prompt.strip():
                return conversation[: i + 1], conversation[i + 1 :]
    raise RowProblem("wrong_type", f"{name} is a whole conversation, but the prompt is not its beginning")


def split_shared(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(prompt, chosen, rejected) of a pair without a prompt: the prefix that both share.

    Messages are compared as a whole. Text is cut after the last ``Assistant:`` of a shared prefix (the HH convention),
    else at the last white space of it, so that no word is torn apart.

    Raises:
        RowProblem: nothing is shared, the two are the same, or they differ in a user's turn.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _split_text(chosen, rejected)
    chosen, rejected = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n].for_template() == rejected[n].for_template():
        n += 1
    if n == len(chosen) == len(rejected):
        raise RowProblem("identical", "chosen and rejected are the same, so the pair says nothing")
    if n < min(len(chosen), len(rejected)) and "user" in (chosen[n].role, rejected[n].role):
        what = "chosen and rejected answer different prompts (they differ in a user turn)"
        raise RowProblem("missing" if n == 0 else "wrong_type", what)
    while n and chosen[n - 1].role == "assistant":
        n -= 1
    if n == 0:
        raise RowProblem("missing", "there is no prompt column, and chosen and rejected share no first message")
    for name, rest in (("chosen", chosen[n:]), ("rejected", rejected[n:])):
        if not rest:
            raise RowProblem("empty", f"{name} is empty")
        if rest[0].role != "assistant":
            raise RowProblem("wrong_type", f"{name} must start with an assistant turn after the shared prompt")
        if not any(m.says_something for m in rest if m.role == "assistant"):
            raise RowProblem("empty", f"{name} is empty")
    return chosen[:n], chosen[n:], rejected[n:]


def _split_text(chosen: str, rejected: str) -> tuple[Turns, Turns, Turns]:
    if chosen == rejected:
        raise RowProblem("identical", "chosen and rejected are the same, so the pair says nothing")
    n = shared_length(chosen, rejected)
    marker = "Assistant:"
    cut = chosen.rfind(marker, 0, n)
    if cut >= 0:
        cut += len(marker)
    else:
        cut = n
        if not all(not c or c.isspace() for c in (chosen[n : n + 1], rejected[n : n + 1])):
            while cut and not chosen[cut - 1].isspace():
                cut -= 1
            while cut and chosen[cut - 1].isspace():
                cut -= 1
    if not chosen[:cut].strip():
        raise RowProblem("missing", "there is no prompt column, and chosen and rejected share no beginning")
    for name, rest in (("chosen", chosen[cut:]), ("rejected", rejected[cut:])):
        if not rest.strip():
            raise RowProblem("empty", f"{name} is empty")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def shared_length(a: str, b: str) -> int:
    """Length of the longest common prefix, by bisection (a comparison of slices is much faster than a loop)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
