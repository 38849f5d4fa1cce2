"""Servers for Python programs: what `plaudit.api` offers and `plaudit serve` and `plaudit sandbox` call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plaudit.config.packages import need_training_packages
from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.models.load import LoadedModel


def serve(
    model: str | Path | LoadedModel,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_key: str | None = None,
    system: str | None = None,
    max_new_tokens: int = 1024,
    max_rows: int | None = None,
    cache_gib: float | None = None,
    base: str | None = None,
    precision: str = "auto",
    on_message: Callable[[str], None] | None = None,
) -> None:
    """Answer OpenAI's chat and completion requests over HTTP, until Ctrl-C; see docs/generation.md.

    Args:
        model: what `load` takes, or what it gave.
        host, port: where to listen; port 0 takes a free one and says which.
        name: what clients call the model; None = `model` as it was given.
        api_key: clients must send it; None = anybody who reaches the port may ask.
        system: system prompt for conversations that have none; None = the one that training used.
        max_new_tokens: longest answer in a chat where the request does not say.
        max_rows: completions at the same time; None = as many as the engine likes.
        cache_gib: memory for keys and values; None = a share of what is free.
        on_message: told the address, which engine is used, and every request.

    Raises:
        PlauditError: PL102 (the address, an option), PL103, PL3xx for the model.
    """
    from plaudit.serving.server import bound, need_serving_packages, open_to_others, serve_until_stopped

    need_training_packages()
    need_serving_packages()
    say = on_message or (lambda _: None)
    if api_key == "":
        raise ConfigError(
            "PL102",
            "the API key is empty",
            mend="give one, or leave --api-key (PLAUDIT_API_KEY) out",
            where="--api-key",
        )
    if max_new_tokens < 1:
        raise ConfigError("PL102", f"max_new_tokens is {max_new_tokens}", mend="at least 1", where="--max-new-tokens")
    with bound(host, port) as at:
        if api_key is None and open_to_others(at):
            say(f"warning: every machine that reaches {host} may ask; --api-key limits it to those who know the key")
        from plaudit.inference.sampling import Sampler
        from plaudit.serving.app import Service

        sampler = Sampler.of(
            model, base=base, precision=precision, system=system, max_rows=max_rows, cache_gib=cache_gib
        )
        say(sampler.note)
        service = Service(
            sampler,
            name or (str(model) if isinstance(model, (str, Path)) else "plaudit"),
            max_new_tokens=max_new_tokens,
            api_key=api_key,
            on_message=on_message,
        )
        serve_until_stopped(service, at, say)


def serve_sandbox(
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int | None = None,
    site_packages: bool = False,
    api_key: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> None:
    """Run programs for the reward `code` of other machines, isolated, until Ctrl-C; see docs/rewards.md.

    Args:
        host, port: where to listen; port 0 takes a free one and says which.
        workers: programs at the same time; None = one per core.
        site_packages: programs may import the packages that are installed here.
        api_key: clients must send it; None = anybody who reaches the port may run programs.
        on_message: told the address, and every request that failed.

    Raises:
        PlauditError: PL102 (the address, an option), PL103, PL707: this machine cannot isolate.
    """
    from plaudit.serving.server import need_serving_packages

    need_serving_packages()
    if api_key == "":
        raise ConfigError(
            "PL102",
            "the API key is empty",
            mend="give one, or leave --api-key (PLAUDIT_API_KEY) out",
            where="--api-key",
        )
    from plaudit.serving import sandbox_server

    sandbox_server.serve_sandbox(
        host,
        port,
        workers=workers,
        site_packages=site_packages,
        api_key=api_key,
        on_message=on_message or (lambda _: None),
    )
