"""The command line: one module per command, no logic. Everything done here can be done through `plaudit.api` too.

The modules of this package import nothing heavy: what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys

import typer

from plaudit.cli import (
    chat,
    check,
    completion,
    config,
    convert,
    doctor,
    evaluate,
    generate,
    harden,
    init,
    inspect,
    merge,
    methods,
    migrate,
    report,
    reward_model,
    rewards,
    runs,
    sandbox,
    score,
    serve,
    train,
    watch,
)
from plaudit.cli.exits import guarded
from plaudit.cli.families import Commands
from plaudit.cli.launch import PROGRAM, is_launched, work
from plaudit.cli.registry import listed

app = typer.Typer(
    name="plaudit",
    cls=Commands,
    help="Align language models with feedback. `plaudit COMMAND --help` explains one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    # `main` takes both out of the arguments, so that they work behind a command too; here they are for the help only.
    pass


for _name, _method in listed().items():
    app.command(_name, help=f"{_method.title}.", **train.OPEN)(train.command_for(_name))
app.command("init", short_help="Write a starter configuration for a data file.")(init.command)
app.command("doctor", short_help="Find what is wrong with a data file: repeats, bias, leaks, …")(doctor.command)
app.command("inspect", short_help="Show what would be trained on: rows as tokens, lengths, masks.", **inspect.SETTINGS)(
    inspect.command
)
app.command("check", short_help="Look at a run before it starts: rows, memory, time, disk.", **check.SETTINGS)(
    check.command
)
app.command("train", help="Any method: --method NAME, or --method FILE.py for your own.", **train.OPEN)(train.command)
app.command("generate", short_help="Sample completions, one JSON line each.")(generate.command)
app.command("chat")(chat.command)
app.command("serve", short_help="Answer OpenAI's chat and completion requests over HTTP.")(serve.command)
app.command("score", short_help="Score the answers in rows with any reward.")(score.command)
app.command("harden", hidden=True)(harden.command)
app.command("sandbox", hidden=True)(sandbox.command)
app.command("merge", hidden=True)(merge.command)
app.command("convert", hidden=True)(convert.command)
app.command("completion", hidden=True)(completion.command)
app.command("migrate", hidden=True)(migrate.command)
app.command("methods")(methods.command)
app.command("report", hidden=True)(report.command)
app.command("watch", short_help="Follow a run from another terminal.")(watch.command)
app.add_typer(runs.app, name="runs")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(reward_model.app, name="reward-model", hidden=True)
app.add_typer(rewards.app, name="rewards", short_help="List and explain rewards, make tasks for one, attack one.")
app.add_typer(config.app, name="config")


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from plaudit import __version__

        typer.echo(__version__)
        return
    debug = "--debug" in arguments
    # A process that another command has started (--processes, --detach) says how to go on as that one was called.
    sys.argv[0] = os.environ.pop(PROGRAM, sys.argv[0])

    def run() -> None:
        app(args=[a for a in arguments if a != "--debug"], prog_name="plaudit")

    if is_launched():
        work(run, debug)
    with guarded(debug):
        run()
