"""Reward models for Python programs: what `plaudit.api` offers and `plaudit reward-model` calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.packages import need_training_packages
from plaudit.errors import ConfigError

if TYPE_CHECKING:
    from plaudit.rewards.models.averaging import Averaged
    from plaudit.rewards.models.model import RewardModel, ScoringOptions
    from plaudit.rewards.models.programs import Built, Normalised, ScoredRows


def load_reward_model(
    source: str | Path, *, base: str | None = None, precision: str = "auto", **options: Any
) -> RewardModel:
    """Load a reward model, or an ensemble of them; its `score` takes prompts with answers.

    Args:
        source: run directory of `plaudit reward`, model folder, adapter folder, ensemble folder, or any transformers
            sequence classifier with one label (folder or hub id).
        base: the base model, where an adapter does not name a usable one.
        precision: auto, fp32 or bf16.
        options: `tokens` (packed tokens of one forward pass), `overlong` ("error" or "truncate"), `plain_text`,
            `append_eos`: see `plaudit.rewards.models.model.ScoringOptions`.

    Raises:
        PlauditError: PL102, PL103, PL3xx, PL701-PL703.
    """
    need_training_packages()
    from plaudit.rewards.models.model import RewardModel

    return RewardModel.load(source, base=base, precision=precision, options=_scoring(options))


def _scoring(options: dict[str, Any]) -> ScoringOptions:
    from dataclasses import fields

    from plaudit.rewards.models.model import ScoringOptions

    unknown = set(options) - {f.name for f in fields(ScoringOptions)}
    if unknown:
        names = ", ".join(f.name for f in fields(ScoringOptions))
        raise ConfigError(
            "PL102",
            f"there is no option {min(unknown)!r} of scoring",
            mend=f"options are: {names}",
            where=f"argument {min(unknown)}",
        )
    if options.get("overlong", "error") not in ("error", "truncate"):
        raise ConfigError(
            "PL102", f"overlong is {options['overlong']!r}", mend="use error or truncate", where="overlong"
        )
    if options.get("tokens", 1) < 1:
        raise ConfigError(
            "PL102", f"tokens is {options['tokens']}, must be at least 1", where="tokens", mend="for example 4096"
        )
    return ScoringOptions(**options)


def score_answers(
    model: str | Path | RewardModel,
    data: Any,
    *,
    base: str | None = None,
    precision: str = "auto",
    invalid: str = "error",
    **options: Any,
) -> ScoredRows:
    """Score the answers in rows.

    Args:
        model: what `load_reward_model` takes, or what it gave.
        data: path or paths, a list of rows, or a `datasets.Dataset`: pairs, rankings, lists of answers (`prompt` and
            `completions`), feedback or demonstrations.
        invalid: "error", or "drop" for rows that cannot be used.
        options: as in `load_reward_model`.

    Returns:
        The rows with `score` (one answer), `chosen_score` and `rejected_score` (pairs), `scores` (a list of answers) or
        `judge_scores` (rankings), normalised; computed while they are iterated over. `notes` says what was done.

    Raises:
        PlauditError: PL102, PL103, PL2xx for the rows, PL3xx and PL7xx for the model.
    """
    _check_invalid(invalid)
    need_training_packages()
    from plaudit.rewards.models.programs import score_data

    if isinstance(model, (str, Path)):
        model = load_reward_model(model, base=base, precision=precision, **options)
    return score_data(model, data, invalid=invalid)  # type: ignore[arg-type]  # checked above


def normalise_reward_model(
    model: str | Path,
    data: Any,
    *,
    std: float | None = None,
    output: str | Path | None = None,
    base: str | None = None,
    precision: str = "auto",
    invalid: str = "error",
    **options: Any,
) -> Normalised:
    """Give a reward model the gain and bias under which reference answers have mean 0 (and standard deviation `std`).

    Args:
        model: what `load_reward_model` takes.
        data: reference demonstrations, in the forms of `score_answers`; every answer counts once.
        std: None keeps the model's unit (gain 1).
        output: new or empty folder for a copy; None keeps the numbers in the model's own folder.
        invalid, options: as in `score_answers`.

    Raises:
        PlauditError: PL102, PL103, PL2xx for the rows, PL3xx and PL7xx for the model.
    """
    _check_invalid(invalid)
    need_training_packages()
    from plaudit.rewards.models.programs import normalise_model

    return normalise_model(
        model,
        data,
        std=std,
        output=None if output is None else Path(output),
        base=base,
        precision=precision,
        invalid=invalid,  # type: ignore[arg-type]  # checked above
        options=_scoring(options),
    )


def ensemble_reward_models(
    output: str | Path,
    members: Sequence[str | Path],
    reference: Any,
    *,
    combine: str = "mean",
    uncertainty_weight: float = 0.5,
    base: str | None = None,
    precision: str = "auto",
    invalid: str = "error",
    **options: Any,
) -> Built:
    """Put reward models on one scale and write an ensemble of them.

    Args:
        output: new or empty folder; the members stay where they are.
        members: at least two, each what `load_reward_model` takes, but no ensembles.
        reference: the one set on which all members get mean 0 and standard deviation 1, in the forms of
            `score_answers`.
        combine: "mean", "min" (worst case), or "uwo" (mean − uncertainty_weight · variance).
        invalid, options: as in `score_answers`.

    Raises:
        PlauditError: PL102, PL103, PL2xx for the rows, PL3xx and PL7xx for the models.
    """
    _check_invalid(invalid)
    if combine not in ("mean", "min", "uwo"):
        raise ConfigError("PL102", f"combine is {combine!r}", where="--combine", mend="use mean, min or uwo")
    need_training_packages()
    from plaudit.rewards.models.programs import build_ensemble

    return build_ensemble(
        Path(output),
        members,
        reference,
        how=combine,  # type: ignore[arg-type]  # checked above
        uncertainty_weight=uncertainty_weight,
        base=base,
        precision=precision,
        invalid=invalid,  # type: ignore[arg-type]
        options=_scoring(options),
    )


def average_reward_models(
    output: str | Path,
    members: Sequence[str | Path],
    *,
    check: Any = None,
    tolerance: float = 0.02,
    unchecked: bool = False,
    base: str | None = None,
    invalid: str = "error",
    **options: Any,
) -> Averaged:
    """Average the weights of reward models that share start and head, and write a model folder.

    Args:
        output: new or empty folder.
        members: at least two run directories, model folders or adapter folders.
        check: rows of pairs or rankings on which the average may not be worse than its members are on average.
        tolerance: by how much it may be, as a difference of accuracies.
        unchecked: do not compare what the members started from; the result says so.
        invalid, options: as in `score_answers`.

    Raises:
        PlauditError: PL102, PL103, PL2xx for the rows, PL3xx and PL7xx for the models.
    """
    _check_invalid(invalid)
    need_training_packages()
    from plaudit.rewards.models.averaging import average

    return average(
        members,
        Path(output),
        check=check,
        tolerance=tolerance,
        unchecked=unchecked,
        base=base,
        invalid=invalid,  # type: ignore[arg-type]  # checked above
        options=_scoring(options),
    )


def _check_invalid(invalid: str) -> None:
    if invalid not in ("error", "drop"):
        raise ConfigError("PL102", f"invalid is {invalid!r}", mend="use error or drop", where="invalid")
