"""Reward models give the loss and the gradients of TRL's RewardTrainer, head included."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plaudit.config.schema import ModelConfig
from plaudit.methods.base import Batch
from plaudit.methods.reward import Reward, RewardConfig
from plaudit.models.forest_model import ForestModel
from plaudit.models.load import LoadedModel, load_model
from plaudit.models.masters import Masters
from plaudit.train.parallel import World
from plaudit.train.step import StepRunner, Stream, Totals
from plaudit.types import Completion, PromptGroup
from tests.parity.trl_steps import Step, largest_error

trl = pytest.importorskip("trl", reason="pip install -e '.[parity]'")
TOLERANCE = 3e-5
ROWS = [
    {"chosen": "What is blue? The sky is blue.", "rejected": "What is blue? No."},
    {
        "chosen": "Tell me about cats. I like cats and dogs.",
        "rejected": "Tell me about cats. The grass is green, please.",
    },
    {"chosen": "Paris", "rejected": "I do not know the capital of France."},
]


def loaded_model(folder: Path) -> LoadedModel:
    loaded = load_model(ModelConfig(path=str(folder), precision="fp32"), task="reward")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in loaded.model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.03)
    return loaded


def trl_step(
    model: nn.Module, tokenizer: Any, folder: Path, rows: list[dict[str, Any]], options: Mapping[str, Any]
) -> tuple[Step, dict[str, Tensor]]:
    from datasets import Dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        arguments = trl.RewardConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(rows),
            report_to=[],
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=None,
            **options,
        )
        trainer = trl.RewardTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model.train(), dict(batch))
        loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return (loss.item(), gradients), batch


def groups_of(batch: Mapping[str, Tensor]) -> list[PromptGroup]:
    """The pairs of a batch whose rows are all chosen texts, then all rejected ones."""
    texts = [
        row[mask.bool()].numpy().astype(np.int32)
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    count = len(texts) // 2
    margins = batch["margin"].tolist() if "margin" in batch else [None] * count
    groups = []
    for i, margin in enumerate(margins):
        pair = [Completion(t, np.ones(len(t), np.bool_)) for t in (texts[i], texts[count + i])]
        pair[0].rank, pair[1].rank = 1.0, 2.0
        groups.append(PromptGroup(np.zeros(0, np.int32), pair, margin=margin))
    return groups


@pytest.mark.parametrize("margin", [False, True], ids=["", "margin"])
@pytest.mark.parametrize("centre", [None, 0.01])
def test_the_same_step(margin: bool, centre: float | None, tiny_model_dir: Path, tmp_path: Path) -> None:
    loaded = loaded_model(tiny_model_dir)
    rows = [{**row, "margin": 0.5 * i} for i, row in enumerate(ROWS)] if margin else ROWS
    (loss, gradients), batch = trl_step(
        copy.deepcopy(loaded.model), loaded.tokenizer, tmp_path, rows, {"center_rewards_coefficient": centre}
    )
    assert ("margin" in batch) == margin
    model = ForestModel(loaded.model, roles=loaded.roles)
    groups, totals, masters = groups_of(batch), Totals(), Masters([("", model)])
    stream = Stream(Reward(RewardConfig(centre_weight=centre or 0.0)), Batch(groups), range(len(groups)))
    StepRunner({"reward": model}, World(), 64).gradients([stream], totals)
    assert totals.read(World())["loss"] == pytest.approx(loss, rel=1e-5)
    ours = {n.removeprefix("model."): w.grad for n, w in masters.weights.items() if w.grad is not None}
    assert "score.weight" in ours
    assert largest_error(ours, gradients) < TOLERANCE
