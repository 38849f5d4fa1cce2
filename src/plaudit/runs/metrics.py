"""One table of every metric: unit, direction and meaning, used by the terminal, the report and the docs.

Names are those of Hugging Face TRL. ``eval/<name>`` is the same quantity on held-out data and is derived, not listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

Direction = Literal["higher", "lower", "neutral"]
Group = Literal[
    "loss",
    "rewards",
    "completions",
    "divergence",
    "policy",
    "value",
    "rollout",
    "log-probs",
    "optimiser",
    "speed",
    "other",
]
"""The heading of the report that a metric is drawn under."""

EVAL_PREFIX = "eval/"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """What a metric is.

    `name` may be a pattern (``terms/*``). `direction` says which way is better; ``neutral`` has no better way.
    """

    name: str
    unit: str
    direction: Direction
    meaning: str
    group: Group = "other"


_REWARD = "reward (β × log-ratio of policy to reference, or a reward model's score)"

_BUILT_IN = (
    MetricSpec("loss", "nats", "lower", "the objective that is minimised, mean over the optimiser step", "loss"),
    MetricSpec("perplexity", "", "lower", "exp of the mean negative log-prob per trained token", "loss"),
    MetricSpec(
        "entropy",
        "nats/token",
        "neutral",
        "mean entropy of the policy's next-token distribution; near 0 = collapse",
        "divergence",
    ),
    MetricSpec("terms/*", "", "neutral", "one term of the loss, before its coefficient", "loss"),
    MetricSpec("nll", "nats/token", "lower", "negative log-prob of the chosen answers, mean over tokens", "loss"),
    MetricSpec("rewards/chosen", "reward", "higher", f"{_REWARD} of the chosen answers", "rewards"),
    MetricSpec("rewards/rejected", "reward", "lower", f"{_REWARD} of the rejected answers", "rewards"),
    MetricSpec("rewards/margins", "reward", "higher", "rewards/chosen − rewards/rejected, mean over pairs", "rewards"),
    MetricSpec(
        "rewards/accuracies", "share", "higher", "share of pairs whose chosen reward is the higher one", "rewards"
    ),
    MetricSpec("rewards/mean", "reward", "neutral", "mean score of all answers; its level is free", "rewards"),
    MetricSpec("logps/chosen", "nats", "higher", "log-prob of the chosen answers, summed per answer", "log-probs"),
    MetricSpec("logps/rejected", "nats", "neutral", "log-prob of the rejected answers, summed per answer", "log-probs"),
    MetricSpec("logps/mean", "nats/token", "higher", "mean log-prob per trained token", "log-probs"),
    MetricSpec("weights/wpo", "", "neutral", "weight of a pair in WPO: how likely the policy is to write it", "other"),
    MetricSpec("grad_norm", "", "neutral", "global L2 norm of the gradient before clipping", "optimiser"),
    MetricSpec("critic/grad_norm", "", "neutral", "the critic's gradient norm before its own clipping", "optimiser"),
    MetricSpec("learning_rate", "", "neutral", "learning rate of this step", "optimiser"),
    MetricSpec("epoch", "epochs", "neutral", "passes over the training data so far", "speed"),
    MetricSpec("num_tokens", "tokens", "neutral", "unique tokens computed so far", "speed"),
    MetricSpec("tokens_per_second", "tokens/s", "higher", "unique tokens computed per second of training", "speed"),
    MetricSpec("step_seconds", "s", "lower", "wall time of one optimiser step", "speed"),
    MetricSpec("peak_memory_gb", "GB", "lower", "highest memory in use since the last start (10⁹ bytes)", "speed"),
)

_ONLINE = (
    MetricSpec("reward", "reward", "higher", "mean reward of the sampled answers", "rewards"),
    MetricSpec(
        "reward_std",
        "reward",
        "neutral",
        "standard deviation (n − 1) of the rewards of one prompt's answers, mean over prompts; with one answer to each "
        "prompt, of all answers",
        "rewards",
    ),
    MetricSpec(
        "rewards/*/mean",
        "reward",
        "neutral",
        "one part of the reward before its weight, mean over the answers that it applies to",
        "rewards",
    ),
    MetricSpec(
        "frac_reward_zero_std",
        "share",
        "lower",
        "share of prompts whose answers all have the same reward, so that comparing them teaches nothing",
        "rewards",
    ),
    MetricSpec("avg@*", "share", "higher", "share of right answers, with so many to each prompt", "rewards"),
    MetricSpec(
        "pass@*",
        "share",
        "higher",
        "probability that one of so many answers to a prompt is right, unbiased (arXiv:2107.03374)",
        "rewards",
    ),
    MetricSpec("tasks/*/reward", "reward", "higher", "mean reward of one task's answers", "rewards"),
    MetricSpec("tasks/*/avg@*", "share", "higher", "the same of one task alone", "rewards"),
    MetricSpec("tasks/*/pass@*", "share", "higher", "the same of one task alone", "rewards"),
    MetricSpec("tasks/*/share", "share", "neutral", "share of one task among the sampled prompts", "rewards"),
    MetricSpec("tasks/*", "", "neutral", "the metric of that name, of one task alone", "rewards"),
    MetricSpec("rewards/error_rate", "share", "lower", "share of answers whose scoring failed in the end", "rewards"),
    MetricSpec("rewards/retried", "share", "lower", "share of answers that were scored more than once", "rewards"),
    MetricSpec(
        "rewards/excluded", "share", "lower", "share of prompts left out because an answer has no reward", "rewards"
    ),
    MetricSpec("completions/mean_length", "tokens", "neutral", "mean length of the sampled answers", "completions"),
    MetricSpec("completions/max_length", "tokens", "neutral", "length of the longest sampled answer", "completions"),
    MetricSpec(
        "completions/mean_terminated_length",
        "tokens",
        "neutral",
        "mean length of the answers that ended",
        "completions",
    ),
    MetricSpec(
        "completions/clipped_ratio",
        "share",
        "lower",
        "share of answers cut off at rollout.max_new_tokens before they ended",
        "completions",
    ),
    MetricSpec(
        "completions/empty", "share", "lower", "share of answers without a token before the end token", "completions"
    ),
    MetricSpec(
        "completions/repetition",
        "share",
        "lower",
        "share of an answer's 4-grams of tokens that it has written before, mean over answers of 4 tokens or more",
        "completions",
    ),
    MetricSpec(
        "completions/distinct",
        "share",
        "neutral",
        "different bigrams of tokens among all bigrams of the batch; falls when answers become alike, and with length",
        "completions",
    ),
    MetricSpec(
        "kl",
        "nats",
        "neutral",
        "estimate of KL(policy‖reference) per answer, summed over its tokens; of KTO, its reference point",
        "divergence",
    ),
    MetricSpec("kl_per_token", "nats/token", "neutral", "KL(policy‖reference) per trained token", "divergence"),
    MetricSpec("kl_coefficient", "", "neutral", "weight of the KL penalty as it is now", "divergence"),
    MetricSpec(
        "policy/approxkl",
        "nats/token",
        "neutral",
        "how far the policy has moved from the one that sampled: estimate of their KL per token",
        "policy",
    ),
    MetricSpec("policy/clipfrac", "share", "neutral", "share of the loss's ratios that clipping holds back", "policy"),
    MetricSpec(
        "policy/dual_clipfrac",
        "share",
        "neutral",
        "share of the trained tokens whose loss method.dual_clip holds: negative advantage, ratio above it",
        "policy",
    ),
    MetricSpec("policy/ratio", "", "neutral", "mean probability ratio of the policy to the one that sampled", "policy"),
    MetricSpec("advantages/std", "", "neutral", "standard deviation of the advantages", "policy"),
    MetricSpec(
        "value/explained_variance",
        "share",
        "higher",
        "1 − Var(return − value) / Var(return): 1 = the critic knows the returns, 0 = no better than a constant",
        "value",
    ),
    MetricSpec("value/mean", "reward", "neutral", "mean of the critic's values", "value"),
    MetricSpec(
        "value/clipfrac", "share", "neutral", "share of the values that the clipped value loss holds back", "value"
    ),
    MetricSpec(
        "rollout/gap_mean",
        "nats/token",
        "lower",
        "mean absolute difference of a token's log-prob as sampled and as scored by the trainer",
        "rollout",
    ),
    MetricSpec("rollout/gap_max", "nats/token", "lower", "largest such difference of one token", "rollout"),
    MetricSpec("rollout/gap_k3", "nats/token", "lower", "k3 estimate of KL(sampled‖scored) per token", "rollout"),
    MetricSpec(
        "rollout/ess",
        "share",
        "higher",
        "effective sample size of the answers under their weights of scored to sampled, as a share of their number",
        "rollout",
    ),
    MetricSpec("rollout/correction", "", "neutral", "mean importance weight of rollout.correction", "rollout"),
    MetricSpec(
        "rollout/corrected", "share", "neutral", "share of tokens whose weight was cut to the cap or to 0", "rollout"
    ),
    MetricSpec(
        "rollout/idle_steps",
        "share",
        "lower",
        "share of steps that changed nothing: equal rewards, no answer that counts, more minibatches than prompts are "
        "left, or the rest of a batch after method.target_kl",
        "rollout",
    ),
    MetricSpec(
        "rollout/acceptance",
        "share",
        "higher",
        "share of the sampled prompts whose answers teach something; the others are replaced (dynamic sampling)",
        "rollout",
    ),
    MetricSpec("rollout/rounds", "", "lower", "rounds of sampling for one batch (dynamic sampling)", "rollout"),
    MetricSpec(
        "rollout/unfilled",
        "share",
        "lower",
        "share of a batch that is missing after the last round of dynamic sampling",
        "rollout",
    ),
    MetricSpec("rollout/seconds", "s", "lower", "wall time of sampling and scoring one rollout batch", "rollout"),
)
_WATCH = (
    MetricSpec("gold", "reward", "higher", "mean of watch.gold over the answers; nothing is trained on it", "rewards"),
    MetricSpec(
        "gold/*/mean",
        "reward",
        "neutral",
        "one part of watch.gold before its weight, mean over the answers that it applies to",
        "rewards",
    ),
    MetricSpec("gold/error_rate", "share", "lower", "share of the answers whose gold score failed", "rewards"),
    MetricSpec(
        "gold/excluded", "share", "lower", "share of prompts left out of gold because a score of it failed", "rewards"
    ),
    MetricSpec(
        "gold_correlation",
        "",
        "higher",
        "correlation (Pearson) of reward and gold over the answers that have both",
        "rewards",
    ),
    MetricSpec(
        "gold_gap",
        "deviations",
        "lower",
        "rise of the reward minus rise of gold since the first evaluation, each in standard deviations of the first "
        "evaluation's answers",
        "rewards",
    ),
    MetricSpec(
        "gold_divergence",
        "errors",
        "lower",
        "largest n so that over a window of evaluations the reward rose and gold fell by n standard errors each "
        "(differences of the same prompts, newer against older half; at most 99), 0 where there is no such window",
        "rewards",
    ),
    MetricSpec(
        "gold_divergence_span", "evaluations", "neutral", "the window of gold_divergence; 0 where none", "rewards"
    ),
    MetricSpec(
        "rewards/*/above_range",
        "share",
        "lower",
        "share of answers that a reward model scores higher than any answer that it was measured on",
        "rewards",
    ),
    MetricSpec(
        "rewards/*/disagreement",
        "",
        "lower",
        "mean standard deviation of an ensemble's members on an answer, relative to its reference set's",
        "rewards",
    ),
    MetricSpec(
        "rewards/*/outliers",
        "share",
        "lower",
        "share of answers whose hidden state under a reward model is farther out than 99 % of the reference policy's",
        "rewards",
    ),
)
"""Of the watch on reward hacking."""
"""Of runs that sample answers."""

_registry: dict[str, MetricSpec] = {s.name: s for s in (*_BUILT_IN, *_ONLINE, *_WATCH)}


def register(*specs: MetricSpec) -> None:
    """Add the metrics of a method. Registering the same spec again is allowed; a different one is a programming error.

    Raises:
        ValueError: the name is taken by a different spec, or carries the derived ``eval/`` prefix.
    """
    for new in specs:
        if new.name.startswith(EVAL_PREFIX):
            raise ValueError(f"{new.name}: register the name without {EVAL_PREFIX!r}, the held-out one is derived")
        if _registry.get(new.name, new) != new:
            raise ValueError(f"{new.name} is already registered as {_registry[new.name]}")
        _registry[new.name] = new


def spec(name: str) -> MetricSpec:
    """The spec of a metric by its name, with the ``eval/`` prefix and patterns resolved; never fails."""
    base = name.removeprefix(EVAL_PREFIX)
    found = _registry.get(base) or next((s for p, s in _registry.items() if fnmatchcase(base, p)), None)
    found = found or MetricSpec(base, "", "neutral", "defined by the method")
    meaning = f"{found.meaning} (held-out data)" if name != base else found.meaning
    return replace(found, name=name, meaning=meaning)


def is_known(name: str) -> bool:
    """Whether the table has the metric."""
    base = name.removeprefix(EVAL_PREFIX)
    return any(fnmatchcase(base, pattern) for pattern in _registry)


def is_better(name: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best` in the metric's direction.

    Not-a-number beats nothing; anything else beats None.

    Raises:
        ValueError: the metric is neutral, so "best" has no meaning.
    """
    direction = spec(name).direction
    if direction == "neutral":
        raise ValueError(f"{name} has no better direction")
    if value != value:
        return False
    if best is None:
        return True
    return value > best if direction == "higher" else value < best


def docs_table() -> str:
    """The table as Markdown, for the docs."""
    arrow = {"higher": "higher", "lower": "lower", "neutral": "–"}
    rows = ["| metric | unit | better | meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{s.name}` | {s.unit or '–'} | {arrow[s.direction]} | {s.meaning} |" for s in _registry.values()]
    return "\n".join(rows) + "\n"


_ROUNDING = 1e-5
"""nats, or units of a reward, which are nats times β or larger"""


def rounding(name: str) -> float:
    """What rounding leaves of a 0 in a metric: of log-probs that are summed over an answer, and what is made of them.

    Before the first step a policy is its reference, and the margin between them is not 0 but some billionth.
    """
    return _ROUNDING if spec(name).unit in ("nats", "reward") else 0.0


def format_value(name: str, value: float) -> str:
    """A metric's value for people: four significant digits, whole numbers with thousands separators, no rounding."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(float(value))]
    if name.removeprefix(EVAL_PREFIX) == "num_tokens" or abs(value) >= 10_000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3e}"
    if abs(value) <= rounding(name):
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}"


def table_order(names: Iterable[str]) -> list[str]:
    """Names (without the eval prefix) in the order of the table, unknown ones last by name."""
    patterns = list(_registry)

    def place(name: str) -> tuple[int, str]:
        exact = (i for i, p in enumerate(patterns) if p == name)
        matching = (i for i, p in enumerate(patterns) if fnmatchcase(name, p))
        return next(exact, next(matching, len(patterns))), name

    return sorted(names, key=place)


def format_bytes(count: int) -> str:
    """Bytes for people, in powers of 1000 as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
