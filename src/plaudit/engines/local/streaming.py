"""Text as it grows: from tokens to the characters that will not change any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plaudit.engines.local.jobs import cut_at_stop

_UNFINISHED = "\ufffd"  # what the bytes of a character decode to while some are missing


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

    def update(self, tokens: Sequence[int]) -> None:
        """The tokens so far."""
        text = self._decode(tokens).rstrip(_UNFINISHED)
        cut, stopped = cut_at_stop(text, self._stops, self._start(tokens))
        self._send(cut if stopped else text[: len(text) - self._open_stop(text)])

    def _start(self, tokens: Sequence[int]) -> int:
        """The character from which on a stop text counts."""
        return len(self._decode(tokens[: self._least])) if self._stops and self._least else 0

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
