"""A run whose method samples its own answers: `train.session` with an engine, rewards and further roles."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plaudit.config.checks import changed
from plaudit.config.load import Resolved
from plaudit.config.replayed import SAMPLED_WITH
from plaudit.config.schema import RolloutSection
from plaudit.data.prepare import PreparedData
from plaudit.data.render import Renderer
from plaudit.engines.local.memory import default_budget
from plaudit.errors import TrainingError
from plaudit.methods.base import Role
from plaudit.models.forest_model import ForestModel, RoleSpec
from plaudit.models.load import LoadedModel, Outline
from plaudit.models.role_adapters import drop_role_adapters
from plaudit.online.ahead import Ahead
from plaudit.online.evaluation import HeldOutRewards
from plaudit.online.files import Replay, check_owner
from plaudit.online.gold import GoldWatch
from plaudit.online.latents import LatentWatch
from plaudit.online.maker import RolloutMaker
from plaudit.online.own_judge import OwnJudge
from plaudit.online.prompts import PromptChooser
from plaudit.online.ptx import PtxStreams, rows_per_step, take_in_texts
from plaudit.online.sampling import PolicySampler
from plaudit.online.scoring import (
    RewardScorer,
    check_columns,
    check_tasks,
    inner_rewards,
    made_up_sample,
    read_reward,
)
from plaudit.online.source import RolloutSource, Watcher
from plaudit.rewards.models.shared import critic_start
from plaudit.rewards.scoring import guarded
from plaudit.rewards.spec import RewardSpec
from plaudit.rewards.trained import ModelReward
from plaudit.runs.observer import Observers
from plaudit.train.cast import Cast, cast_for
from plaudit.train.critic_role import ValueStart, critic_loader
from plaudit.train.evaluation import Evaluation
from plaudit.train.identity import data_fingerprint
from plaudit.train.intake import Intake, take_in
from plaudit.train.loop import Sampler
from plaudit.train.parallel import World
from plaudit.train.prepared import TRIED_PROMPTS
from plaudit.train.reference import ReferenceCache
from plaudit.train.reference_role import ReferenceKind
from plaudit.train.rehearsal import Workload, made_up, model_bytes
from plaudit.train.roles_line import role_rows
from plaudit.train.schedule import updates_per_batch
from plaudit.train.session import Parts, Session
from plaudit.train.source import StepSource
from plaudit.train.token_budget import Demand


class OnlineSession(Session):
    """One online run from loading to the final report."""

    samples = True

    def __init__(self, resolved: Resolved, world: World, run: Any, channel: Observers) -> None:
        super().__init__(resolved, world, run, channel)
        section = self.config.reward
        assert section is not None
        self.method.longest_sampled = self.rollout.max_new_tokens
        self.method.steps_per_rollout = updates_per_batch(self.config)
        self.spec: RewardSpec | None = read_reward(section)
        gold = self.config.watch.gold
        self.gold: RewardSpec | None = None if gold is None else read_reward(gold)
        self._watch_models()
        self._check_critic_start()
        replay = self.rollout.replay
        self.replay = None if replay is None else Replay(Path(replay).expanduser())
        self.texts: PreparedData | None = None
        """of the second stream"""
        self.shares_reward = False
        """whether a reward model is an adapter on the policy's base"""
        self.judges = [] if self.spec is None else [r for r in inner_rewards(self.spec) if r.of_policy]
        """rewards that the policy gives itself"""
        self._check_judges()

    @property
    def reward_models(self) -> list[ModelReward]:
        """The reward models among the rewards."""
        return [] if self.spec is None else [r for r in inner_rewards(self.spec) if isinstance(r, ModelReward)]

    def _watch_models(self) -> None:
        """Let reward models give what the watch looks at beside their scores.

        Raises:
            TrainingError: PL405, there is none, and a threshold for it.
        """
        watch, models = self.config.watch, self.reward_models
        for model in models:
            model.watched, model.with_latents = True, watch.outliers is not None
        codes = {"above_range": "score_above_range", "disagreement": "members_disagree", "outliers": "reward_outliers"}
        asked = [name for name in (*codes, "outlier_answers") if changed(watch, name)]
        asked += ["stop" for code in codes.values() if code in watch.stop]
        if asked and not models:
            raise TrainingError(
                "PL405",
                "it is about reward models, and no reward is one",
                where=f"watch.{asked[0]}",
                mend="remove it, or add a reward model to reward.rewards",
            )

    def _check_critic_start(self) -> None:
        """A critic predicts the whole reward, and can start as one model of it: which one is for the user to say."""
        critic, models = self.config.critic, self.reward_models
        if critic is not None and critic.start == "reward" and len(models) > 1:
            raise TrainingError(
                "PL405",
                f"the critic is to start as the reward model, and there are {len(models)}: "
                f"{', '.join(f'{m.name} ({m.options.path})' for m in models)}",
                where="critic.start",
                mend="name one of them with critic.path instead (the critic is then a model of its own), or use "
                "critic.start=policy",
            )

    def _check_judges(self) -> None:
        """A policy that judges is asked between sampling and training, and is as it is then."""
        if self.judges and self.rollout.ahead:
            raise TrainingError(
                "PL405",
                f"the policy judges its own answers ({self.judges[0].name}), which it cannot while it is trained",
                where="rollout.ahead",
                mend="set it to 0, or name another judge",
            )

    @property
    def rollout(self) -> RolloutSection:
        """The section `rollout`, complete."""
        assert self.config.rollout is not None
        return self.config.rollout

    @property
    def temperature(self) -> float:
        """See `Session`: that of sampling, or old, new and reference log-probs would be of other distributions."""
        return self.rollout.temperature

    def _check(self) -> None:
        super()._check()
        if self.rollout.ahead and self.world.size > 1:
            raise TrainingError(
                "PL405",
                f"rollout.ahead samples in the background, which {self.world.size} processes cannot do in step",
                where="rollout.ahead",
                mend="set it to 0, or use one process",
            )

    def _data(self, outline: Outline, rows: Any, eval_rows: Any) -> Intake:
        intake = take_in(self.config.data, self.method, outline, rows, eval_rows, reserve=self.rollout.reserve)
        self._report_data(intake)
        where = ", ".join(f.path for f in intake.train.report.files)
        if self.spec is not None:
            check_columns(self.spec, intake.groups(), where)
        if self.rollout.task_column is not None:
            check_tasks(self.rollout.task_column, intake.groups(), where)
        if self.gold is not None and intake.held_out is not None:
            check_columns(self.gold, intake.held_out.groups, "watch.gold")
        if self.config.ptx is not None:
            self.texts = take_in_texts(self.config.ptx, self.config, outline.tokenizer, intake.max_length)
            for line in self.texts.report.summary_lines():
                self.channel.on_message(f"ptx {line}")
        if self.replay is not None:
            self.replay.check_ids(len(outline.tokenizer), intake.max_length)
            if not self.replay.sampled:
                self.channel.on_message(
                    f"{self.replay.path} does not say what it was sampled with: {', '.join(SAMPLED_WITH)} of rollout "
                    "are as configured here; see that they are those of the run that wrote it"
                )
        return intake

    def _trial_of_rewards(self, intake: Intake) -> Callable[[], Sequence[tuple[str, str]]] | None:
        if self.spec is None or self.judges:  # a policy that judges is asked when it has answered
            return None
        reward, groups = self.spec.reward, intake.train.groups[:TRIED_PROMPTS]

        def failures() -> list[tuple[str, str]]:
            results = guarded(reward, [made_up_sample(group) for group in groups])
            return [(r.error.kind, r.error.message) for r in results if r.error is not None]

        return failures

    def _identity(self, intake: Intake) -> dict[str, str]:
        found = super()._identity(intake)
        if self.spec is not None:
            found["the rewards"] = self.spec.identity()
        if self.gold is not None:
            found["the gold reward"] = self.gold.identity()
        if self.texts is not None:
            found["the texts of ptx"] = data_fingerprint(self.texts.groups)
        if self.replay is not None:
            found["the rollouts"] = hashlib.blake2b(self.replay.path.read_bytes(), digest_size=16).hexdigest()
        return found

    def _cache(self, model: ForestModel, kind: ReferenceKind) -> ReferenceCache | None:
        """None: every answer is new, and would only fill the disk."""
        return None

    # -- roles

    def _cast(self, model: ForestModel, loaded: LoadedModel) -> Cast:
        config, tokenizer = self.config, loaded.tokenizer
        rewards = self.reward_models
        for reward in rewards:
            self._share(reward, model)
        self.shares_reward = any(reward.shared for reward in rewards)
        start: ValueStart | None = None
        critic = config.critic
        if critic is not None and (critic.start == "reward" or critic.path is not None):
            scored_by = rewards[0].model if rewards and critic.start == "reward" else None
            start = critic_start(critic, scored_by, tokenizer, precision=config.model.precision)
        found = cast_for(
            self.method, model, critic=critic, start=start, load_critic=critic_loader(config.model, tokenizer)
        )
        self.described |= role_rows(found, shared_reward=self.shares_reward, optimizer=config.train.optimizer)
        return found

    @property
    def _alone(self) -> bool:
        """Whether a reward computes on the policy's own weights."""
        return self.shares_reward or bool(self.judges)

    def _share(self, reward: ModelReward, model: ForestModel) -> None:
        if self.rollout.ahead:
            reason: str | None = "answers are scored beside the training (rollout.ahead)"
        elif self.judges:
            reason = "the policy itself judges at the same time"
        else:
            reason = reward.share(model)
        if reason is not None:
            self.channel.on_message(f"reward model {reward.options.path} is a model of its own: {reason}")

    def _usable(self, model: ForestModel) -> nn.Module:
        drop_role_adapters(model)
        return super()._usable(model)

    def _peaks(self) -> dict[Role, float]:
        critic = self.config.critic
        if critic is None:
            return {}
        if critic.learning_rate is not None:
            return {"critic": critic.learning_rate}
        if self.config.lora is not None and (critic.separate or critic.path is not None):
            rate = self.method.default_learning_rate["full"]
            self.channel.on_message(f"critic.learning_rate is not given: {rate} is used, as for all weights of a model")
            return {"critic": rate}
        return {}

    def _limits(self) -> dict[Role, float | None]:
        critic = self.config.critic
        return {} if critic is None else {"critic": critic.max_grad_norm}

    # -- memory

    def _demand(self, cast: Cast, intake: Intake) -> Demand:
        """See `Session`: answers do not exist yet, so the longest possible ones are made up."""
        count, options, model = self.config.train.groups_per_step, self.rollout, cast.trained
        if self.replay is not None:
            groups = [group for rollout in self.replay.rollouts.values() for group in rollout.groups]
        else:
            answers, vocabulary = options.completions_per_prompt or 1, model.vocabulary
            prompts = intake.train.groups
            groups = made_up(prompts, self.method, count, answers, options.max_new_tokens, vocabulary)
        found = [Workload.of(self.method, groups, count, model.bos_id, self.temperature)]
        if self.config.ptx is not None and self.texts is not None:
            texts = PtxStreams.method_of(self.config.ptx.train_on)
            found.append(Workload.of(texts, self.texts.groups, rows_per_step(self.config), model.bos_id))
        held = 0
        if options.ahead:  # a copy of the policy samples while the policy is trained
            given = options.cache_gib
            cache = default_budget(model.device) if given is None else int(given * 2**30)
            held = model_bytes(model) + cache
        return Demand(found, held)

    # -- the parts of the loop

    def _steps(self, parts: Parts) -> tuple[StepSource, Evaluation, Sampler | None]:
        model, tokenizer = parts.model, parts.loaded.tokenizer
        self.renderer = Renderer(tokenizer, system_prompt=self.config.data.system_prompt)
        held_out = parts.intake.held_out.groups if parts.intake.held_out else []
        asked = self.replay is None or held_out or self.judges
        sampler = self._policy_sampler(model, tokenizer) if asked else None
        if sampler is not None and self.judges:
            own = OwnJudge(model, sampler.engine, tokenizer)
            for judge in self.judges:
                judge.use_policy(own)
        scorer = None if self.spec is None else RewardScorer(self.spec, alone=self._alone)
        if self.replay is not None:
            updates = parts.schedule.steps_per_batch
            if self.method.needs_greedy:
                self.replay.check_greedy()
            self.replay.check(-(-parts.schedule.total_steps // updates), updates)
        if self.rollout.save is not None:
            place = Path(self.rollout.save).expanduser()
            self.world.together(lambda: check_owner(place, str(self.run.path)) if self.world.is_main else [])
        maker = self._maker(parts, sampler, scorer)
        evaluation = self._evaluation(held_out, sampler, scorer, tokenizer)
        watchers: dict[str, Watcher] = {} if evaluation.gold is None else {"gold": evaluation.gold}
        latents = None
        if any(model.with_latents for model in self.reward_models):
            latents = watchers["latents"] = LatentWatch(self.config.watch.outlier_answers)
        source = RolloutSource(
            config=self.config,
            method=self.method,
            chooser=PromptChooser(parts.schedule, self.rollout, self.config.train.seed, len(parts.intake.train.groups)),
            schedule=parts.schedule,
            maker=maker,
            scorer=self.scorer,
            world=self.world,
            observers=self.channel,
            exact=self.replay is None and sampler is not None and sampler.exact,
            tokenizer=tokenizer,
            max_length=parts.intake.max_length,
            ahead=self._ahead(parts, scorer) if self.rollout.ahead else None,
            held_out=evaluation.scorer,
            watchers=watchers,
            latents=latents,
            second=self._second(),
            place=str(self.run.path),
        )
        self._check_rest(parts)
        self._describe(parts, sampler)
        return source, evaluation, (lambda: evaluation.rows) if held_out and self.config.log.samples else None

    def _policy_sampler(self, model: ForestModel, tokenizer: Any) -> PolicySampler:
        found = PolicySampler(
            model,
            tokenizer,
            self.rollout,
            stop_token_ids=self.renderer.stop_token_ids,
            seed=self.config.train.seed,
            world=self.world,
        )
        self.channel.on_message(f"engine: {found.note}")
        return found

    def _evaluation(
        self, held_out: Sequence[Any], sampler: PolicySampler | None, scorer: RewardScorer | None, tokenizer: Any
    ) -> HeldOutRewards:
        if not held_out:
            return HeldOutRewards([], None, None, self.world, tokenizer)
        if scorer is None:
            raise TrainingError(
                "PL405",
                "held-out prompts are scored, and no reward is configured",
                where="reward.rewards",
                mend="add it, or leave out data.eval and data.eval_fraction",
            )
        # Its failures are counted apart: they say nothing about what is trained on.
        own = RewardScorer(scorer.spec, alone=self._alone)
        gold = None if self.gold is None else GoldWatch(RewardScorer(self.gold))
        return HeldOutRewards(
            held_out,
            sampler,
            own,
            self.world,
            tokenizer,
            self.config.log.samples,
            self.rollout.pass_threshold,
            self.rollout.task_column,
            gold,
        )

    def _maker(self, parts: Parts, sampler: PolicySampler | None, scorer: RewardScorer | None) -> RolloutMaker:
        return RolloutMaker(
            self.world,
            self.rollout,
            self.method,
            parts.intake.train.groups,
            parts.loaded.tokenizer,
            sampler,
            scorer,
            self.replay,
            self._stopped,
        )

    def _stopped(self) -> bool:
        return bool(self.stop.signum)

    def _ahead(self, parts: Parts, scorer: RewardScorer | None) -> Ahead:
        """A copy of the policy that samples while the policy is trained."""
        model = parts.model
        spec = RoleSpec(model.roles["policy"].adapter)
        twin = ForestModel(copy.deepcopy(model.model), roles={"policy": spec}, path=model.path, bos_id=model.bos_id)
        twin.native_attention = model.native_attention
        twin.requires_grad_(False)
        twin.eval()
        sampler = self._policy_sampler(twin, parts.loaded.tokenizer)
        maker = self._maker(parts, sampler, scorer)
        trained, copied = parts.cast.weights["policy"], dict(twin.named_parameters())
        return Ahead(
            maker,
            {name: parts.cast.masters.compute[name] for name in trained},
            {name: copied[name] for name in trained},
        )

    def _second(self) -> PtxStreams | None:
        section, data = self.config.ptx, self.texts
        if section is None or data is None:
            return None
        rows = rows_per_step(self.config)
        self.described["ptx"] = f"{len(data.groups):,} texts, {rows} beside each step, γ = {section.coefficient:g}"
        return PtxStreams(data, rows, section.coefficient, self.config.train.seed, section.train_on)

    def _check_rest(self, parts: Parts) -> None:
        batches, rest = parts.schedule.total_steps / parts.schedule.steps_per_batch, self.method.rests()
        if rest >= batches:
            raise TrainingError(
                "PL405",
                f"only the critic learns from the first {rest} rollout batches, and the run has {math.ceil(batches)}: "
                "the policy would stay as it is",
                where="method.value_pretraining",
                mend="lower it, or raise train.epochs or train.max_steps",
            )

    # -- what is said

    def _describe(self, parts: Parts, sampler: PolicySampler | None) -> None:
        options, schedule = self.rollout, parts.schedule
        prompts, answers = schedule.groups_per_step, options.completions_per_prompt or 0
        updates = schedule.steps_per_batch
        found: dict[str, Any] = {
            "rollout batch": f"{prompts} prompts × {answers} answers of at most {options.max_new_tokens} tokens, "
            f"temperature {options.temperature:g}",
            "steps on a batch": f"{updates} ({options.ppo_epochs} passes × "
            f"{updates // (options.ppo_epochs or 1)} minibatches of {self.config.train.groups_per_step} prompts)",
        }
        if self.replay is not None:
            found["rollout batch"] = f"replayed from {self.replay.path}"
        if self.spec is not None:
            found["rewards"] = ", ".join(part.reward.name for part in self.spec.reward.parts)
        if self.gold is not None:
            found["gold"] = ", ".join(part.reward.name for part in self.gold.reward.parts) + " on held-out answers"
        self.described = {**found, **self.described}
