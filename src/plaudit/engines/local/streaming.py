"""Text as it grows: from tokens to the characters that will not change any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plaudit.engines.local.jobs import cut_at_stop

_UNFINISHED = "\ufffd"  # what the bytes of a character decode to while some are missing
_WHOLE_EVERY = 64  # tokens; between them only the end is decoded, or long texts would take quadratic time
_CONTEXT = 8  # tokens before the end that are decoded along: the first one loses its space in some vocabularies


class TextStream:
    """Passes on the text of a completion piece by piece.

    A piece is held back while it may still change: the bytes of an unfinished character, and the beginning of a stop
    text.

    Args:
        decode: all token ids so far → text.
        emit: told every new piece.
        stops: texts that end the completion and are not part of it.
        least: tokens before which they do not.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        emit: Callable[[str], None],
        stops: Sequence[str] = (),
        least: int = 0,
    ) -> None:
        self._decode, self._emit, self._stops, self._least = decode, emit, stops, least
        self._sent = 0
        self._settled = ""  # text of the first `_anchor` tokens
        self._anchor = 0
        self._lead = ""  # text of the last of them, by themselves
        self._behind: int | None = None

    def update(self, tokens: Sequence[int]) -> None:
        """The tokens so far."""
        text = self._text(tokens).rstrip(_UNFINISHED)
        cut, stopped = cut_at_stop(text, self._stops, self._start(tokens))
        self._send(cut if stopped else text[: len(text) - self._open_stop(text)])

    def _start(self, tokens: Sequence[int]) -> int:
        """The character from which on a stop text counts."""
        if not self._stops or not self._least:
            return 0
        if self._behind is None or len(tokens) <= self._least:
            self._behind = len(self._decode(tokens[: self._least]))
        return self._behind

    def _text(self, tokens: Sequence[int]) -> str:
        """All the text so far."""
        if self._anchor and len(tokens) - self._anchor < _WHOLE_EVERY:
            tail = self._decode(tokens[self._anchor - _CONTEXT :])
            if tail.startswith(self._lead):
                return self._settled + tail[len(self._lead) :]
        text = self._decode(tokens)
        if len(tokens) >= _WHOLE_EVERY and not text.endswith(_UNFINISHED):
            self._settled, self._anchor = text, len(tokens)
            self._lead = self._decode(tokens[self._anchor - _CONTEXT :])
        return text

    def finish(self, text: str) -> None:
        """The whole text, as it stands in the completion."""
        self._send(text)

    def _open_stop(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        lengths = [n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(lengths, default=0)

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            self._emit(text[self._sent :])
            self._sent = len(text)
