"""The programs behind the commands, for Python: the same names, the same options, the same errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plaudit.config.objects import MEMORY, source_or_rows
from plaudit.config.packages import need_training_packages
from plaudit.data.interface import convert, doctor
from plaudit.errors import ConfigError
from plaudit.inspection.interface import inspect
from plaudit.migration.interface import migrate
from plaudit.preflight.interface import check
from plaudit.recipes.interface import harden
from plaudit.rewards.interface import score
from plaudit.rewards.models.interface import (
    average_reward_models,
    ensemble_reward_models,
    load_reward_model,
    normalise_reward_model,
    score_answers,
)
from plaudit.runs.interface import compare_runs, list_runs, prune_runs, show_run, stop_run, watch_run
from plaudit.runs.readers import outliving_readers
from plaudit.serving.interface import serve, serve_sandbox
from plaudit.starter.interface import init

if TYPE_CHECKING:
    from plaudit.config.load import Resolved
    from plaudit.evaluation.frontier.results import Frontier
    from plaudit.evaluation.reward_evaluation import RewardEvaluation
    from plaudit.inference.merge import Merged
    from plaudit.inference.sampling import Conversation
    from plaudit.models.load import LoadedModel
    from plaudit.runs.observer import Observer
    from plaudit.train.session import TrainResult


def train(
    method: str | None,
    *,
    model: Any = None,
    data: Any = None,
    eval_data: Any = None,
    config: str | Path | Sequence[str | Path] | None = None,
    observers: Sequence[Observer] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a model.

    Args:
        method: name of a method, or the path of a Python file that defines one; None takes it from `config`.
        model: path, hub id or .gguf file; or (model, tokenizer), which is then trained in place.
        data: path or paths; or the rows themselves, a list of dicts or a `datasets.Dataset`.
        eval_data: held-out data, in the forms of `data`.
        config: one or more YAML files; the arguments win over them.
        observers: who is told how it goes, besides the run directory; default is the terminal, () is nobody.
        options: any key of the configuration: `learning_rate=1e-5`, `lora_r=16`, `train={"epochs": 2}`, `bf16=True`.

    Returns:
        The run directory, the last metrics, and the trained model with its tokenizer.

    Raises:
        PlauditError: see docs/errors.md.
    """
    from plaudit.config.load import resolve

    given, objects = dict(options), _Objects()
    if model is not None:
        given["model"] = objects.take_model(model)
    if data is not None:
        given["data"], objects.rows = source_or_rows(data)
    if eval_data is not None:
        given["eval_data"], objects.eval_rows = source_or_rows(eval_data)
    files = [Path(f) for f in ([config] if isinstance(config, (str, Path)) else config or [])]
    with outliving_readers():
        return _run(resolve(method, files, given, objects=objects.any), objects, observers)


def train_from_arguments(method: str | None, arguments: Sequence[str]) -> TrainResult:
    """Train with a command line's arguments: files, key=value and flags."""
    from plaudit.config.load import resolve

    return _run(resolve(method, overrides=arguments), _Objects(), None)


@dataclass(slots=True)
class _Objects:
    """What a Python program handed over instead of naming it."""

    model: Any = None
    tokenizer: Any = None
    rows: Any = None
    eval_rows: Any = None

    @property
    def any(self) -> bool:
        return any(part is not None for part in (self.model, self.rows, self.eval_rows))

    def take_model(self, model: Any) -> Any:
        """The value for the configuration; a loaded model is kept here."""
        if isinstance(model, (str, Path, Mapping)):
            return str(model) if isinstance(model, Path) else model
        if not (isinstance(model, tuple) and len(model) == 2):
            raise ConfigError(
                "PL102",
                "model must be a path, or (model, tokenizer)",
                where="argument model",
                mend="give the folder, or load both: (model, tokenizer)",
            )
        self.model, self.tokenizer = model
        return MEMORY


def _run(resolved: Resolved, objects: _Objects, observers: Sequence[Observer] | None) -> TrainResult:
    need_training_packages()
    from plaudit.inference.sampling import PolicyAnswers
    from plaudit.online.session import OnlineSession
    from plaudit.preflight.run import before_training
    from plaudit.runs.terminal import terminal
    from plaudit.train.running import run_training
    from plaudit.train.session import Session

    shown = [terminal()] if observers is None else list(observers)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks
        for key, value in resolved.defaulted.items():
            for observer in shown:
                observer.on_message(f"{key} is not given: {value} is used")
    return run_training(
        resolved,
        model=objects.model,
        tokenizer=objects.tokenizer,
        rows=objects.rows,
        eval_rows=objects.eval_rows,
        observers=shown,
        answer_sampler=PolicyAnswers(),
        session=OnlineSession if resolved.method.is_online() else Session,
        preflight=None if resolved.run.run.check == "off" else before_training,
    )


def evaluate_reward(
    model: Any,
    data: Any,
    *,
    output: str | Path | None = None,
    weigh: str = "pair",
    by: Sequence[str] = (),
    bins: int | None = None,
    chat: bool | None = None,
    invalid: str = "error",
    overlong: str = "error",
    base: str | None = None,
    precision: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> RewardEvaluation:
    """Measure a reward model on held-out preferences, rankings or RewardBench rows.

    Args:
        model: run directory, model, adapter or ensemble folder, or hub id; a loaded `RewardModel`, or any object with
            its `score`; or None: the rows carry a judge's scores in `chosen_score` and `rejected_score`, or in
            `judge_scores` (rankings; where they have `ranks`, `scores` will do).
        data: path or paths, a list of rows, or a `datasets.Dataset`.
        output: folder for evaluation.json, evaluation.html and scores.jsonl; "auto" is a new one in the run directory
            of the model, else in ./evaluations; None writes nothing.
        weigh: "pair": every pair weighs 1; "prompt": every prompt does, and its pairs share the weight.
        by: columns of the rows; the accuracy is also given for each of their values.
        bins: of the calibration error (even); None = 10, or fewer with few pairs.
        chat: write text as a user's and an assistant's message; None does that for rows of RewardBench where the model
            has a chat template.
        invalid: "error", or "drop" for rows without content or signal.
        overlong: beyond the model's positions: "error", or "truncate" (the oldest tokens are not read, and counted).
        on_progress: told (rows scored, all rows).

    Raises:
        PlauditError: PL102, PL2xx for the rows, PL3xx and PL7xx for the model, PL8xx.
    """
    from plaudit.evaluation.reward_run import evaluate_source

    if model is not None and not hasattr(model, "score"):
        need_training_packages()
    return evaluate_source(
        model,
        data,
        output,
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


def evaluate_frontier(
    models: Any,
    data: Any = None,
    *,
    gold: Any = None,
    proxy: Any = None,
    reference: str | Path | None = None,
    n: int = 4,
    best_of: Sequence[int] = (1, 2, 4, 8, 16),
    pool: int | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    from_log: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    system: str | None = None,
    base: str | None = None,
    precision: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Frontier:
    """Measure proxy and gold reward of a run's states against √KL from the reference, with Gao's laws.

    Args:
        models: a run directory (all states it has kept), or a folder or several of models, adapters or checkpoints.
        data: held-out prompts, in any form that training reads, with the columns that the rewards read.
        gold: the reward that counts; any that `score` takes, or several, which are added. None = the run's watch.gold.
        proxy: the reward that was optimised; None = that of the run.
        reference: None = the model that the run started from.
        n: answers of every model to each prompt.
        best_of: numbers n of the best-of-n curve from the reference; () = none.
        pool: answers of the reference to each prompt; None = the largest of n and best_of.
        temperature, max_new_tokens: None = the run's, else 1 and 256.
        seed: the same seed gives the same answers and intervals.
        from_log: draw what the run has logged (eval/gold); nothing is sampled, and data, rewards and options of
            sampling are not given.
        output: folder for frontier.json, frontier.html and answers/; None = evaluations/frontier-DATA in the run
            directory, else here. The same call goes on where an earlier one was stopped.
        overwrite: sample and score anew.
        system: system prompt for conversations that have none; None = the run's.
        base: the base model, where an adapter does not name a usable one.
        on_progress: told (answers done, all answers).
        on_message: told which engines are used, and warnings.

    Raises:
        PlauditError: PL102, PL2xx for the prompts, PL3xx for models, PL6xx for sampling, PL7xx for rewards, PL8xx.
    """
    need_training_packages()
    from plaudit.evaluation.frontier.run import Options, evaluate_frontier_sources

    options = Options(
        n=n,
        best_of=tuple(best_of),
        pool=pool,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        reference=reference,
        system=system,
        base=base,
        precision=precision,
        overwrite=overwrite,
    )
    return evaluate_frontier_sources(
        models,
        data,
        proxy,
        gold,
        options,
        None if output is None else Path(output),
        from_log=from_log,
        on_progress=on_progress,
        on_message=on_message,
    )


def load(source: str | Path, *, base: str | None = None, precision: str = "auto") -> LoadedModel:
    """Load a model for inference.

    Args:
        source: run directory, adapter folder, model folder, hub id or .gguf file.
        base: the base model, where an adapter does not name a usable one.
        precision: auto, fp32 or bf16.

    Raises:
        PlauditError: PL102, PL103, PL301, PL303, PL306.
    """
    need_training_packages()
    from plaudit.inference.locate import load_located, locate

    return load_located(locate(source, base=base, precision=precision))


def merge(source: str | Path, output: str | Path, *, base: str | None = None, precision: str = "auto") -> Merged:
    """Merge an adapter into its base and write a folder that transformers loads.

    Args:
        source: run directory or adapter folder.
        output: folder to write; it must not exist or be empty.
        precision: of the written weights; auto = the base checkpoint's own.

    Raises:
        PlauditError: PL102, PL103, PL301, PL306 (nothing to merge, or the merged model computes something else).
    """
    need_training_packages()
    from plaudit.inference.merge import merge_adapter

    return merge_adapter(source, Path(output), base, precision)


def generate(
    model: str | Path | LoadedModel,
    *,
    prompts: Sequence[Any] = (),
    prompts_file: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    n: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    stop: Sequence[str] = (),
    seed: int = 0,
    system: str | None = None,
    chat: bool = True,
    token_logprobs: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    max_rows: int | None = None,
    cache_gib: float | None = None,
    base: str | None = None,
    precision: str = "auto",
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Sample completions.

    Args:
        model: what `load` takes, or what it gave.
        prompts: texts or lists of chat messages.
        prompts_file: a file of prompts in any form that training reads, or "-" for lines on stdin.
        columns: map from our field names to that file's column names.
        n: completions per prompt.
        min_p, repetition_penalty, min_new_tokens, stop: see `plaudit.engines.Sampling`.
        chat: put texts of `prompts` (and stdin) into the chat template, where the model has one. Rows of a file are
            taken as training takes them: messages are a chat, text is text.
        token_logprobs: add token_ids, logprobs (of the sampled distribution) and full_logprobs (of the whole softmax).
        output: a .jsonl file that the rows are written to as well. The same call goes on where an earlier one was
            stopped, and gives the rows that were still missing.
        overwrite: begin `output` anew.
        max_rows, cache_gib: completions sampled at the same time, and memory for keys and values; None = as it fits.
        on_message, on_progress: told which engine is used and what was there already; (prompts done, all prompts).

    Returns:
        Rows {row, sample, prompt, completion, finish_reason, tokens, logprob}, with the other columns of a prompt's
        row in the file (an answer, tests) behind them; logprob (nats, summed over tokens) is None at temperature 0.

    Raises:
        PlauditError: PL102, PL103, PL2xx for the prompts, PL3xx for the model, PL6xx for sampling.
    """
    from plaudit.inference.sampling import Sampler, sampled_rows, sampling_options

    sampling = sampling_options(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        stop=tuple(stop),
        seed=seed,
    )
    if bool(prompts) == (prompts_file is not None):
        raise ConfigError(
            "PL102", "give prompts, or a file of prompts", mend="--prompt TEXT, or the path of a file", where="--prompt"
        )
    if columns and prompts_file in (None, "-"):
        raise ConfigError("PL102", "only a file has columns", mend="leave it out", where="--column")
    need_training_packages()
    sampler = Sampler.of(model, base=base, precision=precision, system=system, max_rows=max_rows, cache_gib=cache_gib)
    ids, given = sampler.read(prompts, prompts_file, chat=chat, columns=columns)
    return sampled_rows(
        sampler,
        ids,
        given,
        n,
        sampling,
        per_token=token_logprobs,
        output=None if output is None else Path(output),
        overwrite=overwrite,
        on_message=on_message,
        on_progress=on_progress,
    )


def converse(
    model: str | Path | LoadedModel,
    *,
    system: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    base: str | None = None,
    precision: str = "auto",
) -> Conversation:
    """Start a conversation; its `say` takes a user's turn and returns the answer.

    Raises:
        PlauditError: PL102, PL103, PL208 (no chat template), PL3xx for the model.
    """
    from plaudit.inference.sampling import Conversation, Sampler, sampling_options

    sampling = sampling_options(
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    need_training_packages()
    sampler = Sampler.of(model, base=base, precision=precision)
    return Conversation(sampler, sampling, system)


__all__ = [
    "average_reward_models",
    "check",
    "compare_runs",
    "converse",
    "convert",
    "doctor",
    "ensemble_reward_models",
    "evaluate_reward",
    "generate",
    "harden",
    "init",
    "inspect",
    "list_runs",
    "load",
    "load_reward_model",
    "merge",
    "migrate",
    "normalise_reward_model",
    "prune_runs",
    "score",
    "score_answers",
    "serve",
    "serve_sandbox",
    "show_run",
    "stop_run",
    "train",
    "train_from_arguments",
    "watch_run",
]
