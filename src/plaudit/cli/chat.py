"""`plaudit chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from plaudit.errors import PlauditError

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
    """Talk with a model, or with two side by side. Ctrl-C stops an answer, and takes the turn back."""
    from plaudit.api import converse

    names = [model] if against is None else [model, against]
    talks = [
        converse(
            name,
            system=system,
            temperature=temperature,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_new_tokens=max_new_tokens,
            seed=seed,
            base=base if number == 0 else None,
            precision=precision,
        )
        for number, name in enumerate(names)
    ]
    prompt: str | None = system
    if sys.stdin.isatty():
        typer.echo(_HELP)
    while (line := _read()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return
        if word in ("/reset", "/system"):
            prompt = rest.strip() or None if word == "/system" else prompt
            for talk in talks:
                talk.reset(system=prompt)
        elif word == "/regenerate":
            _tell(names, talks, lambda talk, emit: talk.regenerate(emit))
        elif line.startswith("/"):
            typer.echo(_HELP)
        elif line:
            _tell(names, talks, lambda talk, emit, said=line: talk.say(said, emit))  # type: ignore[misc]


def _tell(
    names: Sequence[str],
    talks: Sequence[Conversation],
    turn: Callable[[Conversation, Callable[[str], None]], str | None],
) -> None:
    """Every model's answer, as it comes; with two of them each under its name.

    What stops one of them takes the turn back from all: their conversations must stay the same.
    """
    before = [list(talk.messages) for talk in talks]
    try:
        for name, talk in zip(names, talks, strict=True):
            if len(talks) > 1:
                typer.echo(f"[{name}]")
            answer = turn(talk, _Pieces())
            typer.echo("(nothing was said yet)" if answer is None else "")
            if answer is not None and talk.cut:
                typer.echo("(cut at the longest answer that is allowed: --max-new-tokens)", err=True)
    except (KeyboardInterrupt, PlauditError) as stop:
        for talk, messages in zip(talks, before, strict=True):
            talk.messages = messages
        said = "stopped" if isinstance(stop, KeyboardInterrupt) else str(stop)
        typer.echo(f"\n{said}\n(the turn is taken back)", err=True)


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
