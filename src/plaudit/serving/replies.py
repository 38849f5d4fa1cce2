"""Bodies of replies, in the forms of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plaudit.engines.local.jobs import Report
from plaudit.serving.pieces import Pieces

ANSWER_KINDS = {"chat": ("chatcmpl-", "chat.completion"), "completion": ("cmpl-", "text_completion")}


@dataclass(slots=True)
class Reply:
    """What all parts of one reply have in common.

    Args:
        kind: "chat" or "completion".
        model: the name of the served model.
        fingerprint: of its weights.
        pieces: texts of tokens.
        reported: see `ChatRequest.reported`.
    """

    kind: str
    model: str
    fingerprint: str
    pieces: Pieces
    reported: int | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, *, chunk: bool = False) -> Any:
        """A whole reply, or a chunk of a stream."""
        prefix, name = ANSWER_KINDS[self.kind]
        found = {
            "id": prefix + self.id,
            "object": name + (".chunk" if chunk and self.kind == "chat" else ""),
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return found if chunk and usage is None else found | {"usage": usage}

    def choice(
        self, index: int, text: str, reason: str | None, ids: Sequence[int], reports: Sequence[Report]
    ) -> dict[str, Any]:
        """A whole completion."""
        if self.kind == "chat":
            message = {"role": "assistant", "content": text, "refusal": None}
            return self._choice(index, {"message": message}, reason, self._chat_logprobs(ids, reports))
        return self._choice(index, {"text": text}, reason, self._text_logprobs(ids, reports))

    def delta(
        self,
        index: int,
        text: str | None,
        reason: str | None,
        ids: Sequence[int],
        reports: Sequence[Report],
        offset: int = 0,
    ) -> dict[str, Any]:
        """A part of a completion.

        Args:
            text: None for a chat's last part without any.
            offset: characters of the completion's tokens before this part.
        """
        if self.kind == "chat":
            said = {} if text is None else {"content": text}
            return self._choice(index, {"delta": said}, reason, self._chat_logprobs(ids, reports))
        return self._choice(index, {"text": text or ""}, reason, self._text_logprobs(ids, reports, offset))

    @staticmethod
    def opening(index: int) -> dict[str, Any]:
        """What a chat's stream begins with: who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    @staticmethod
    def _choice(index: int, said: dict[str, Any], reason: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": reason}

    def _chat_logprobs(self, ids: Sequence[int], reports: Sequence[Report]) -> dict[str, Any] | None:
        if self.reported is None or not ids:
            return None

        def one(token: int, logprob: float) -> dict[str, Any]:
            text, raw = self.pieces.of(token)
            return {"token": text, "logprob": logprob, "bytes": raw}

        content = []
        for token, report in zip(ids, reports, strict=True):
            top = [one(*pair) for pair in zip(report.top_ids, report.top_logprobs, strict=True)]
            content.append(one(token, report.logprob) | {"top_logprobs": top})
        return {"content": content, "refusal": None}

    def _text_logprobs(
        self, ids: Sequence[int], reports: Sequence[Report | None], offset: int = 0
    ) -> dict[str, Any] | None:
        if self.reported is None or not ids:
            return None
        texts = [self.pieces.text(token) for token in ids]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [None if r is None else r.logprob for r in reports],
            "top_logprobs": [self._top(*pair) for pair in zip(texts, reports, strict=True)],
            "text_offset": offsets,
        }

    def _top(self, text: str, report: Report | None) -> dict[str, float] | None:
        """The most likely tokens and the one that is there; of two with the same text the likelier."""
        if report is None:  # the first token of a prompt has nothing before it
            return None
        found: dict[str, float] = {}
        for token, logprob in zip(report.top_ids, report.top_logprobs, strict=True):
            found.setdefault(self.pieces.text(token), logprob)
        found.setdefault(text, report.logprob)
        return found

    def echoed(
        self, index: int, prompt: tuple[str, Sequence[int], Sequence[Report]], completion: Any
    ) -> dict[str, Any]:
        """A completion behind its prompt.

        Args:
            prompt: text, token ids, reports of all tokens but the first.
            completion: text, reason, token ids, reports.
        """
        text, ids, about = prompt
        own, reason, own_ids, reports = completion
        logprobs = (
            self._text_logprobs([*ids, *own_ids], [None, *about, *reports]) if self.reported is not None else None
        )
        return self._choice(index, {"text": text + own}, reason, logprobs)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Numbers of tokens; a prompt counts once for all its completions."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
