"""From a resolved configuration to a finished run: everything it needs is made here, what can fail cheaply first."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from plaudit.errors import ModelError, RunError, TrainingError
from plaudit.methods.base import Method, Role
from plaudit.models.adapters import check_base
from plaudit.models.fingerprint import scoring_fingerprint
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import LoadedModel, Outline, load_model, load_outline, outline_of, prepare_model
from plaudit.models.masters import Masters
from plaudit.models.origin import origin_of
from plaudit.models.probe import ProbeResult, probe
from plaudit.models.weights import refuse_no_model
from plaudit.runs import checkpoints
from plaudit.runs.alerts import AlertRules
from plaudit.runs.observer import Observers
from plaudit.runs.rundir import COMPLETE_NAME, MODEL_FOLDER, REPORT_NAME, read_json
from plaudit.train import checkpoint
from plaudit.train.announce import alert_settings, earlier_run_note, oversize_note, plan_of
from plaudit.train.cast import Cast, cast_for, task_of
from plaudit.train.checkpoint_store import CheckpointStore, check_identity, put_weights
from plaudit.train.evaluation import Evaluation, HeldOutLoss
from plaudit.train.export import save_model, usable_model
from plaudit.train.identity import data_fingerprint, method_identity
from plaudit.train.intake import Intake, check_vocabulary, take_in
from plaudit.train.interrupt import Halted, StopRequest
from plaudit.train.keeper import ModelKeeper
from plaudit.train.kl_grid import KLGrid
from plaudit.train.loop import Sampler, Trainer
from plaudit.train.optimizer import build_optimizer, check_optimizer
from plaudit.train.parallel import World
from plaudit.train.prepared import Preflight, Prepared
from plaudit.train.reference import ReferenceCache, default_folder
from plaudit.train.reference_role import ReferenceKind, asked_ahead
from plaudit.train.samples import scored_rows, with_pairs
from plaudit.train.schedule import Schedule
from plaudit.train.scorer import GroupScorer
from plaudit.train.sharding import Sharding, check_sharding, sharding_for
from plaudit.train.source import GivenGroups, Preparer, StepSource
from plaudit.train.step import StepRunner
from plaudit.train.token_budget import Demand, Settling, with_tokens
from plaudit.train.work import Work
from plaudit.types import PromptGroup

if TYPE_CHECKING:
    from plaudit.config.load import Resolved

AnswerSampler = Callable[[ForestModel, Any, Sequence[PromptGroup]], Sequence[Mapping[str, Any]]]
"""(policy, tokenizer, groups) → one sample row per group; given by a layer above, which knows engines."""

_SUMMARY = {"steps", "method", "best_metric", "best", "best_step", "train_seconds", "reference_tokens"}
"""what a summary holds besides metrics"""
_AHEAD = 256  # groups per progress message while the reference is computed ahead


@dataclass(slots=True)
class TrainResult:
    """What a run leaves behind."""

    run_dir: Path
    metrics: dict[str, float]
    """last training metrics and last evaluation"""
    model: nn.Module
    """the trained model, in memory"""
    tokenizer: Any
    steps: int
    reference_tokens: int
    """packed tokens of reference forwards; 0 when all log-probs came from the cache"""
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Parts:
    """What a run is made of once its model and data are there."""

    model: ForestModel
    loaded: LoadedModel
    intake: Intake
    schedule: Schedule
    cast: Cast
    runner: StepRunner
    answer_sampler: AnswerSampler | None


class Session:
    """One run from loading to the final report. `plaudit.online` has one for methods that sample."""

    samples = False
    """whether it has what methods need that sample their own completions"""

    def __init__(self, resolved: Resolved, world: World, run: Any, channel: Observers) -> None:
        self.stop = StopRequest()
        self.resolved, self.config, self.world, self.run, self.channel = resolved, resolved.run, world, run, channel
        self.method: Method = resolved.method(resolved.method_config)
        self.sharding: Sharding | None = None
        self.described: dict[str, Any] = {}
        """further rows of the plan"""
        self._check()

    def execute(
        self,
        model: Any,
        tokenizer: Any,
        rows: Any,
        eval_rows: Any,
        answer_sampler: AnswerSampler | None,
        preflight: Preflight | None = None,
    ) -> TrainResult:
        """From nothing to the end of the run. Arguments as for `run_training`."""
        if self.run.is_complete:
            return self._completed(self._load(model, tokenizer), rows, eval_rows)
        prepared = self.prepare(model, tokenizer, rows, eval_rows, answer_sampler)
        trainer = prepared.trainer
        rows = self._checked(prepared, preflight) if preflight is not None else {}
        self._score_ahead(prepared)
        resumed = self.store.restore(trainer)
        trainer.grid.restore(trainer.progress)
        self._announce(prepared, rows, resumed)
        try:
            trainer.run()
            return self._finish(trainer, prepared.tokenizer)
        except Halted:
            self.keeper.write_all(trainer, self.channel.on_message)
            self.world.barrier()
            raise
        finally:
            trainer.source.close()
            trainer.masters.release()

    def prepare(
        self, model: Any, tokenizer: Any, rows: Any, eval_rows: Any, answer_sampler: AnswerSampler | None
    ) -> Prepared:
        """Load and check everything that the first step needs, and compute nothing of the run.

        The rows come first where no model in memory is given: they are what is wrong most often, and to read them takes
        a tokenizer; a large model is minutes in coming.
        """
        random.seed(self.config.train.seed)
        torch.manual_seed(self.config.train.seed)
        np.random.seed(self.config.train.seed)  # libraries below may use the legacy generator
        if model is None:
            refuse_no_model(self.config.model.path)
            intake = self._data(load_outline(self.config.model), rows, eval_rows)
            loaded = self._load(None, None)
        else:
            loaded = self._load(model, tokenizer)
            intake = self._data(outline_of(loaded), rows, eval_rows)
        trained = self._model(loaded)
        return self._prepared(trained, loaded, intake, answer_sampler)

    def _completed(self, loaded: LoadedModel, rows: Any, eval_rows: Any) -> TrainResult:
        """The result of a run that needs nothing any more: its last weights and its recorded summary."""
        trained = ForestModel(loaded.model, roles=loaded.roles)
        found = checkpoints.complete(self.run.checkpoints)
        if not found:
            raise RunError(
                "PL502", "the run is complete, but its last checkpoint is gone", where=str(self.run.checkpoints),
                mend="load the model from the folder model/ of the run, or start another run (run.if_exists=new)",
            )  # fmt: skip
        if trained.has_adapters:
            check_base(loaded.model, found[-1] / "adapter")
        snapshot = checkpoint.load(found[-1])
        saved = dict(snapshot.progress["identity"])
        # A model in memory may have been trained on meanwhile; data and method must still be the run's own.
        saved.pop("the model")
        check_identity(saved, self._identity(self._data(outline_of(loaded), rows, eval_rows)), self.run.path)
        masters = Masters([("", trained)])
        put_weights(found[-1], snapshot, masters)
        masters.release()
        complete = read_json(self.run.path / COMPLETE_NAME)
        summary = dict(complete["summary"]) if complete else {}
        metrics = {name: value for name, value in summary.items() if name not in _SUMMARY}
        model = usable_model(trained)
        return TrainResult(self.run.path, metrics, model, loaded.tokenizer, summary["steps"], 0, summary)

    # -- parts

    @property
    def temperature(self) -> float:
        """What logits are divided by in every log-prob."""
        return 1.0

    def _check(self) -> None:
        """What can be refused before anything is loaded."""
        config, method = self.config, self.method
        check_optimizer(config.train)
        check_sharding(config, method)
        if method.is_online() and not self.samples:
            raise TrainingError(
                "PL405",
                f"{method.name} samples its own completions; this loop trains on given ones",
                where="method.name",
                mend="start it with plaudit.api.train, or the command line",
            )
        if config.lora is not None and config.lora.dropout > 0 and method.scope == "step":
            raise ModelError(
                "PL305",
                f"{method.name} scores every step twice, and dropout would make the two passes differ",
                where="lora.dropout",
                mend="set it to 0",
            )

    def _load(self, model: Any, tokenizer: Any) -> LoadedModel:
        if model is None:
            return load_model(self.config.model, self.config.lora, task=task_of(self.method))
        return prepare_model(model, tokenizer, self.config.model, self.config.lora, task=task_of(self.method))

    def _model(self, loaded: LoadedModel) -> ForestModel:
        bos_id = loaded.tokenizer.bos_token_id
        model = ForestModel(loaded.model, roles=loaded.roles, bos_id=bos_id)
        wanted = self.config.model.attention
        self.probed: ProbeResult = probe(model, None if wanted == "auto" else wanted)
        model.set_path(self.probed.path)
        for note in (*loaded.notes, *self.probed.notes, *earlier_run_note(self.config)):
            self.channel.on_message(note)
        self.channel.on_message(
            f"parity probe: the {self.probed.path} path and the model's own agree to {self.probed.error:.1e} nats"
        )
        self.origin = replace(origin_of(loaded.model), system_prompt=self.config.data.system_prompt)
        return model

    def _data(self, outline: Outline, rows: Any, eval_rows: Any) -> Intake:
        intake = take_in(self.config.data, self.method, outline, rows, eval_rows)
        self._report_data(intake)
        return intake

    def _report_data(self, intake: Intake) -> None:
        if self.world.is_main and not self.run.is_complete:
            self.run.write_data_report(intake.report())
        for line in intake.lines():
            self.channel.on_message(line)

    def _cache(self, model: ForestModel, kind: ReferenceKind) -> ReferenceCache | None:
        where = self.config.run.reference_cache
        if kind in ("none", "moving") or (where == "off" and kind != "computed ahead"):
            # Kept in memory alone, a score would be another one (to rounding) after a resume.
            return None
        folder = None if where == "off" else Path(where).expanduser() if where else default_folder()
        options = f"path={model.path} dtype={model.dtype} temperature=1"
        return ReferenceCache(folder if self.world.is_main else None, self.start, options)

    def _prepared(
        self,
        model: ForestModel,
        loaded: LoadedModel,
        intake: Intake,
        answer_sampler: AnswerSampler | None,
    ) -> Prepared:
        data, held_out = intake.train, intake.held_out
        check_vocabulary(intake.groups(), loaded.tokenizer, model.vocabulary)
        self.trained_on = data.groups
        config, world = self.config, self.world
        self.method.observe(data.groups)
        for note in self.method.notes():
            self.channel.on_message(note)
        self.start = scoring_fingerprint(model.model, adapters=config.lora is not None and config.lora.path is not None)
        cast = self._cast(model, loaded)
        kind, models = cast.reference, cast.models
        cache = self._cache(model, kind)
        settling = Settling(config, cast, world, self.run, self.channel.on_message)

        def demand() -> Demand:
            return self._demand(cast, intake)

        self.budget = settling.budget(demand)
        config = self.config = with_tokens(config, self.budget)
        budget = self.budget.tokens
        self.scorer = GroupScorer(models, world, budget, cache, temperature=self.temperature)
        schedule = Schedule.of(
            config, data.source_sizes, data.source_weights, held_out is not None, self.method.min_groups
        )
        eval_groups = held_out.groups if held_out else []
        if larger := oversize_note(self.method, model, budget, [*data.groups, *eval_groups]):
            self.channel.on_message(larger)
        if kind != "none":
            self.channel.on_message(f"reference: {kind}")
        masters = cast.masters
        runner = StepRunner(models, world, budget)
        parts = Parts(model, loaded, intake, schedule, cast, runner, answer_sampler)
        source, evaluation, sampler = self._steps(parts)
        assert config.train.learning_rate is not None
        peaks = dict.fromkeys(cast.weights, config.train.learning_rate) | self._peaks()
        self.keeper = ModelKeeper(
            self.run, world, model, loaded.tokenizer, self.origin, data.groups, budget, self.sharding
        )
        self.store = CheckpointStore(self.run, config.checkpoint.keep, world, self.keeper.adapter_writer)
        trainer = Trainer(
            config=config,
            method=self.method,
            model=model,
            masters=masters,
            optimizer=build_optimizer(config.train, cast.weights, peaks),
            weights=cast.weights,
            peaks=peaks,
            limits=dict.fromkeys(cast.weights, config.train.max_grad_norm) | self._limits(),
            runner=runner,
            world=world,
            source=source,
            evaluation=evaluation,
            schedule=schedule,
            observers=self.channel,
            alerts=AlertRules(alert_settings(config, self.method)),
            store=self.store,
            grid=KLGrid(config.checkpoint.kl_grid, self.run, world, self.keeper.write_light),
            identity={"the model": self.start, **self._identity(intake)},
            sampler=sampler,
            moving=cast.moving,
            stop=self.stop,
        )
        return Prepared(
            resolved=self.resolved,
            config=config,
            method=self.method,
            world=world,
            path=Path(self.run.path),
            resumes=world.from_main(bool(checkpoints.complete(self.run.checkpoints)) if world.is_main else False),
            parity=self.probed.error,
            tokenizer=loaded.tokenizer,
            intake=intake,
            cast=cast,
            budget=self.budget,
            settling=settling,
            demand=demand,
            work=Work.of(config, self.method, schedule, data.groups, model, budget),
            trainer=trainer,
            described=self.described,
            say=self.channel.on_message,
            try_rewards=self._trial_of_rewards(intake),
        )

    def _trial_of_rewards(self, intake: Intake) -> Callable[[], Sequence[tuple[str, str]]] | None:
        """See `Prepared.try_rewards`."""
        return None

    def _peaks(self) -> dict[Role, float]:
        """Peak learning rates of roles that have one of their own."""
        return {}

    def _limits(self) -> dict[Role, float | None]:
        """Gradient norms that roles with a limit of their own are clipped at."""
        return {}

    def _cast(self, model: ForestModel, loaded: LoadedModel) -> Cast:
        self.sharding = sharding_for(self.config.train.sharding, self.world, model.device, self.channel.on_message)
        return cast_for(self.method, model, spread=None if self.sharding is None else self.sharding.spread)

    def _demand(self, cast: Cast, intake: Intake) -> Demand:
        return Demand.of(self.config, self.method, cast.trained.bos_id, intake.train.groups, self.temperature)

    def _steps(self, parts: Parts) -> tuple[StepSource, Evaluation, Sampler | None]:
        """What the steps train on, what an evaluation measures, and what it shows."""
        config = self.config
        held_out = parts.intake.held_out.groups if parts.intake.held_out else []
        preparer = Preparer(self.method, self.scorer, config.train.seed, parts.intake.max_length)
        return (
            GivenGroups(self.method, parts.intake.train.groups, parts.schedule, preparer),
            HeldOutLoss(self.method, held_out, config.train.groups_per_step, preparer, parts.runner, self.world),
            self._sampler(parts.model, parts.loaded, held_out, parts.answer_sampler),
        )

    def _identity(self, intake: Intake) -> dict[str, str]:
        """Fingerprints of what the run is about besides the model."""
        return {"the data": data_fingerprint(intake.groups()), **method_identity(self.config.method["name"])}

    def _score_ahead(self, prepared: Prepared) -> None:
        """Score with the reference what is cheaper, or only possible, before the first step."""
        kind, intake = prepared.cast.reference, prepared.intake
        if asked_ahead(kind, self.method, self.scorer.cache is not None, prepared.trainer.model.device.type):
            held_out = intake.held_out.groups if intake.held_out else []
            ordered = [intake.train.groups[i] for i in prepared.trainer.schedule.all_groups()]
            self._compute_ahead(ordered + held_out)
        if kind == "computed ahead":
            # From here on the model is no reference any more: a missed group must fail, not be scored by it.
            del prepared.cast.models["reference"]

    def _compute_ahead(self, groups: list[PromptGroup]) -> None:
        """Score everything once before the first step."""
        for start in range(0, len(groups), _AHEAD):
            before = self.scorer.reference_tokens
            self.scorer("reference", groups[start : start + _AHEAD])
            if self.scorer.reference_tokens > before:
                self.channel.on_message(
                    f"reference log-probs: {min(start + _AHEAD, len(groups))} of {len(groups)} groups"
                )

    def _sampler(
        self, model: ForestModel, loaded: LoadedModel, eval_groups: list[PromptGroup], answers: AnswerSampler | None
    ) -> Sampler | None:
        shown = eval_groups[: self.config.log.samples]
        if not shown:
            return None
        if "reward" in self.method.roles:
            together = self.world if model.sharded else World()
            scorer = GroupScorer({"reward": model}, together, self.budget.tokens)
            return lambda: scored_rows(scorer, loaded.tokenizer, shown)
        if answers is not None and model.sharded:
            self.channel.on_message(
                "no sample answers are shown: they are written by whole weights, and these are sharded"
            )
            return None
        if answers is None:
            return None
        if self.method.data_kind == "preference":
            policy = GroupScorer({"policy": model}, World(), self.budget.tokens, temperature=self.temperature)
            return lambda: with_pairs(answers(model, loaded.tokenizer, shown), policy, loaded.tokenizer, shown)
        return lambda: answers(model, loaded.tokenizer, shown)

    def _checked(self, prepared: Prepared, preflight: Preflight) -> Mapping[str, str]:
        found = preflight(prepared)
        if self.world.is_main:
            self.run.write_check(found.record)
        return found.rows

    def _announce(self, prepared: Prepared, rows: Mapping[str, str], resumed: bool) -> None:
        trainer = prepared.trainer
        plan = {**plan_of(prepared), **rows}
        if resumed:
            plan["resumed"] = f"after step {trainer.progress.step}"
        if self.world.is_main:
            device = trainer.model.device.type
            about = {"device": device, "processes": self.world.size, "base_fingerprint": self.origin.base}
            self.run.add_environment(about)
            self.run.write_plan(plan, trainer.schedule.total_steps)
        self.channel.on_start(plan)
        for alert in trainer.alerts.at_start(trainer.progress.step) if not resumed else []:
            self.channel.on_alert(alert)

    # -- the end

    def _finish(self, trainer: Trainer, tokenizer: Any) -> TrainResult:
        progress = trainer.progress
        summary: dict[str, Any] = {
            "steps": progress.step,
            "method": self.method.name,
            "best_metric": self.config.eval.best_metric if progress.best is not None else None,
            "best": progress.best,
            "best_step": progress.best_step,
            "train_seconds": round(progress.train_seconds, 1),
            "reference_tokens": self.scorer.reference_tokens,
            **progress.last_metrics,
            **trainer.last_eval,
        }
        self.keeper.write_all(trainer, self.channel.on_message)
        if self.world.is_main:
            self.run.mark_complete(summary)
            places = {"model": str(self.run.path / MODEL_FOLDER), "report": str(self.run.path / REPORT_NAME)}
            self.channel.on_finish({**summary, **places})
        self.world.barrier()
        self.close()
        return TrainResult(
            run_dir=self.run.path,
            metrics={**progress.last_metrics, **trainer.last_eval},
            model=self._usable(trainer.model),
            tokenizer=tokenizer,
            steps=progress.step,
            reference_tokens=self.scorer.reference_tokens,
            summary=summary,
        )

    def close(self) -> None:
        """Let go of the files that scoring has open."""
        if self.scorer.cache is not None:
            self.scorer.cache.close()

    def _usable(self, model: ForestModel) -> nn.Module:
        """The trained model for whoever called."""
        return self.keeper.usable()


__all__ = ["Session", "TrainResult", "save_model"]
