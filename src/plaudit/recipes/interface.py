"""Recipes for Python programs: what `plaudit.api` offers and the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.packages import need_training_packages

if TYPE_CHECKING:
    from plaudit.recipes.harden.report import Hardened
    from plaudit.runs.observer import Observer


def harden(
    reward: str | Path,
    *,
    policies: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    data: Any = None,
    eval_data: Any = None,
    second: str | Path | None = None,
    config: str | Path | None = None,
    n: int = 4,
    max_prompts: int | None = None,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    score: str | None = None,
    quantile: float | None = None,
    disagreement: str = "std",
    z: float = 1.96,
    per_prompt: int = 1,
    keep_truncated: bool = False,
    gold: Any = None,
    weight: float = 1.0,
    held_out: float = 0.2,
    rounds: int = 1,
    find_only: bool = False,
    system: str | None = None,
    base: str | None = None,
    precision: str = "auto",
    tokens: int = 8192,
    overlong: str = "error",
    invalid: str = "error",
    observers: Sequence[Observer] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Hardened:
    """Harden a reward model: find answers that score high and divide its members, and train against them.

    Source: Adv-RM (arXiv 2504.06141). Given the same arguments again, it goes on where it was stopped.

    Args:
        reward: a run of `plaudit reward`, a reward model's folder, or an ensemble's folder.
        policies: models or run directories whose answers are looked at, for example of PPO against the reward model.
        output_dir: folder for everything; new, empty, or begun by the same call.
        data: the pairs or rankings that the reward model was trained on: path or paths, or rows; None = those of its
            run.
        eval_data: pairs that neither training sees; None = the held-out ones of the run.
        second: for a single reward model: another one, to disagree with; None trains it, like the first with its seed
            + 1.
        config: a YAML file with the training of reward models that do not come from a run.
        n: answers to each prompt, of each policy.
        max_prompts: most prompts that are answered; None = all.
        seed: of the sampled answers; policy number p in round k draws from seed + 1000 (k − 1) + p.
        score: "first" or "mean": which standardised score has to be high, the first member's or the members' mean. None
            = "mean" for an ensemble, else "first".
        quantile: an answer is high above this quantile of all chosen answers' scores; None = above the chosen answer of
            its own prompt.
        disagreement: "std", or "difference" (the first member less the mean of the others); see
            `plaudit.recipes.harden.selection`.
        z: how many standard deviations the disagreement must be above the mean of the data's own answers; −inf with
            `gold` only.
        per_prompt: most pairs that one prompt gives.
        keep_truncated: answers that ran into max_new_tokens count too.
        gold: rewards, in the forms of `plaudit.api.score`. An answer that they give at least the value of the chosen
            one is not added.
        weight: how often the adversarial pairs are seen, relative to their number.
        held_out: share of the prompts, by hash, whose adversarial answers are measured on and not trained on.
        rounds: fresh answers of the same policies are scored by the hardened model in each further one.
        find_only: stop when the pairs are written. The same call without it goes on with the file as it is then.
        system: system prompt for the policies' conversations that have none; None = that of their run.
        base: the base model of reward models that are adapters and do not name it.
        tokens, overlong: see `load_reward_model`.
        invalid: "error", or "drop" for rows that cannot be used.
        observers: who is told how the trainings go; None = the terminal.
        on_message: told what is being done.

    Returns:
        What was found, and the reward model before and after.

    Raises:
        PlauditError: PL1xx the arguments, PL2xx the rows, PL3xx models, PL4xx and PL5xx training, PL6xx sampling, PL7xx
            rewards.
        Interrupted: after a signal while a reward model is trained.
    """
    need_training_packages()
    from plaudit.inference.sampling import sampling_options
    from plaudit.recipes.harden.intake import Given
    from plaudit.recipes.harden.options import Options
    from plaudit.recipes.harden.program import run
    from plaudit.runs.terminal import terminal

    named = [policies] if isinstance(policies, (str, Path)) else list(policies)
    options = Options(
        n=n,
        sampling=sampling_options(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed),
        max_prompts=max_prompts,
        criterion=score,  # type: ignore[arg-type]  # this and the others: checked there
        quantile=quantile,
        divergence=disagreement,  # type: ignore[arg-type]
        z=z,
        per_prompt=per_prompt,
        keep_truncated=keep_truncated,
        gold=_several(gold),
        weight=weight,
        held_out=held_out,
        rounds=rounds,
        find_only=find_only,
        system=system,
        precision=precision,
        tokens=tokens,
        overlong=overlong,  # type: ignore[arg-type]
        invalid=invalid,  # type: ignore[arg-type]
    )
    given = Given(
        reward=str(reward),
        policies=tuple(str(p) for p in named),
        output=Path(output_dir),
        data=data,
        eval_data=eval_data,
        second=_text(second),
        config=_text(config),
        base=base,
    )
    return run(given, options, observers=[terminal()] if observers is None else observers, on_message=on_message)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _several(gold: Any) -> tuple[Any, ...]:
    if gold is None:
        return ()
    return tuple(gold) if isinstance(gold, (list, tuple)) else (gold,)
