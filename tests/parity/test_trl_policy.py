"""GRPO, what came of it, and RLOO give the advantages, losses and gradients of TRL's own trainers on answers that TRL
has sampled.

The answers are sampled and scored by TRL; then the policy moves, so that ratios and clipping matter, and both compute
the step of the second pass over the batch.

Not compared, because they differ on purpose: the corrected KL of GSPO (TRL weighs it by the answer's ratio), masked
answers in the denominators of TRL's grpo and dr_grpo, and TRL's cispo metric, which counts positive advantages only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from plaudit.methods import find
from plaudit.methods.base import Batch
from plaudit.methods.grpo import GRPO, GRPOConfig
from plaudit.methods.policy.base import SampledMethod
from plaudit.methods.policy.correction import importance_weights
from plaudit.methods.rloo import RLOO, RLOOConfig
from plaudit.models.forest_model import ForestModel
from plaudit.models.masters import Masters
from plaudit.train.parallel import World
from plaudit.train.reference_role import frozen_copy
from plaudit.train.scorer import GroupScorer
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import Completion, PromptGroup
from tests.parity.trl_steps import largest_error, models

trl = pytest.importorskip("trl", reason="pip install -e '.[parity]'")

TOLERANCE = 3e-5
PROMPTS = ("Name a colour:", "Count to three, then stop:")
K, LONGEST = 4, 10


@dataclass
class Sampled:
    """A batch of TRL's, and the trainer that made it."""

    trainer: Any
    inputs: dict[str, Tensor]
    rewards: list[float]
    start: nn.Module
    """the policy that sampled"""
    names: dict[nn.Parameter, str]

    def groups(self) -> list[PromptGroup]:
        """The same tokens as ours."""
        found: list[PromptGroup] = []
        for i, reward in enumerate(self.rewards):
            prompt = self.inputs["prompt_ids"][i][self.inputs["prompt_mask"][i].bool()]
            ids = self.inputs["completion_ids"][i][self.inputs["completion_mask"][i].bool()]
            answer = Completion(ids.numpy().astype(np.int32), np.ones(len(ids), np.bool_), reward=reward)
            if i % K == 0:
                found.append(PromptGroup(prompt.numpy().astype(np.int32), []))
            assert found[-1].prompt_ids.tolist() == prompt.tolist()
            found[-1].completions.append(answer)
        return found

    def padded(self, rows: Sequence[Sequence[np.ndarray]]) -> Tensor:
        """[B, T] of [G][K] → [T], in the layout of TRL's completions."""
        out = torch.zeros(self.inputs["completion_ids"].shape)
        for i, values in enumerate(v for row in rows for v in row):
            out[i, : len(values)] = torch.from_numpy(values)
        return out

    def step(self) -> tuple[float, dict[str, Tensor]]:
        """TRL's loss and gradients."""
        self.trainer.model.train()
        loss = self.trainer._compute_loss(self.trainer.model, self.inputs)
        loss.backward()
        found = {self.names[p]: p.grad.clone() for p in self.trainer.model.parameters() if p.grad is not None}
        return loss.item(), found


@dataclass
class Rewards:
    """A reward without ties that keeps what it gave."""

    __name__ = "token_sum"
    given: list[float] = field(default_factory=list)

    def __call__(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        self.given = [sum(ids) % 17 / 4 + 0.01 * i for i, ids in enumerate(completion_ids)]
        return self.given


def sample(kind: str, folder: Path, options: Mapping[str, Any]) -> Sampled:
    """Two prompts with K answers each, of different lengths; afterwards the policy moves."""
    policy, _ = models(folder)
    policy.config._name_or_path = str(folder)  # where TRL takes its reference from
    names, start, rewards = {p: n for n, p in policy.named_parameters()}, copy.deepcopy(policy), Rewards()
    trainer_class, config_class = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    rows = [{"prompt": p} for p in PROMPTS for _ in range(K)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        from datasets import Dataset

        arguments = config_class(
            output_dir=str(folder.parent / "trl"),
            per_device_train_batch_size=len(rows),
            num_generations=K,
            num_iterations=2,
            max_completion_length=LONGEST,
            report_to=[],
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            seed=5,
            **options,
        )
        trainer = trainer_class(
            model=policy,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        _ragged(trainer)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer._generate_and_score_completions(rows)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.01)
    return Sampled(trainer, inputs, rewards.given, start, names)


def _ragged(trainer: Any) -> None:
    """The tiny model rarely ends an answer: cut what it samples to different lengths."""
    generate = trainer._generate_single_turn

    def cut(*args: Any, **kwargs: Any) -> Any:
        found = generate(*args, **kwargs)
        ids = found[0] if isinstance(found, tuple) else found
        short = [row[: LONGEST - (3 * i) % 7] for i, row in enumerate(ids)]
        return (short, *found[1:]) if isinstance(found, tuple) else short

    trainer._generate_single_turn = cut


def ours(
    method: SampledMethod, sampled: Sampled, folder: Path, *, correct: bool = False
) -> tuple[float, dict[str, Tensor], Batch, dict[str, float]]:
    """Our loss, gradients, batch and metrics on the same answers, in several micro-batches."""
    method.longest_sampled = LONGEST
    start, policy = ForestModel(sampled.start), ForestModel(copy.deepcopy(sampled.trainer.model))
    reference = frozen_copy(ForestModel(models(folder)[1]))
    batch = Batch(sampled.groups())
    before = GroupScorer({"policy": start, "reference": reference}, World(), 64)
    batch.per_token["old"] = [[c.logprobs for c in row] for row in before("policy", batch.groups)]
    if correct:
        rng = np.random.default_rng(3)
        batch.per_token["correction"] = [
            [importance_weights(o, (o + rng.normal(0, 0.6, len(o))).astype(np.float32), "token_truncate", 1.5, 0.0)
             for o in row]
            for row in batch.per_token["old"]
        ]  # fmt: skip
    method.prepare_batch(batch, before, np.random.default_rng(0))
    masters, totals = Masters([("", policy)]), Totals()
    policy.train()
    runner = StepRunner({"policy": policy, "reference": reference}, World(), 64)
    runner.gradients([Stream(method, batch, range(len(batch.groups)))], totals)
    metrics = totals.read(World())
    found = {n.removeprefix("model."): w.grad.clone() for n, w in masters.weights.items() if w.grad is not None}
    return metrics["loss"], found, batch, metrics


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        "grpo",
        {"loss_type": "grpo", "beta": 0.0},
        {"aggregation": "seq-mean-token-mean", "watch_kl": False},
    ),
    "grpo with KL": (
        "grpo",
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
        {"aggregation": "seq-mean-token-mean", "kl_weight": 0.3},
    ),
    "unbiased KL, clip-higher": (
        "grpo",
        {"loss_type": "bnpo", "beta": 0.3, "epsilon": 0.1, "epsilon_high": 0.15},
        {"aggregation": "token-mean", "kl_weight": 0.3, "kl_estimator": "k3_corrected", "clip_low": 0.1,
         "clip_high": 0.15},
    ),
    "entropy": (
        "grpo",
        {"loss_type": "bnpo", "beta": 0.0, "entropy_coef": 0.2},
        {"aggregation": "token-mean", "entropy_weight": 0.2, "watch_kl": False},
    ),
    "deviation of the batch": (
        "grpo",
        {"loss_type": "grpo", "beta": 0.0, "scale_rewards": "batch"},
        {"std": "batch", "watch_kl": False},
    ),
    "off-policy mask, two-sided clip": (
        "grpo",
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False, "off_policy_mask_threshold": 0.02,
         "delta": 1.3},
        {"kl_weight": 0.3, "off_policy_mask": 0.02, "dual_clip": 1.3},
    ),
    "dr_grpo": (
        "dr_grpo",
        {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none"},
        {"watch_kl": False},
    ),
    "dapo": (
        "dapo",
        {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28},
        {"watch_kl": False},
    ),
    "dapo with KL": (
        "dapo",
        {"loss_type": "dapo", "beta": 0.3},
        {"clip_high": None, "kl_weight": 0.3, "kl_estimator": "k3_corrected"},
    ),
    "cispo": (
        "cispo",
        {"loss_type": "cispo", "beta": 0.0, "epsilon_high": 1.05},
        {"ratio_cap": 1.05, "watch_kl": False},
    ),
    "gspo": (
        "gspo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.0, "epsilon": 0.01,
         "epsilon_high": 0.02},
        {"clip_low": 0.01, "clip_high": 0.02, "watch_kl": False},
    ),
    "gspo, token level, with KL": (
        "gspo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.3, "epsilon": 0.01,
         "use_bias_correction_kl": False},
        {"clip_low": 0.01, "clip_high": None, "token_level": True, "kl_weight": 0.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_grpo_and_what_came_of_it(case: str, tiny_model_dir: Path) -> None:
    name, theirs, options = CASES[case]
    sampled = sample("GRPO", tiny_model_dir, theirs)
    loss, gradients = sampled.step()
    method = find(name)(find(name).Config(**options))
    assert isinstance(method, SampledMethod)
    our_loss, our_gradients, batch, metrics = ours(method, sampled, tiny_model_dir)
    first = [row[0] for group in batch.per_token["advantage"] for row in group]
    assert first == pytest.approx(sampled.inputs["advantages"].tolist(), abs=1e-5)
    old = sampled.inputs["old_per_token_logps"] * sampled.inputs["completion_mask"]
    assert torch.allclose(sampled.padded(batch.per_token["old"]), old, atol=1e-4)
    assert our_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert largest_error(our_gradients, gradients) < TOLERANCE
    lengths = {len(c.token_ids) for g in batch.groups for c in g.completions}
    assert len(lengths) > 3, "answers of one length do not tell aggregations apart"
    held = [n for n in ("policy/clipfrac", "policy/dual_clipfrac", "policy/off_policy_masked") if n in metrics]
    assert all(0 < metrics[n] < 1 for n in held), f"clipping and masking must matter here: {metrics}"


def test_a_correction(tiny_model_dir: Path) -> None:
    """It weighs the policy term and not the KL, there as here."""
    theirs = {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False}
    sampled = sample("GRPO", tiny_model_dir, theirs)
    options = {"aggregation": "seq-mean-token-mean", "kl_weight": 0.3}
    our_loss, our_gradients, batch, _ = ours(GRPO(GRPOConfig(**options)), sampled, tiny_model_dir, correct=True)
    sampled.trainer.use_vllm = sampled.trainer.vllm_importance_sampling_correction = True
    sampled.inputs["importance_sampling_ratio"] = sampled.padded(batch.per_token["correction"])
    loss, gradients = sampled.step()
    assert our_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert largest_error(our_gradients, gradients) < TOLERANCE


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_rloo(beta: float, tiny_model_dir: Path) -> None:
    sampled = sample("RLOO", tiny_model_dir, {"beta": beta})
    loss, gradients = sampled.step()
    our_loss, our_gradients, batch, metrics = ours(RLOO(RLOOConfig(kl_weight=beta)), sampled, tiny_model_dir)
    first = [row[0] for group in batch.per_token["advantage"] for row in group]
    assert first == pytest.approx(sampled.inputs["advantages"].tolist(), abs=1e-4)
    assert our_loss == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE
    assert metrics["policy/clipfrac"] > 0, "clipping must matter here"
