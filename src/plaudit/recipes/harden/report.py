"""What was found and what it changed, as plain values: for report.json, the terminal and Python programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class PolicyCount:
    """What became of the answers of a policy. Each answer is in exactly one of the counts from `truncated` to `added`.

    Attributes:
        sampled: answers.
        truncated, empty, repeated, chosen, rejected: no candidates, and why (see `candidates.OF_POLICY`).
        low: candidates that do not score above the bar.
        usual: they do, and the members disagree no more than usual.
        right: adversarial by the scores, and the gold reward says that they are at least as good as the chosen answer.
        unknown: the gold reward has no value for them, or none for the chosen answer.
        over_limit: more than `per_prompt` of one prompt.
        held_out: pairs that are only measured on.
        added: pairs to train on.
        mean_score, mean_z: of all candidates; None without any.
        mean_gold: of those that the gold reward was asked about; None without any.
    """

    policy: str
    sampled: int
    truncated: int = 0
    empty: int = 0
    repeated: int = 0
    chosen: int = 0
    rejected: int = 0
    low: int = 0
    usual: int = 0
    right: int = 0
    unknown: int = 0
    over_limit: int = 0
    held_out: int = 0
    added: int = 0
    mean_score: float | None = None
    mean_z: float | None = None
    mean_gold: float | None = None

    @property
    def adversarial(self) -> int:
        """By the scores alone."""
        return self.right + self.unknown + self.over_limit + self.held_out + self.added


@dataclass(slots=True)
class Found:
    """One round's search.

    Attributes:
        prompts, held_out_prompts: that were answered, and how many of them are held out.
        members: the reward models that scored.
        reference: answers of the data that the scales are fitted to.
        reference_mean, reference_std: of the disagreement on them.
        chosen_score: mean standardised score of the chosen answers.
    """

    round: int
    prompts: int
    held_out_prompts: int
    members: list[str]
    reference: int
    reference_mean: float
    reference_std: float
    chosen_score: float
    policies: list[PolicyCount] = field(default_factory=list)

    @property
    def added(self) -> int:
        """Pairs to train on."""
        return sum(p.added for p in self.policies)

    @property
    def held_out(self) -> int:
        """Pairs to measure on."""
        return sum(p.held_out for p in self.policies)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Found:
        """What `asdict` made of it."""
        return cls(**{**values, "policies": [PolicyCount(**p) for p in values["policies"]]})


@dataclass(slots=True)
class State:
    """The reward model at one moment. A tie counts one half.

    Attributes:
        accuracy: share of the data's pairs that are ordered as the data says; None without pairs.
        beats_held_out, beats_trained: share of the adversarial answers, held out and trained on, that score above the
            chosen one.
        disagreement: mean standard deviation of the members on the held-out adversarial answers (on those trained on,
            where none is held out) ÷ that on the data's answers.
    """

    accuracy: float | None
    beats_held_out: float | None
    beats_trained: float | None
    disagreement: float | None


@dataclass(slots=True)
class RoundReport:
    """One round: what was found, and the reward model before and after."""

    found: Found
    before: State | None = None
    after: State | None = None


@dataclass(slots=True)
class Hardened:
    """What `plaudit.api.harden` did.

    Attributes:
        folder: the output folder.
        rounds: one after the other.
        pairs: comparisons that the accuracy is over.
        pairs_held_out: whether neither training has seen them.
        adversarial: files of pairs that were found, to be read and edited.
        reward: the hardened reward model's run (of an ensemble: its folder); None where nothing was trained.
        members: the hardened members.
        notes: what was done and left out, in sentences.
        warnings: what speaks against using the result.
    """

    folder: Path
    rounds: list[RoundReport] = field(default_factory=list)
    pairs: int = 0
    pairs_held_out: bool = False
    adversarial: list[Path] = field(default_factory=list)
    reward: Path | None = None
    members: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For report.json."""
        values = asdict(self)
        values["folder"] = str(self.folder)
        values["adversarial"] = [str(p) for p in self.adversarial]
        values["reward"] = None if self.reward is None else str(self.reward)
        return values
