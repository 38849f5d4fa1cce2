"""How each offline method is made the same on both sides, and where it cannot be. Knows neither library.

tests/parity holds single steps to 1e-5 with the same settings. Where TRL's loss depends on how an optimiser step is
split into batches and ours does not, `by_batch` says so: the measured runs then agree only within `tolerance`, and
before them one small step is taken in a single batch, where the two definitions coincide and must agree to
`PROOF_TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.harness import BenchmarkError, Measurement, Variant

TRL = "trl==1.16.0"
"""the rival"""

PROOF_TOLERANCE = 2e-4
"""Largest relative difference of a step's loss in the proof; with fp32 on both sides."""

SELF_TEST = 256
"""Most positions of a start-up self-test."""

Rows = Literal["pairs", "demonstrations", "answers"]


@dataclass(frozen=True)
class OfflineMethod:
    """One method on both sides."""

    ours: Mapping[str, Any]
    """options of our method"""
    trainer: tuple[str, str, str]
    """module, trainer and configuration at TRL"""
    rival: Mapping[str, Any]
    """options of its configuration"""
    rows: Rows = "pairs"
    reference: Literal["none", "given", "given and new"] = "none"
    """whose log-probs the loss reads: of the data alone, or of answers that are paired anew too (KTO)"""
    tolerance: float = 1e-3
    """largest difference of a step's loss in the measured runs"""
    by_batch: str = ""
    """what depends on TRL's batch, and so differs in the measured runs; "" = nothing"""
    proof: Mapping[str, Any] = field(default_factory=dict)
    """options of the same name on both sides for the proof alone, so that what differs has an effect there"""
    note: str = ""
    """what was set on which side to make the two the same"""
    model: Literal["lm", "reward"] = "lm"
    bars: tuple[float, float] | None = None
    """least ratio of speed and most ratio of memory that are aimed at"""
    padding_free: bool = False
    """whether the trainer has forwards without padding"""


CPO = ("trl.experimental.cpo", "CPOTrainer", "CPOConfig")
METHODS: Mapping[str, OfflineMethod] = {
    "dpo": OfflineMethod(
        {"beta": 0.1}, ("trl", "DPOTrainer", "DPOConfig"), {"beta": 0.1}, reference="given", bars=(3.0, 0.45)
    ),
    "ipo": OfflineMethod(
        {"tau": 0.1, "normalisation": "mean"},
        ("trl", "DPOTrainer", "DPOConfig"),
        {"beta": 0.1, "loss_type": "ipo"},
        reference="given",
        # The loss starts at (1 / 2τ)² = 25.
        tolerance=1e-2,
        note="normalisation=mean on our side, as TRL has it",
    ),
    "kto": OfflineMethod(
        {"beta": 0.1},
        ("trl", "KTOTrainer", "KTOConfig"),
        {"beta": 0.1},
        rows="answers",
        reference="given and new",
        tolerance=2e-2,
        # Nearly all is desirable, so that other prompts' answers become likelier and z0 is not held at 0.
        proof={"undesirable_weight": 0.05},
        by_batch="z0 is a mean over a batch of rotated answers at TRL, over a step of freshly permuted ones here",
    ),
    "cpo": OfflineMethod(
        {"beta": 0.1, "nll_weight": 1.0, "nll_aggregation": "token-mean"},
        CPO,
        {"beta": 0.1, "cpo_alpha": 1.0},
        tolerance=1e-2,
        by_batch="the likelihood term is a mean over a batch's chosen tokens at TRL, over the step's here",
    ),
    "simpo": OfflineMethod(
        {"beta": 2.0, "gamma": 1.0},
        CPO,
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
        note="cpo_alpha=0 at TRL: its default adds a likelihood term that SimPO does not have",
    ),
    "orpo": OfflineMethod(
        {"lam": 0.2, "nll_over": "sequence"},
        ("trl.experimental.orpo", "ORPOTrainer", "ORPOConfig"),
        {"beta": 0.2},
        tolerance=1e-2,
        by_batch="the likelihood term is a mean over a batch's tokens at TRL, over the step's here",
        note="the likelihood covers prompt and chosen answer on both sides",
    ),
    "reward": OfflineMethod({}, ("trl", "RewardTrainer", "RewardConfig"), {}, model="reward"),
    "sft": OfflineMethod(
        {"train_on": "completion"},
        ("trl", "SFTTrainer", "SFTConfig"),
        {"completion_only_loss": True},
        rows="demonstrations",
        note="the loss covers the completion alone on both sides",
        padding_free=True,
    ),
}


def rows_per_pair(method: OfflineMethod) -> int:
    """Rows that one pair of the workload becomes."""
    return 2 if method.rows == "answers" else 1


Lengths = Sequence[tuple[int, int, int]]
"""(prompt, chosen, rejected) of each pair, in tokens"""


@dataclass(frozen=True)
class Data:
    """What both sides read: the rows of a method in the order of the file."""

    rows: list[dict[str, Any]]
    unique: list[int] = field(default_factory=list)
    """tokens of each row that have to be computed once"""


def data_of(method: OfflineMethod, pairs: Sequence[Mapping[str, str]], lengths: Lengths, pairs_per_step: int) -> Data:
    """A method's rows, made of the workload's pairs.

    Demonstrations are the chosen answers. Answers (KTO) stand alone, each with its label, so that every optimiser step
    has `2 · pairs_per_step` rows of its own pairs; labels alternate, and the two answers of a pair lie `pairs_per_step`
    rows apart, so that TRL, which rotates the answers of a batch, never meets an answer to the same prompt.
    """
    if method.rows == "pairs":
        return Data([dict(p) for p in pairs], [sum(n) for n in lengths])
    if method.rows == "demonstrations":
        rows: list[dict[str, Any]] = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]
        return Data(rows, [prompt + chosen for prompt, chosen, _ in lengths])
    rows, unique = [], []
    for start in range(0, len(pairs), pairs_per_step):
        step = range(start, min(start + pairs_per_step, len(pairs)))
        for turn in (0, 1):
            for i in step:
                good = (i - start + turn) % 2 == 0
                text = pairs[i]["chosen" if good else "rejected"]
                rows.append({"prompt": pairs[i]["prompt"], "completion": text, "label": good})
                unique.append(lengths[i][0] + lengths[i][1 if good else 2])
    return Data(rows, unique)


def check_reference(method: OfflineMethod, variant: Variant, m: Measurement) -> None:
    """A cold reference is in the measured time; a warm one is computed nowhere (a start-up self-test is small).

    Of a method that pairs answers anew some passes without gradient always stay: then there must be at least as many
    positions of them as trained ones, and twice as many where the reference is fresh.
    """
    if method.reference == "none":
        return
    anew = method.reference == "given and new"
    if not variant.warm_reference and m.reference_tokens < (1.8 if anew else 0.9) * m.grad_tokens:
        raise BenchmarkError(
            f"'{variant.name}' computed {m.reference_tokens} reference tokens for {m.grad_tokens} trained ones: "
            "the reference forward is not in the time"
        )
    computed = m.reference_tokens + max(m.uncharged_tokens - SELF_TEST, 0)
    if variant.warm_reference and not anew and computed > 0.1 * m.grad_tokens:
        raise BenchmarkError(
            f"'{variant.name}' computed {m.reference_tokens} reference tokens in the measured steps and "
            f"{m.uncharged_tokens} before; a warm cache means none"
        )


def relative_gap(a: Sequence[float], b: Sequence[float]) -> float:
    """Largest difference of a step's loss relative to the larger of the two; inf for other numbers of steps or NaN."""
    if len(a) != len(b) or not a:
        return float("inf")
    gaps = [abs(x - y) / max(abs(x), abs(y), 1e-12) for x, y in zip(a, b, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("inf")
