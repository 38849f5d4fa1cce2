"""`plaudit rewards`: the list, one in detail, tasks of reasoning-gym, and the probe."""

from __future__ import annotations

import json
from pathlib import Path

import typer

app = typer.Typer(
    help="List the rewards, explain one, make tasks for one, or attack one with known hacks.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def _list(context: typer.Context) -> None:
    """List the rewards; explain one; make tasks; attack a reward with known hacks."""
    if context.invoked_subcommand is not None:
        return
    from plaudit.rewards.registry import listed

    rewards = listed()
    width = max(map(len, rewards)) + 2
    for kind, cls in rewards.items():
        typer.echo(f"{kind:<{width}}{cls.title}")
    typer.echo("\n`plaudit rewards show NAME` explains one; `plaudit score DATA --reward NAME` uses it.")


@app.command("show")
def show(name: str = typer.Argument(..., help="A reward, or part (the options of all), or a shaping.")) -> None:
    """Explain a reward with its options."""
    from plaudit.cli.rewards_help import describe

    for line in describe(name):
        typer.echo(line)


@app.command("tasks")
def tasks(
    name: str = typer.Argument(None, help="A task; without one they are listed."),
    size: int = typer.Option(100, min=1, help="How many rows."),
    seed: int = typer.Option(0, help="The same seed gives the same rows."),
    option: list[str] = typer.Option([], "--option", help="key=value for the task; can be given several times."),  # noqa: B008
    output: Path = typer.Option(None, "--output", "-o", help="File for the JSONL; default is stdout."),  # noqa: B008
) -> None:
    """Make rows of a reasoning-gym task, for the reward reasoning_gym."""
    from plaudit.cli.generate import check_rows_file
    from plaudit.rewards.verifiers.gym import task_names, task_rows

    if name is None:
        for each in task_names():
            typer.echo(each)
        return
    if output is not None:
        check_rows_file(output)
    lines = [json.dumps(row, ensure_ascii=False) for row in task_rows(name, size, seed, option)]
    if output is None:
        for line in lines:
            typer.echo(line)
    else:
        output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        typer.echo(f"{len(lines)} rows of {name} in {output}")


@app.command("probe")
def probe(
    reward: str = typer.Argument(..., help="As in `plaudit score --reward`."),
    against: str = typer.Option(
        None, help="math, choice, exact, code, json or text; default is what the reward's kind or columns say."
    ),
    column: str = typer.Option(None, help="The column that your function reads the reference from. Default: answer."),
    seconds: float = typer.Option(300.0, min=0.1, help="Longest time for an answer, or for those to one problem."),
) -> None:
    """Attack a reward with known hacks. Exit code 1 where one is rewarded, or a right answer is not."""
    from plaudit.cli.probe_view import show_probe
    from plaudit.rewards.probe.apart import probe_apart

    found = probe_apart(reward, against=against, column=column, seconds=seconds)
    show_probe(found)
    if not found.passed:
        raise typer.Exit(1)
