"""`plaudit chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from plaudit.inference.sampling import Conversation

_HELP = (
    "/exit leaves, /reset forgets the conversation, /system TEXT sets the system prompt and starts anew, "
    "/regenerate answers the last turn again"
)


def command(
    model: str = typer.Argument(..., help="A run directory, adapter folder, model folder, hub id or .gguf file."),
    against: str = typer.Option(None, "--against", help="A second model that answers the same turns beside the first."),
    system: str = typer.Option(None, help="System prompt."),
    temperature: float = typer.Option(0.7, min=0, help="0 takes the most likely token."),
    top_p: float = typer.Option(0.95, help="Keep the smallest set of tokens with this probability."),
    min_p: float = typer.Option(0.0, help="Drop tokens with less than this share of the most likely one's."),
    repetition_penalty: float = typer.Option(1.0, help="Divides the logits of tokens that occurred; 1 = off."),
    max_new_tokens: int = typer.Option(512, min=1, help="Longest answer in tokens."),
    seed: int = typer.Option(0, help="The same seed and turns give the same answers."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Talk with a model, or with two side by side. Ctrl-C stops an answer."""
    from plaudit.api import converse

    talks = {
        name: converse(
            name,
            system=system,
            temperature=temperature,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_new_tokens=max_new_tokens,
            seed=seed,
            base=base if name == model else None,
            precision=precision,
        )
        for name in (model, against)
        if name is not None
    }
    prompt: str | None = system
    if sys.stdin.isatty():
        typer.echo(_HELP)
    while (line := _read()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return
        if word in ("/reset", "/system"):
            prompt = rest.strip() or None if word == "/system" else prompt
            for talk in talks.values():
                talk.reset(system=prompt)
        elif word == "/regenerate":
            _tell(talks, lambda talk, emit: talk.regenerate(emit))
        elif line.startswith("/"):
            typer.echo(_HELP)
        elif line:
            _tell(talks, lambda talk, emit, said=line: talk.say(said, emit))  # type: ignore[misc]


def _tell(talks: dict[str, Conversation], turn: Callable[[Conversation, Callable[[str], None]], str | None]) -> None:
    """Every model's answer, as it comes; with two of them each under its name."""
    for name, talk in talks.items():
        if len(talks) > 1:
            typer.echo(f"[{name}]")
        pieces = _Pieces()
        try:
            answer = turn(talk, pieces)
        except KeyboardInterrupt:
            typer.echo("\n(stopped; this turn is forgotten)")
            continue
        typer.echo("(nothing was said yet)" if answer is None else "")


class _Pieces:
    """Writes pieces of an answer, without the white space that some models begin with."""

    def __init__(self) -> None:
        self._begun = False

    def __call__(self, piece: str) -> None:
        if not self._begun:
            piece = piece.lstrip()
        if piece:
            self._begun = True
            sys.stdout.write(piece)
            sys.stdout.flush()


def _read() -> str | None:
    """The next line; None at the end of the input. Only a person gets a prompt, so that piped answers stay clean."""
    someone = sys.stdin.isatty()
    try:
        return input("> " if someone else "").strip()
    except EOFError:
        if someone:
            typer.echo("")
        return None
