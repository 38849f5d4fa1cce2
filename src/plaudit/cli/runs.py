"""`plaudit runs`: list, show, compare, prune, stop."""

from __future__ import annotations

from pathlib import Path

import typer

from plaudit.cli import report

app = typer.Typer(
    help="List, show, compare, prune, stop: everything about runs.", no_args_is_help=True, rich_markup_mode=None
)
_RUN = typer.Argument(..., metavar="RUN", help="A run directory.")
_JSON = typer.Option(False, "--json", help="Print JSON.")


@app.command("list")
def list_(
    folder: Path = typer.Argument(Path(), metavar="[FOLDER]", help="Where to look, with all folders below."),  # noqa: B008  # typer reads defaults
    sort: str = typer.Option(
        "started", help="name, method, model, state, step, loss, metric, started, duration or size."
    ),
    reverse: bool = typer.Option(False, "--reverse", help="The other way round."),
    as_json: bool = _JSON,
) -> None:
    """List every run below a folder: state, steps, last loss, main metric, duration, size."""
    from plaudit.api import list_runs
    from plaudit.cli.runs_view import print_runs, sorted_runs

    _know_metrics()
    runs = sorted_runs(list_runs(folder), sort, reverse)
    if as_json:
        _print_json([run.as_dict() for run in runs])
    else:
        print_runs(runs, folder)


@app.command("show")
def show(run: Path = _RUN, as_json: bool = _JSON) -> None:
    """Show one run: what was chosen, data, metrics, alerts, checkpoints, and how to go on."""
    from plaudit.api import show_run
    from plaudit.cli.runs_view import print_overview
    from plaudit.config.changed import changed_keys

    _know_metrics()
    found = show_run(run)
    changed = changed_keys(found.config)
    if as_json:
        _print_json({**found.as_dict(), "changed": {c.key: c.value for c in changed}})
    else:
        print_overview(found, changed)


@app.command("compare")
def compare(
    runs: list[Path] = typer.Argument(..., metavar="RUN RUN...", help="Two or more run directories."),  # noqa: B008
    html: Path = typer.Option(None, "--html", help="Also write a page with the curves of all of them, overlaid."),  # noqa: B008
    as_json: bool = _JSON,
) -> None:
    """Put runs side by side: what differs in their configurations, and their last values."""
    from plaudit.api import compare_runs
    from plaudit.cli.runs_view import print_comparison
    from plaudit.runs.comparison import write_comparison

    _know_metrics()
    found = compare_runs(runs)
    written = write_comparison(found, html) if html is not None else None
    if as_json:
        _print_json(found.as_dict())
    else:
        print_comparison(found)
    if written is not None:
        typer.echo(str(written), err=as_json)


app.command("report")(report.command)


@app.command("prune")
def prune(
    runs: list[Path] = typer.Argument(..., metavar="RUN_OR_FOLDER...", help="Run directories, or folders of runs."),  # noqa: B008
    keep: int = typer.Option(1, min=1, help="So many of the newest checkpoints stay."),
    older_than: str = typer.Option(None, help="Only checkpoints older than this go: 12h, 7d, 2w."),
    yes: bool = typer.Option(
        False, "--yes", help="Delete. Without it nothing is changed, and what would go is listed."
    ),
    as_json: bool = _JSON,
) -> None:
    """Remove checkpoints that nothing needs any more.

    Always kept: the last checkpoint, the one of the best evaluation, those where a model of the KL grid was kept, and
    folders with a name of your own. The trained model is no checkpoint and is never touched; neither is a run that is
    running.
    """
    from plaudit.api import prune_runs
    from plaudit.cli.runs_view import print_pruned, seconds_of

    found = prune_runs(
        runs, keep=keep, older_than=None if older_than is None else seconds_of(older_than), dry_run=not yes
    )
    if as_json:
        _print_json({"deleted": yes, "bytes": sum(p.bytes for p in found), "runs": [p.as_dict() for p in found]})
    else:
        print_pruned(found, yes)


@app.command("stop")
def stop(
    run: Path = _RUN,
    wait: float = typer.Option(None, min=0, help="Longest time to wait for its end in seconds. Default: as it takes."),
) -> None:
    """Ask a run to stop in order: it ends its step, writes a checkpoint, and the same command goes on with it."""
    from plaudit.cli.runs_view import stop_and_wait

    raise typer.Exit(stop_and_wait(run, wait))


def _know_metrics() -> None:
    """A method's file says what its metrics are; one of the user's own is not run for this."""
    from plaudit.methods import available

    available()


def _print_json(value: object) -> None:
    from plaudit.runs import jsonl

    typer.echo(jsonl.dumps(value, indent=2))
