"""What a method is: pure mathematics on scores, and a declaration of what it needs.

A method never sees a model, an optimiser or a process group. It says which data, roles and statistics it needs, what
each of its terms is divided by (`weights`, from masks and labels alone, before the first backward), and how scores
become sums (`loss`). The trainer divides: the gradient is the same for every split into micro-batches and every
number of processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from plaudit.types import DataKind, Floats, PromptGroup

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["policy", "reference", "critic", "reward"]
Unit = Literal["completion", "pair", "group"]
Scope = Literal["group", "step"]
Statistic = Literal["logprob", "entropy", "log_sum_p2", "value", "last", "latent"]
TrainOn = Literal["completion", "assistant", "sequence"]
RowField = Literal["margin", "preference"]


class MethodConfig(BaseModel):
    """Base of a method's options."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MethodState(BaseModel):
    """What a method carries from step to step (adaptive β, running δ); it goes into every checkpoint."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


@dataclass(slots=True)
class Scores:
    """What one role says about one forest (or about a whole step, for scope "step").

    Shapes: N completion targets, M prompt targets, C completions.
    """

    logprobs_N: Tensor | None = None
    """log-probability of each completion target"""
    prompt_logprobs_M: Tensor | None = None
    """log-probability of each prompt target"""
    entropy_N: Tensor | None = None
    log_sum_p2_N: Tensor | None = None
    values_N: Tensor | None = None
    """critic: value of the state in which each target is emitted"""
    last_C: Tensor | None = None
    """scalar head on each completion's last token"""
    latents_CD: Tensor | None = None
    """hidden state that this head reads; without gradient"""


@dataclass(slots=True)
class View:
    """A forest as a method sees it: which completion and which piece each target belongs to, and the prepared columns.

    For scope "step" the view covers the whole optimiser step, in batch order.
    """

    lengths_C: Tensor
    """[C] int64, targets per completion"""
    num_targets: int
    """N, known to the host: nobody has to wait for the device to learn it"""
    piece_of_C: Tensor
    """[C] int64"""
    prompt_lengths_P: Tensor
    """[P] int64, prompt targets per piece"""
    weights_C: Tensor
    """[C] float32, the examples' weights"""
    groups: list[PromptGroup]
    """[P] the group of every piece"""
    keys: list[tuple[int, int]]
    """[C] (group index in the batch, completion index in the group)"""
    columns: Mapping[str, Tensor]
    """what `prepare_batch` stored, laid out for this view: [N] for per-token, [C] for per-completion columns"""

    def sum_C(self, values_N: Tensor) -> Tensor:
        """Sum over each completion's targets. [N] → [C]"""
        import torch

        return torch.segment_reduce(values_N, "sum", lengths=self.lengths_C, initial=0.0, unsafe=True)

    def mean_C(self, values_N: Tensor) -> Tensor:
        """Mean over each completion's targets; 0 where there are none. [N] → [C]"""
        return self.sum_C(values_N) / self.lengths_C.clamp(min=1)

    def expand_N(self, values_C: Tensor) -> Tensor:
        """Repeat each completion's value for its targets. [C] → [N]"""
        import torch

        return torch.repeat_interleave(values_C, self.lengths_C, output_size=self.num_targets)

    def pairs(self, values_C: Tensor) -> tuple[Tensor, Tensor]:
        """First and second of each successive pair. [C] → [C/2], [C/2]"""
        both = values_C.view(-1, 2)
        return both[:, 0], both[:, 1]


@dataclass(slots=True)
class Sums:
    """What `loss` returns: a sum for each of the role's terms, and (sum, count) for each metric.

    Metrics are detached tensors and stay on the device until a log step; a metric's value is Σ sum / Σ count over the
    step.
    """

    terms: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def mean_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of a tensor, detached: the form of a metric."""
    import torch

    detached = values.detach().float()
    return detached.sum(), torch.full((), float(detached.numel()), device=detached.device)


@dataclass(slots=True)
class Batch:
    """The groups of one optimiser step (offline) or of one rollout batch, with what `prepare_batch` adds to them."""

    groups: list[PromptGroup]
    per_token: dict[str, list[list[Floats]]] = field(default_factory=dict)
    """name → [group][completion] → [number of targets]"""
    per_completion: dict[str, list[Floats]] = field(default_factory=dict)
    """name → [group] → [K]"""
    max_length: int | None = None
    """longest prompt + completion that the model can score: new completions must respect it"""
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    """name → (sum, count) of what `prepare_batch` found out about the batch as a whole; logged once"""
    sampled: list[PromptGroup] | None = None
    """all sampled answers with their rewards, of which `groups` were chosen (online methods)"""

    def record(self, name: str, values: Floats | Sequence[float]) -> None:
        """Log the mean of some values."""
        array = np.asarray(values, dtype=np.float64)
        total, count = self.metrics.get(name, (0.0, 0.0))
        self.metrics[name] = (total + float(array.sum()), count + float(array.size))


@dataclass(slots=True)
class Scored:
    """Scores of one completion on the host, without gradient; arrays have one entry per target."""

    logprobs: Floats | None = None
    values: Floats | None = None
    last: float | None = None
    latent: Floats | None = None
    """[D] hidden state that the scalar head reads on the last token, where it was asked for"""


Scorer = Callable[[Role, Sequence[PromptGroup]], list[list[Scored]]]
"""score(role, groups) → [group][completion]; no gradient, evaluation mode."""


class Method(ABC):
    """Base of all methods. A subclass in `methods/<name>.py` is found by its file name."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    data_kind: ClassVar[DataKind]
    roles: ClassVar[frozenset[Role]] = frozenset({"policy"})
    unit: ClassVar[Unit] = "completion"
    scope: ClassVar[Scope] = "group"
    needs_stats: ClassVar[Mapping[Role, frozenset[Statistic]]] = {"policy": frozenset({"logprob"})}
    """Which statistics `loss` reads from each trained role; `stats` where that depends on the options."""
    terms: ClassVar[Mapping[str, Role]] = {"loss": "policy"}
    """Each term of the loss and the role whose scores it is a function of."""
    min_groups: ClassVar[int] = 1
    """Fewest groups a step may have (a baseline over other groups needs two)."""
    fresh_completions: ClassVar[bool] = False
    """`prepare_batch` makes completions that are not in the data, so the reference cannot be asked ahead of
    training."""
    at_start: ClassVar[Mapping[str, float]] = {}
    """Metrics whose value at the very first step is known, because policy and reference are still the same."""
    reads: ClassVar[frozenset[RowField]] = frozenset()
    """What of a row's own judgement the loss uses besides the answers; a column that is there and not used is
    counted and shown."""
    variant_of: ClassVar[str | None] = None
    """The method whose family this one is listed with."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Option names of other tools → what they are here, for whoever gives one: {"beta": "TRL's beta is tau here"}."""
    default_completions: ClassVar[int] = 1
    """Completions sampled to each prompt, where the configuration does not say (online methods)."""
    default_ppo_epochs: ClassVar[int] = 1
    """Passes over each rollout batch, where the configuration does not say (online methods)."""
    min_completions: ClassVar[int] = 1
    """Fewest completions of a prompt that make sense (a baseline over the others needs two)."""
    default_dynamic_sampling: ClassVar[bool] = False
    """Whether prompts whose answers teach nothing are replaced, where the configuration does not say (online
    methods)."""
    needs_greedy: ClassVar[bool] = False
    """Whether `PromptGroup.greedy`, the policy's most likely answer with its reward, is wanted (online methods)."""
    reads_old: ClassVar[bool] = True
    """Whether an online method's loss is relative to the policy that sampled: columns "old" and "correction"."""
    default_learning_rate: ClassVar[Mapping[Literal["lora", "full"], float]] = {"lora": 1e-4, "full": 1e-5}
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    State: ClassVar[type[MethodState]] = MethodState

    longest_sampled: int | None = None
    """most tokens of a completion that is sampled (L_max of Dr. GRPO), from the configuration; None outside of a run"""
    steps_per_rollout: int = 1
    """optimiser steps on each rollout batch, from the configuration (online methods)"""

    def __init__(self, config: MethodConfig | None = None) -> None:
        self.config = self.Config() if config is None else config
        self.state = self.State()

    @property
    def train_on(self) -> TrainOn:
        """Which tokens of a row are targets."""
        return "completion"

    def stats(self) -> Mapping[Role, frozenset[Statistic]]:
        """Which statistics `loss` reads from each trained role, with these options."""
        return self.needs_stats

    @classmethod
    def is_online(cls) -> bool:
        """Whether it learns from completions that are sampled while it trains."""
        return cls.data_kind == "prompt"

    def needed_roles(self) -> frozenset[Role]:
        """The roles that somebody must play, with these options."""
        return self.roles

    def rests(self) -> int:
        """Rollout batches at the start of a run from which the policy does not learn."""
        return 0

    def observe(self, groups: Sequence[PromptGroup]) -> None:
        """Called with all training groups before the first step and after every resume: for what depends on the whole
        data set (class counts). A pure function of the groups; nothing of it is checkpointed."""

    def notes(self) -> list[str]:
        """Lines for the log, asked for after `observe`."""
        return []

    def coefficients(self) -> Mapping[str, float]:
        """Factor of each term in the objective. A term with factor 0 may be left out of `Sums`."""
        return dict.fromkeys(self.terms, 1.0)

    def reference_mix(self, step: int) -> float:
        """Share of the policy's weights that moves into the reference after optimiser step `step` (counted from 1)."""
        return 0.0

    @property
    def replaces_reference(self) -> bool:
        """Whether `reference_mix` is only ever 0 or 1; a reference that is replaced as a whole is cheaper to keep."""
        return False

    def moves_reference(self) -> bool:
        """Whether the reference follows the policy (TR-DPO); it is then no constant that could be cached."""
        return type(self).reference_mix is not Method.reference_mix

    def choose(self, groups: Sequence[PromptGroup], rng: np.random.Generator) -> list[PromptGroup]:
        """What to train on of sampled answers with their rewards, before `prepare_batch`: all of it, or for example the
        best and the worst answer to each prompt as a pair (online methods).

        It is asked again after a resume, and must say the same for the same groups and generator.
        """
        return list(groups)

    def choice_metrics(
        self, sampled: Sequence[PromptGroup], chosen: Sequence[PromptGroup]
    ) -> Mapping[str, tuple[float, float]]:
        """What the log says about a choice, name → (sum, count); asked for once a rollout batch, also where nothing was
        chosen (online methods).

        Args:
            sampled: what `choose` was given.
            chosen: what it returned.
        """
        return {}

    def teaches(self, group: PromptGroup) -> bool:
        """Whether sampled answers can change a gradient, as far as their rewards tell; dynamic sampling replaces the
        prompts of those that cannot (online methods)."""
        return True

    def prepare_batch(self, batch: Batch, score: Scorer, rng: np.random.Generator) -> None:
        """Once per batch, without gradient: reference log-probs, values, advantages.

        A rollout batch comes with `reward` on every completion and, in `per_token`, with "old" (log-probs of the
        weights that sampled, as the trainer scores them; absent where `needs_old` is False and the batch is trained on
        in a single step, so that they equal the loss's own) and "correction" (importance weight of the sampled
        distribution; absent = 1).
        """

    @property
    def needs_old(self) -> bool:
        """Whether `prepare_batch` reads "old" log-probs (a KL in the reward)."""
        return False

    def without_signal(self, batch: Batch) -> frozenset[int]:
        """Groups of a prepared batch that cannot change any gradient: they are not computed, and still count in every
        denominator."""
        return frozenset()

    def ends_rollout(self, metrics: Mapping[str, float]) -> bool:
        """Whether the remaining steps on this rollout batch are to be left out, from the metrics of the last one."""
        return False

    def may_end_rollout(self) -> bool:
        """Whether `ends_rollout` ever says so, with these options; asking it costs one device sync per step."""
        return type(self).ends_rollout is not Method.ends_rollout

    def after_rollout(self) -> None:
        """Update `self.state` when the last step on a rollout batch is done (an adaptive KL coefficient)."""

    @abstractmethod
    def weights(self, groups: Sequence[PromptGroup]) -> Mapping[str, float]:
        """Denominator of each term, additive over groups: a pure function of masks and labels.

        The trainer sums it over the optimiser step and all processes before the first backward. Groups that carry no
        signal still count.
        """

    @abstractmethod
    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        """Sums of the terms that belong to `role`; nothing is divided here."""

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Update `self.state` from the step's metrics. Reading them costs one device sync, so only override where
        needed."""

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Further metrics computed from the step's means on the host (a perplexity from a mean log-prob)."""
        return {}

    @classmethod
    def updates_state(cls) -> bool:
        """Whether `after_step` does anything."""
        return cls.after_step is not Method.after_step


__all__ = [
    "Batch",
    "Method",
    "MethodConfig",
    "MethodState",
    "Role",
    "RowField",
    "Scored",
    "Scorer",
    "Scores",
    "Sums",
    "View",
    "mean_of",
]
