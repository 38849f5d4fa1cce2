"""`plaudit serve`."""

from __future__ import annotations

import typer


def command(
    model: str = typer.Argument(..., help="A run directory, adapter folder, model folder, hub id or .gguf file."),
    host: str = typer.Option("127.0.0.1", help="Address to listen at; 0.0.0.0 is every network of the machine."),
    port: int = typer.Option(8000, min=0, max=65535, help="Port; 0 takes a free one and says which."),
    name: str = typer.Option(None, help="What clients call the model. Default: MODEL as given."),
    api_key: str = typer.Option(
        None,
        envvar="PLAUDIT_API_KEY",
        help="Clients must send this key. Default: anybody who reaches the port may ask.",
    ),
    system: str = typer.Option(None, help="System prompt for conversations that have none. Default: the training's."),
    max_new_tokens: int = typer.Option(1024, min=1, help="Longest answer in a chat where the request does not say."),
    max_rows: int = typer.Option(None, min=1, help="Completions at the same time. Default: up to 512."),
    cache_gib: float = typer.Option(None, help="Memory for keys and values, in GiB. Default: a quarter of the free."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Answer OpenAI's chat and completion requests over HTTP: /v1/chat/completions, /v1/completions, /v1/models."""
    from plaudit.api import serve

    serve(
        model,
        host=host,
        port=port,
        name=name,
        api_key=api_key,
        system=system,
        max_new_tokens=max_new_tokens,
        max_rows=max_rows,
        cache_gib=cache_gib,
        base=base,
        precision=precision,
        on_message=lambda text: typer.echo(text, err=True),
    )
