"""Who is asked: anything that continues a conversation, and may say how likely some short replies are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from plaudit.rewards.contract import Failure

Conversation = list[dict[str, str]]
"""Messages with `role` and `content`; the last one is the user's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was said.

    Attributes:
        text: the reply; where options were asked for and nothing had to be generated, the likeliest of them.
        options: log-probability (nats) that the reply is this option, for each option asked for; -inf where it is too
            small to be reported. None where the backend has none. They need not sum to one: a reply may be no option.
    """

    text: str
    options: Mapping[str, float] | None = None

    @property
    def mass(self) -> float:
        """Probability that the reply is one of the options."""
        return math.fsum(math.exp(value) for value in (self.options or {}).values())


class ChatBackend(Protocol):
    """Asked from any thread, and from several at once."""

    def ask(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float,
        options: Sequence[str] | None,
    ) -> list[Reply | Failure]:
        """One reply per conversation, in order.

        Args:
            max_tokens: longest reply.
            temperature: 0 takes the most likely tokens.
            options: short replies ("A", "B" or "1" … "10"), of which one is expected.

        Raises:
            PlauditError: nobody can be asked at all (PL708, or what loading a model raises).
        """
        ...

    def remarks(self) -> list[str]:
        """What is worth telling, in sentences."""
        ...

    def close(self) -> None:
        """End what was started; it can be asked again afterwards."""
        ...
