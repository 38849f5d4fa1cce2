"""`plaudit evaluate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from plaudit.cli.columns import HELP, sources_of
from plaudit.cli.exits import going_on


class Evaluations(TyperGroup):
    """The group of evaluations; the directory of a run in place of a name is told which of them suits that run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """As usual.

        Raises:
            ConfigError: PL102 for a run directory where a command was expected.
        """
        from plaudit.runs.rundir import CONFIG_NAME

        if args and args[0] not in self.commands and (Path(args[0]) / CONFIG_NAME).is_file():
            from plaudit.errors import ConfigError

            what, mend = _suiting(args[0])
            raise ConfigError("PL102", what, where=f"plaudit evaluate {shlex.quote(args[0])}", mend=mend)
        return super().resolve_command(ctx, args)


def _suiting(run: str) -> tuple[str, str]:
    """What kind of run it is, and how it is evaluated."""
    from plaudit.methods import available
    from plaudit.runs.rundir import read_config

    name = str((read_config(Path(run)).get("method") or {}).get("name"))
    method, shown = available().get(name), shlex.quote(run)
    if method is not None and "policy" not in method.roles:
        return f"a {name} run trains a reward model", f"plaudit evaluate reward {shown} HELD_OUT_PAIRS.jsonl"
    answers = f"its answers are scored with `plaudit evaluate frontier {shown} --data PROMPTS.jsonl --gold REWARD"
    if method is not None and method.is_online():
        return f"a {name} run trains a policy", f"{answers}`, or --from-log for what the run has logged itself"
    return (
        f"a {name} run trains a model that writes, and has no reward of its own",
        f"what it measured on data.eval is in `plaudit runs show {shown}`; {answers} --proxy REWARD`",
    )


app = typer.Typer(
    cls=Evaluations, help="Measure a model: how well does it do what it was trained for?", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass  # with a single command typer would swallow its name


@app.command("reward")
def reward(
    paths: list[str] = typer.Argument(  # noqa: B008  # typer reads defaults
        ...,
        metavar="MODEL DATA...",
        help="A reward model (run directory, model, adapter or ensemble folder, hub id), then files of preferences, "
        "rankings or RewardBench rows. With --scored: files alone.",
    ),
    scored: bool = typer.Option(
        False,
        "--scored",
        help="Any judge: the rows carry its scores in chosen_score and rejected_score, or in judge_scores.",
    ),
    output: Path = typer.Option(  # noqa: B008
        None, "--output", "-o", help="Folder for the files; default is a new one in the run directory or ./evaluations."
    ),
    weigh: str = typer.Option("pair", help="What weighs 1: pair, or prompt (its pairs share the weight)."),
    by: list[str] = typer.Option([], "--by", help="Accuracy by this column too; can be given several times."),  # noqa: B008
    bins: int = typer.Option(None, min=2, help="Bins of the calibration error, even; default is 10, fewer with few."),
    chat: bool = typer.Option(
        None, "--chat/--text", help="Write text rows as chat messages; default is only for RewardBench rows."
    ),
    column: list[str] = typer.Option([], "--column", help=HELP),  # noqa: B008
    invalid: str = typer.Option("error", help="Rows that cannot be used: error, or drop (and count)."),
    overlong: str = typer.Option("error", help="Beyond the model's positions: error, or truncate (the oldest tokens)."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Accuracy, calibration, length bias and best-of-n of a reward model on held-out rows."""
    from plaudit.api import evaluate_reward
    from plaudit.cli.evaluation_view import print_reward, progress

    if scored:
        model, data = None, paths
    else:
        model, data = paths[0], paths[1:]
    with progress() as on_progress:
        evaluation = evaluate_reward(
            model,
            sources_of(data, column),
            output=output or "auto",
            weigh=weigh,
            by=by,
            bins=bins,
            chat=chat,
            invalid=invalid,
            overlong=overlong,
            base=base,
            precision=precision,
            on_progress=on_progress,
        )
    print_reward(evaluation)


@app.command("frontier")
def frontier(
    models: list[str] = typer.Argument(  # noqa: B008
        ...,
        metavar="RUN_OR_MODELS...",
        help="A run directory (all states it has kept), or folders of models, adapters or checkpoints.",
    ),
    data: list[str] = typer.Option([], "--data", help="Held-out prompts; can be given several times."),  # noqa: B008
    gold: list[str] = typer.Option(  # noqa: B008
        [],
        "--gold",
        help="The reward that counts: anything that `plaudit score --reward` takes; several are added. Default: the "
        "run's watch.gold.",
    ),
    proxy: list[str] = typer.Option(  # noqa: B008
        [], "--proxy", help="The reward that was optimised, in the same form. Default: the run's."
    ),
    reference: str = typer.Option(
        None, help="Model that KL and gains are taken against. Default: the one that the run started from."
    ),
    n: int = typer.Option(4, "--n", "-n", min=1, help="Answers of every model to each prompt."),
    best_of: str = typer.Option("1,2,4,8,16", help="Numbers n of the best-of-n curve from the reference, or none."),
    pool: int = typer.Option(
        None, min=1, help="Answers of the reference to each prompt. Default: the largest of --n and --best-of."
    ),
    temperature: float = typer.Option(None, help="Of all answers. Default: the run's, else 1."),
    max_new_tokens: int = typer.Option(None, min=1, help="Longest answer in tokens. Default: the run's, else 256."),
    seed: int = typer.Option(0, help="The same seed gives the same answers and intervals."),
    from_log: bool = typer.Option(False, "--from-log", help="Draw what the run has logged itself (eval/gold)."),
    output: Path = typer.Option(  # noqa: B008
        None, "--output", "-o", help="Folder for the files; default is evaluations/frontier-DATA in the run directory."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Sample and score anew, whatever is there."),
    system: str = typer.Option(None, help="System prompt for conversations that have none. Default: the run's."),
    base: str = typer.Option(None, help="The base model, when an adapter does not name it."),
    precision: str = typer.Option("auto", help="auto, fp32 or bf16."),
) -> None:
    """Proxy and gold reward against √KL, with Gao's laws of over-optimisation, and the best-of-n curve beside it.

    The same command goes on where it was stopped.
    """
    from plaudit.api import evaluate_frontier
    from plaudit.cli.frontier_view import print_frontier, progress

    numbers = _numbers(best_of)
    with going_on(), progress() as (on_progress, on_message):
        found = evaluate_frontier(
            models,
            data or None,
            gold=gold or None,
            proxy=proxy or None,
            reference=reference,
            n=n,
            best_of=numbers,
            pool=pool,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            from_log=from_log,
            output=output,
            overwrite=overwrite,
            system=system,
            base=base,
            precision=precision,
            on_progress=on_progress,
            on_message=on_message,
        )
    print_frontier(found)


def _numbers(text: str) -> tuple[int, ...]:
    """1,2,4 as numbers; none = nothing."""
    if text.strip().lower() == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        from plaudit.errors import ConfigError

        raise ConfigError("PL102", f"{text!r} is no list of numbers", where="--best-of", mend="as in 1,2,4") from None
