"""The top of the command line: methods by family, the other commands, and names that people try."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from plaudit.cli.registry import families, listed
from plaudit.errors import SIGNALLED, ConfigError
from plaudit.runs.readers import to_nowhere
from plaudit.train.interrupt import Interrupted

_UsageError: Any = typer.BadParameter.__base__
"""click's, of whichever click typer uses: some versions bring their own."""
_NO_COMMAND = re.compile(r"No such command '(.+?)'")
_GUESS = re.compile(r" \(?(?:Did you mean|Possible options:) (.+?)[?)]+$")


def heading(name: str) -> str:
    """One line about a method and its variants."""
    count = len(families()[name])
    title = listed()[name].title
    return f"{title}." if not count else f"{title}, and {count} variant{'s' if count > 1 else ''} of it."


class Commands(TyperGroup):
    """The group of all commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        methods = listed()
        others = {n: command for n, command in self.commands.items() if n not in methods and not command.hidden}
        with formatter.section("Methods"):
            formatter.write_dl([(name, heading(name)) for name in families()])
            formatter.write_text(f"`plaudit methods` lists all {len(methods)}; each has a command of its name.")
        with formatter.section("Commands"):
            width = formatter.width - 6 - max(map(len, others))
            formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in others.items()])
            more = sorted(name for name, command in self.commands.items() if command.hidden)
            formatter.write_text(f"More: {' '.join(more)}")

    def invoke(self, ctx: Any) -> Any:
        """As usual; what is wrong with a command line is said like every other mistake.

        Raises:
            ConfigError: PL102 for a command, option or argument that click refuses.
            Interrupted: after Ctrl-C, of which typer would say nothing.
            Exit: 141, the reader of the output has gone (`plaudit config schema | head`).
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted(signal.SIGINT, str(stop) or "interrupted") from None
        except BrokenPipeError:
            to_nowhere(sys.stdout)
            raise typer.Exit(SIGNALLED + signal.SIGPIPE) from None
        except _UsageError as error:
            if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":  # which shows the help
                raise
            said, command = error.format_message(), error.ctx.command_path
            guess = _GUESS.search(said)
            meant = f"did you mean {guess[1]}? " if guess else _in_front(said, error.ctx)
            raise ConfigError(
                "PL102",
                (said[: guess.start()] if guess else said).rstrip("."),
                where=command,
                mend=f"{meant}`{command} --help` says how it is called",
            ) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """As usual; a name that is known elsewhere is explained.

        Raises:
            ConfigError: PL101 for the name of a method of another tool.
        """
        if args and args[0] not in self.commands:
            from plaudit.config.origins import explain_method

            if explain_method(args[0]) is not None:
                from plaudit.methods import find

                find(args[0])  # there is none of this name: raises, and says what to use
        return super().resolve_command(ctx, args)


def _in_front(said: str, ctx: Any) -> str:
    """What to say to a path where a command was expected."""
    path = _NO_COMMAND.match(said)
    if path is None or not Path(path[1]).exists():
        return ""
    names = ["init"] if ctx.parent is None else [n for n, command in ctx.command.commands.items() if not command.hidden]
    return f"a command comes before the path: {', '.join(f'{ctx.command_path} {name} {path[1]}' for name in names)}; "
