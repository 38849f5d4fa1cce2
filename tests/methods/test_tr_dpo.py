"""TR-DPO: the loss is DPO's; what is new is when and by how much the reference moves."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from plaudit.methods import find
from plaudit.methods.base import Scores
from plaudit.methods.tr_dpo import TRDPO, TRDPOConfig
from tests.methods.views import group, view

CASES = {"hard": {"update": "hard", "every": 2}}


def test_soft_updates_are_made_at_every_step():
    method = TRDPO()
    assert [method.reference_mix(step) for step in (1, 2, 3)] == [0.6] * 3
    assert not method.replaces_reference


def test_hard_updates_replace_the_reference_every_512_steps():
    method = TRDPO(TRDPOConfig(update="hard"))
    assert [step for step in range(1, 2000) if method.reference_mix(step)] == [512, 1024, 1536]
    assert method.reference_mix(512) == 1.0
    assert method.replaces_reference


def test_own_period_and_share():
    method = TRDPO(TRDPOConfig(alpha=0.25, every=3))
    assert [method.reference_mix(step) for step in range(1, 7)] == [0, 0, 0.25, 0, 0, 0.25]


@pytest.mark.parametrize("options", [{"update": "hard", "alpha": 0.6}, {"alpha": 1.0}, {"alpha": 0.0}, {"every": 0}])
def test_options_without_meaning(options):
    with pytest.raises(ValidationError):
        TRDPOConfig(**options)


def test_the_loss_is_that_of_dpo():
    groups = [group([3, 5]), group([2, 2])]
    logprobs, reference = torch.randn(12), torch.randn(12)
    seen = view(groups, {"reference": reference, "preference": torch.ones(4)})
    ours = TRDPO().loss("policy", Scores(logprobs_N=logprobs), seen)
    theirs = find("dpo")().loss("policy", Scores(logprobs_N=logprobs), seen)
    assert ours.terms["loss"].item() == theirs.terms["loss"].item()


def test_only_methods_that_say_so_move_their_reference():
    assert TRDPO().moves_reference()
    assert not find("dpo")().moves_reference()
