"""CPO, SimPO, AlphaPO and ORPO give the loss and gradients of TRL's experimental trainers on the same tokens."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from plaudit.methods import find
from plaudit.types import Completion, PromptGroup
from tests.parity.trl_steps import largest_error, our_step, trl_step
from tests.train.runs import rows_of

pytest.importorskip("trl", reason="pip install -e '.[parity]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that these trainers are experimental
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TOLERANCE = 3e-5
SAME = [
    (CPOTrainer, CPOConfig, {"beta": 0.1, "cpo_alpha": 0.0}, "cpo", {"beta": 0.1, "nll_weight": 0.0}),
    (CPOTrainer, CPOConfig, {"beta": 0.1, "cpo_alpha": 1.0}, "cpo", {"nll_aggregation": "token-mean"}),
    (
        CPOTrainer,
        CPOConfig,
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.6, "cpo_alpha": 0.0},
        "simpo",
        {"beta": 2.0, "gamma": 1.6},
    ),
    (
        CPOTrainer,
        CPOConfig,
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0, "alpha": 0.25},
        "alphapo",
        {"beta": 2.0, "gamma": 1.0, "alpha": 0.25},
    ),
    (ORPOTrainer, ORPOConfig, {"beta": 0.2}, "orpo", {"lam": 0.2, "nll_over": "sequence"}),
]


def groups_of(batch):
    """Pairs of a batch that keeps chosen and rejected rows apart; every prompt token but the first is a target too."""
    groups = []
    for i in range(len(batch["chosen_input_ids"])):
        answers, prompt = [], None
        for side in ("chosen", "rejected"):
            real = batch[f"{side}_attention_mask"][i].bool()
            ids, labels = batch[f"{side}_input_ids"][i][real].numpy(), batch[f"{side}_labels"][i][real].numpy()
            prompt, answer = ids[labels == -100].astype(np.int32), ids[labels != -100].astype(np.int32)
            answers.append(Completion(answer, np.ones(len(answer), np.bool_)))
        groups.append(PromptGroup(prompt, answers))
    return groups


@pytest.mark.parametrize(
    ("trainer", "config", "options", "method", "own"), SAME, ids=[f"{m}-{o}" for _, _, _, m, o in SAME]
)
def test_the_same_step(trainer, config, options, method, own, tiny_model_dir):
    (loss, gradients), batch = trl_step(trainer, config, tiny_model_dir, rows_of("preference", 5), options)
    found = find(method)
    groups = groups_of(batch)
    if method == "orpo":
        for group in groups:
            group.prompt_mask = np.ones(len(group.prompt_ids), np.bool_)
    our_loss, our_gradients = our_step(found(found.Config(**own)), tiny_model_dir, groups)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(our_gradients, gradients) < TOLERANCE
