"""`plaudit train`, and a command for every method."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import typer

from plaudit.cli.detach import detach, take_detach
from plaudit.cli.launch import is_launched, launch, take_processes
from plaudit.runs.readers import outliving_readers

OPEN: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,  # the help lists the method's own options
    "options_metavar": "",
}
"""Settings of a command that takes configuration files, key=value and any key as a flag."""

_ARGUMENTS = typer.Argument(None, metavar="[CONFIG.yaml]... [KEY=VALUE]... [--KEY VALUE]...")


def run(method: str | None, arguments: list[str]) -> None:
    """Train with the configuration that the arguments give, or show the help."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        from plaudit.cli.method_help import print_training_help

        print_training_help(method or _named(arguments))
        return
    detached, attached = take_detach(arguments)
    if detached:
        raise typer.Exit(detach(method, attached))
    processes, option, rest = take_processes(attached)
    if option is not None and processes > 1 and not is_launched():
        from plaudit.config.load import resolve

        resolve(method, overrides=rest)  # a mistake is reported once, before anything starts
        raise typer.Exit(launch(processes, option))
    from plaudit.api import train_from_arguments

    with outliving_readers():
        result = train_from_arguments(method, rest)
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"run directory: {result.run_dir}")


def _named(arguments: list[str]) -> str | None:
    """The method that `plaudit train --method NAME --help` asks about."""
    for i, token in enumerate(arguments):
        flag, equals, value = token.partition("=")
        if flag in ("--method", "method", "--method.name", "method.name"):
            return value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return None


def command_for(method: str) -> Callable[..., None]:
    """The command of one method."""

    def command(arguments: list[str] = _ARGUMENTS) -> None:
        run(method, arguments or [])

    return command


def command(arguments: list[str] = _ARGUMENTS) -> None:
    """Any method."""
    run(None, arguments or [])
