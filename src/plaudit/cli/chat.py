"""`plaudit chat`."""

from __future__ import annotations

import sys

import typer

_HELP = "/exit leaves, /reset forgets the conversation, /system TEXT sets the system prompt and starts anew"


def command(
    model: str = typer.Argument(..., help="A run directory, adapter folder, model folder, hub id or .gguf file."),
    system: str = typer.Option(None, help="System prompt."),
    temperature: float = typer.Option(0.7, min=0, help="0 takes the most likely token."),
    top_p: float = typer.Option(0.95, help="Keep the smallest set of tokens with this probability."),
    max_new_tokens: int = typer.Option(512, min=1, help="Longest answer in tokens."),
    seed: int = typer.Option(0, help="The same seed and turns give the same answers."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Talk with a model."""
    from plaudit.api import converse

    talk = converse(
        model,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        base=base,
        precision=precision,
    )
    prompt: str | None = system
    if sys.stdin.isatty():
        typer.echo(_HELP)
    while (line := _read()) is not None:
        word, _, rest = line.partition(" ")
        if word == "/exit":
            return
        if word == "/reset":
            talk.reset(system=prompt)
        elif word == "/system":
            prompt = rest.strip() or None
            talk.reset(system=prompt)
        elif line.startswith("/"):
            typer.echo(_HELP)
        elif line:
            typer.echo(talk.say(line))


def _read() -> str | None:
    """The next line; None at the end of the input. Only a person gets a prompt, so that piped answers stay clean."""
    someone = sys.stdin.isatty()
    try:
        return input("> " if someone else "").strip()
    except EOFError:
        if someone:
            typer.echo("")
        return None
