"""What a rule of an alert sees and answers: the settings, the windows of the watched metrics, and the alert itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
EVALUATION_ALERTS = frozenset({"early_stopping", "held_out_reward_falls", "proxy_up_gold_down", "gold_correlation"})
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
    chosen_reward_floor: float | None = -1.0
    """Mean rewards/chosen below which a falling chosen log-prob is worth a warning; None switches the rule off."""
    chosen_logp_drop: float | None = 20.0
    """The same for logps/chosen where there are no rewards: fall in nats since the first window."""
    watch_chosen: bool = True
    """Whether rewards/chosen are log-ratios of a policy; a reward model's scores have no zero that they could leave."""
    watch_loss: bool = False
    """Whether a loss that does not fall is a cause (SFT; in preference methods the margins are the better sign)."""
    # Of runs that sample answers; what each is, and why: `plaudit.config.schema.WatchSection`. None switches it off.
    kl_budget: float | None = 20.0
    kl_jump: float | None = 4.0
    entropy_share: float | None = 0.25
    shorter: float | None = 0.5
    longer: float | None = 1.5
    clip_fraction: float | None = 0.3
    approx_kl: float | None = 0.1
    explained_variance: float | None = 0.0
    zero_std_share: float | None = 0.8
    unfilled_share: float | None = 0.1
    capped_share: float | None = 0.5
    error_share: float | None = 0.01
    repeated_share: float | None = 0.5
    repeated_rise: float | None = 0.1
    flat_errors: float | None = 1.0
    held_out_errors: float | None = 3.0
    gap_mean: float | None = 0.05
    gap_k3: float | None = 0.01
    gap_ess: float | None = 0.5
    reward_above: float | None = None
    gold_errors: float | None = 3.0
    gold_correlation: float | None = 0.1
    above_range: float | None = 0.05
    disagreement: float | None = 2.0
    outliers: float | None = 0.1


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
        *("rollout/gap_mean", "rollout/gap_k3", "rollout/ess", "rollout/unfilled"),
        *("eval/reward", WHEN_EVALUATED, "eval/gold", "eval/gold_correlation"),
        *("eval/gold_divergence", "eval/gold_divergence_span"),
    )
    PATTERNS = ("rewards/*/above_range", "rewards/*/disagreement", "rewards/*/outliers")
    """The same for each reward model among the rewards."""

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
        for name, value in metrics.items():
            if not self.watches(name) or not math.isfinite(value):
                continue
            points = self.points.setdefault(name, [])
            points.append([step, value])
            self.first_value.setdefault(name, value)
            while len(points) > _least(name) and points[-1][0] - points[1][0] + 1 >= self._span:
                points.pop(0)
            window = self.window(name)
            if window.full and name not in self.first_mean:
                self.first_mean[name] = window.mean
                self.first_error[name] = window.standard_error
                self.first_full_at[name] = step

    @classmethod
    def watches(cls, name: str) -> bool:
        """Whether a rule looks at the metric."""
        return name in cls.WATCHED or any(fnmatchcase(name, pattern) for pattern in cls.PATTERNS)

    @property
    def online(self) -> bool:
        """Whether answers are sampled: only then is there a reward. "kl" and "entropy" are logged by others too."""
        return bool(self.points["reward"])

    def window(self, name: str) -> Window:
        points = self.points.get(name, [])
        full = len(points) >= _least(name) and points[-1][0] - points[0][0] + 1 >= self._span
        return Window([value for _, value in points], full)


def _least(name: str) -> int:
    return HELD_OUT_POINTS if name.startswith("eval/") or name == WHEN_EVALUATED else MIN_POINTS


Verdict = Alert | Literal[False] | None
Rule = Callable[[int, Metrics, History, AlertSettings], Verdict]


def recent(name: str, metrics: Metrics, history: History) -> float | None:
    """Mean of the last `SOON` values of a metric that this step has logged."""
    return history.window(name).recent if name in metrics else None


def per_cent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.3g} %"


def recent_above(name: str, limit: float | None, metrics: Metrics, history: History) -> float | Literal[False] | None:
    """What `recent` gives where it is above a limit; False where it is not, None where it or the limit is missing."""
    value = recent(name, metrics, history)
    if value is None or limit is None:
        return None
    return value if value > limit else False
