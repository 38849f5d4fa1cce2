"""`plaudit harden`."""

from __future__ import annotations

from pathlib import Path

import typer

from plaudit.cli.exits import going_on
from plaudit.runs.readers import outliving_readers


def command(
    reward: str = typer.Argument(..., help="A run of `plaudit reward`, a reward model's folder, or an ensemble's."),
    policy: list[str] = typer.Option(  # noqa: B008
        ..., "--policy", help="A model or run directory whose answers are looked at; can be given several times."
    ),
    output_dir: Path = typer.Option(..., help="Folder for everything: new, empty, or begun by the same command."),  # noqa: B008
    data: list[str] = typer.Option(  # noqa: B008
        [], help="The pairs that the reward model was trained on; default: those of its run. Several times."
    ),
    eval_data: list[str] = typer.Option(  # noqa: B008
        [], help="Pairs that no training sees; default: the run's held-out ones. Several times."
    ),
    second: str = typer.Option(None, help="A second reward model; default: trained like the first, with seed + 1."),
    config: str = typer.Option(None, help="The training (YAML) of reward models that do not come from a run."),
    n: int = typer.Option(4, "--n", "-n", min=1, help="Answers to each prompt, of each policy."),
    max_prompts: int = typer.Option(None, min=1, help="Most prompts that are answered; default: all."),
    max_new_tokens: int = typer.Option(256, min=1, help="Longest answer in tokens."),
    temperature: float = typer.Option(1.0, help="Of the sampled answers."),
    seed: int = typer.Option(0, help="Of the sampled answers."),
    score: str = typer.Option(
        None, help="What has to be high: the first member's score, or the mean. Default: mean for an ensemble."
    ),
    quantile: float = typer.Option(
        None, min=0, max=1, help="High = above this quantile of chosen scores; default: above its prompt's chosen one."
    ),
    disagreement: str = typer.Option("std", help="Of the members: std, or difference (the first less the others)."),
    z: float = typer.Option(1.96, help="How unusual it has to be, in standard deviations; -inf with --gold only."),
    per_prompt: int = typer.Option(1, min=1, help="Most pairs that one prompt gives."),
    keep_truncated: bool = typer.Option(False, "--keep-truncated", help="Answers cut at --max-new-tokens count too."),
    gold: list[str] = typer.Option(  # noqa: B008
        [], help="A reward that knows better; what it finds as good as the chosen answer is not added. Several times."
    ),
    weight: float = typer.Option(1.0, help="How often the adversarial pairs are seen, relative to their number."),
    held_out: float = typer.Option(0.2, min=0, max=1, help="Share of the prompts that is only measured on."),
    rounds: int = typer.Option(1, min=1, help="Rounds; each scores fresh answers with the hardened model."),
    find_only: bool = typer.Option(
        False, "--find-only", help="Stop when the pairs are written, before any retraining."
    ),
    system: str = typer.Option(None, help="System prompt for the policies; default: that of their run."),
    base: str = typer.Option(None, help="The base model, when a reward model is an adapter that does not name it."),
    precision: str = typer.Option("auto", help="Of sampling and scoring: auto, fp32 or bf16."),
    tokens: int = typer.Option(8192, min=1, help="Packed tokens of one forward pass of scoring."),
    overlong: str = typer.Option("error", help="Beyond a model's positions: error, or truncate (the oldest tokens)."),
    invalid: str = typer.Option("error", help="Rows that cannot be used: error, or drop (and count)."),
) -> None:
    """Find answers that score high and divide reward models, add them as rejected, and train again.

    After Adv-RM. The pairs are in OUTPUT_DIR/adversarial.jsonl: with --find-only they can be read and edited before the
    same command without it trains on them. Giving the same command again goes on where it was stopped.
    """
    from plaudit.api import harden
    from plaudit.cli.harden_view import show

    with going_on(), outliving_readers():
        done = harden(
            reward,
            policies=policy,
            output_dir=output_dir,
            data=data or None,
            eval_data=eval_data or None,
            second=second,
            config=config,
            n=n,
            max_prompts=max_prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            score=score,
            quantile=quantile,
            disagreement=disagreement,
            z=z,
            per_prompt=per_prompt,
            keep_truncated=keep_truncated,
            gold=gold or None,
            weight=weight,
            held_out=held_out,
            rounds=rounds,
            find_only=find_only,
            system=system,
            base=base,
            precision=precision,
            tokens=tokens,
            overlong=overlong,
            invalid=invalid,
            on_message=lambda text: typer.echo(text, err=True),
        )
    show(done)
