"""`plaudit generate`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from plaudit.cli.columns import HELP, columns_of


def command(
    model: str = typer.Argument(..., help="A run directory, adapter folder, model folder, hub id or .gguf file."),
    prompts: str = typer.Argument(None, help="A file of prompts (JSONL, JSON, Parquet, CSV), or - for lines on stdin."),
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="A prompt; can be given several times."),  # noqa: B008
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
    output: Path | None = typer.Option(None, "--output", "-o", help="File for the JSONL; default, and -, is stdout."),  # noqa: B008
    n: int = typer.Option(1, "--n", "-n", min=1, help="Completions per prompt."),
    temperature: float = typer.Option(1.0, min=0, help="0 takes the most likely token."),
    top_p: float = typer.Option(1.0, help="Keep the smallest set of tokens with this probability."),
    top_k: int = typer.Option(None, min=1, help="Keep only the k most likely tokens."),
    min_p: float = typer.Option(0.0, help="Drop tokens with less than this share of the most likely one's."),
    repetition_penalty: float = typer.Option(1.0, help="Divides the logits of tokens that occurred; 1 = off."),
    max_new_tokens: int = typer.Option(256, min=1, help="Longest completion in tokens."),
    min_new_tokens: int = typer.Option(0, min=0, help="No completion ends before this many tokens."),
    stop: list[str] = typer.Option([], "--stop", help="A text that ends a completion; can be given several times."),  # noqa: B008
    seed: int = typer.Option(0, help="The same seed gives the same completions."),
    system: str = typer.Option(None, help="System prompt for conversations that have none."),
    raw: bool = typer.Option(False, "--raw", help="Continue --prompt as plain text instead of answering it as a chat."),
    logprobs: bool = typer.Option(False, "--logprobs", help="Add every token's id and log-prob to the rows."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Begin the output file anew, whatever it holds."),
    max_rows: int = typer.Option(None, min=1, help="Completions sampled at the same time. Default: up to 512."),
    cache_gib: float = typer.Option(None, help="Memory for keys and values, in GiB. Default: a quarter of the free."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Sample completions, one JSON line each: row, sample, prompt, completion, finish_reason, tokens, logprob.

    With --output, giving the same command again goes on where it was stopped.
    """
    from plaudit.api import generate
    from plaudit.runs.resumable import json_line

    output = None if output == Path("-") else output
    if output is not None:
        check_rows_file(output)
    rows = generate(
        model,
        prompts_file=prompts,
        columns=columns_of(column),
        prompts=prompt,
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        stop=stop,
        seed=seed,
        system=system,
        chat=not raw,
        token_logprobs=logprobs,
        output=output,
        overwrite=overwrite,
        max_rows=max_rows,
        cache_gib=cache_gib,
        base=base,
        precision=precision,
        on_message=lambda text: typer.echo(text, err=True),
        on_progress=_progress if output is not None and sys.stderr.isatty() else None,
    )
    for row in rows:
        if output is None:
            typer.echo(json_line(row))


def _progress(done: int, total: int) -> None:
    """One line that is written over, for a person who waits."""
    sys.stderr.write(f"\r{done} of {total} prompts" + ("\n" if done == total else ""))
    sys.stderr.flush()


def check_rows_file(output: Path) -> None:
    """A file for rows, before anything is loaded.

    Raises:
        ConfigError: PL102, it cannot be written, or its name promises another form than JSONL.
    """
    from plaudit.runs.jsonl import refuse_other_forms

    refuse_other_forms(output)
    check_writable(output)


def check_writable(output: Path) -> None:
    """Before the model is loaded: a typo in the name of a folder should not cost minutes."""
    from plaudit.errors import ConfigError

    try:
        output.open("a", encoding="utf-8").close()
    except OSError as error:
        raise ConfigError(
            "PL102",
            f"the file cannot be written: {error.strerror}",
            where=str(output),
            mend="name a file in a folder that exists and can be written",
        ) from error
