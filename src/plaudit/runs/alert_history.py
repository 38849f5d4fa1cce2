"""What a rule of an alert sees and answers: the settings, the windows of the watched metrics, and the alert itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["info", "warn", "error"]
Metrics = Mapping[str, float]

MIN_POINTS = 5
"""Fewest logged steps from which a rule over time judges."""
SOON = 3
"""Logged steps from which a rule judges whose metric is a mean over all answers of a rollout batch: there are hundreds
in each, and every further batch costs its sampling."""
HELD_OUT_POINTS = 6
"""Fewest evaluations from which a rule over evaluations judges: three against three."""
EVALUATION_ALERTS = frozenset({"early_stopping", "held_out_reward_falls"})
"""Raised by evaluations: an evaluation that is done again raises them again."""
WHEN_EVALUATED = "reward/when_evaluated"
"""Name in the history of what the reward was in training at each evaluation, mean of the last logged steps."""
LORA_LEARNING_RATES = (1e-5, 1e-3)
FULL_LEARNING_RATES = (1e-7, 5e-5)
"""Peak learning rates in common use for LoRA and for full fine-tuning of language models."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something the user should look at."""

    level: Level
    code: str
    """Stable name of the cause."""
    message: str
    advice: str
    step: int


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """What the rules compare with."""

    alert_after: int = 20
    """Steps that rules over time look back on: flat margins, a falling chosen log-prob, constant clipping, drifts."""
    learning_rate: float | None = None
    """Peak learning rate; None switches the rule off."""
    learning_rate_range: tuple[float, float] = LORA_LEARNING_RATES
    """Its usual range, inclusive."""
    max_grad_norm: float | None = None
    """Where gradients are clipped; None switches the rule off."""
    chosen_reward_floor: float = -1.0
    """Mean rewards/chosen below which a falling chosen log-prob is worth a warning."""
    chosen_logp_drop: float = 20.0
    """The same for logps/chosen where there are no rewards: fall in nats since the first window."""
    watch_chosen: bool = True
    """Whether rewards/chosen are log-ratios of a policy; a reward model's scores have no zero that they could leave."""
    watch_loss: bool = False
    """Whether a loss that does not fall is a cause (SFT; in preference methods the margins are the better sign)."""
    kl_budget: float | None = 20.0
    """Runs that sample answers: KL to the reference past which there is a warning, in nats per answer; None switches it
    off. Choosing the best of n answers costs log n − (n − 1)/n (Gao et al. 2022, arXiv:2210.10760): 20 nats are far
    beyond any n that anybody samples. A reward that verifies stands more than one that was learned."""


@dataclass(frozen=True, slots=True)
class Window:
    """The last logged values of one metric; `full` when they span enough steps to judge."""

    values: list[float]
    full: bool

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def standard_error(self) -> float:
        mean, n = self.mean, len(self.values)
        return math.sqrt(sum((v - mean) ** 2 for v in self.values) / (n - 1) / n) if n > 1 else 0.0

    @property
    def recent(self) -> float | None:
        """Mean of the last `SOON` values; None where there are fewer."""
        return sum(self.values[-SOON:]) / SOON if len(self.values) >= SOON else None

    @property
    def rise(self) -> float:
        """Mean of the newer half minus mean of the older half."""
        half = len(self.values) // 2
        old, new = self.values[:half], self.values[-half:]
        return sum(new) / half - sum(old) / half

    @property
    def rise_error(self) -> float:
        """Standard error of `rise`, from how the values of each half scatter around its mean."""
        half = len(self.values) // 2
        old, new = Window(self.values[:half], False), Window(self.values[-half:], False)
        return math.hypot(old.standard_error, new.standard_error)


class History:
    """Windows of the watched metrics, as plain values for the checkpoint."""

    WATCHED = (
        *("loss", "grad_norm", "rewards/margins", "rewards/chosen", "logps/chosen"),
        *("reward", "kl", "entropy", "policy/approxkl", "policy/clipfrac", "value/explained_variance"),
        *("frac_reward_zero_std", "rewards/error_rate"),
        *("completions/mean_length", "completions/clipped_ratio", "completions/repetition"),
        *("rollout/gap_mean", "rollout/gap_k3", "rollout/ess"),
        *("eval/reward", WHEN_EVALUATED),
    )

    def __init__(self, span: int) -> None:
        self._span = span
        self.points: dict[str, list[list[float]]] = {name: [] for name in self.WATCHED}
        self.first_value: dict[str, float] = {}
        self.first_mean: dict[str, float] = {}
        self.first_error: dict[str, float] = {}
        self.first_full_at: dict[str, int] = {}

    def add(self, step: int, metrics: Metrics) -> None:
        if "eval/reward" in metrics and self.online:
            metrics = {**metrics, WHEN_EVALUATED: self.window("reward").mean}
        for name in self.WATCHED:
            value = metrics.get(name)
            if value is None or not math.isfinite(value):
                continue
            points = self.points[name]
            points.append([step, value])
            self.first_value.setdefault(name, value)
            while len(points) > _least(name) and points[-1][0] - points[1][0] + 1 >= self._span:
                points.pop(0)
            window = self.window(name)
            if window.full and name not in self.first_mean:
                self.first_mean[name] = window.mean
                self.first_error[name] = window.standard_error
                self.first_full_at[name] = step

    @property
    def online(self) -> bool:
        """Whether answers are sampled: only then is there a reward. "kl" and "entropy" are logged by others too."""
        return bool(self.points["reward"])

    def window(self, name: str) -> Window:
        points = self.points[name]
        full = len(points) >= _least(name) and points[-1][0] - points[0][0] + 1 >= self._span
        return Window([value for _, value in points], full)


def _least(name: str) -> int:
    return HELD_OUT_POINTS if name in ("eval/reward", WHEN_EVALUATED) else MIN_POINTS


Verdict = Alert | Literal[False] | None
Rule = Callable[[int, Metrics, History, AlertSettings], Verdict]


def recent(name: str, metrics: Metrics, history: History) -> float | None:
    """Mean of the last `SOON` values of a metric that this step has logged."""
    return history.window(name).recent if name in metrics else None
