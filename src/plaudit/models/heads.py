"""Heads with one output: values and rewards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CLASSIFIER_HEAD = "score"
"""What transformers calls the head of its decoder-only sequence classifiers."""

_SEED = 20220304


class ScalarHead(nn.Linear):
    """One number per hidden state, computed in fp32 whatever the model computes in.

    A bf16 score near 3 has steps of 1/64, and close answers would tie. Initialised N(0, 1/√(d+1)), as reward heads are
    (Stiennon et al. 2020, arXiv 2009.01325, code); a bias starts at 0.

    Args:
        width: of the hidden states.
        bias: values have a level, which a bias learns at once; the level of a reward is free, so it has none.
    """

    def __init__(self, width: int, device: Any = None, *, bias: bool = False) -> None:
        super().__init__(width, 1, bias=bias, device=device, dtype=torch.float32)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        with torch.no_grad():
            self.weight.normal_(0.0, (self.in_features + 1) ** -0.5, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, D] in any precision → […, 1] in fp32."""
        return super().forward(hidden.float())


def starting_head(width: int) -> ScalarHead:
    """The head that every new reward model of this width starts with, on the CPU.

    It does not depend on the run's seed: reward models can only be averaged if they share their head's start (Ramé et
    al. 2024, arXiv 2401.12187), and those that are to differ still see their data in another order.
    """
    head = ScalarHead(width)
    head.reset_parameters(torch.Generator().manual_seed(_SEED))
    return head


@torch.no_grad()
def value_head(width: int, device: Any = None) -> ScalarHead:
    """A critic's head that says 0 everywhere: weight and bias are 0 (Ziegler et al. 2019, arXiv 1909.08593, code)."""
    head = ScalarHead(width, device, bias=True)
    head.weight.zero_()
    return head


@torch.no_grad()
def folded_head(weight: Tensor, gain: float, bias: float) -> ScalarHead:
    """A critic's head that says what a reward model says after its normalisation: gain · (w · h) + bias.

    Args:
        weight: [1, D] w, the reward model's head.
    """
    head = ScalarHead(weight.shape[1], weight.device, bias=True)
    head.weight.copy_(gain * weight.float())
    head.bias.fill_(bias)
    return head


def is_classifier(inner: Any) -> bool:
    """Whether a transformers model is a sequence classifier with a head on the last token."""
    return type(inner).__name__.endswith("ForSequenceClassification") and isinstance(
        getattr(inner, CLASSIFIER_HEAD, None), nn.Module
    )
