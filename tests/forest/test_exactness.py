"""The forest's log-probs, entropies and all parameter gradients are those of the plain padded forward.

fp32; log-probs absolute, gradients relative to the largest entry of the same parameter's gradient (see `matrix.FLOOR`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.forest import cases
from tests.forest.conftest import Record
from tests.forest.matrix import TOLERANCE, Distance, forests, packed, plain, score_distance
from tests.zoo import NAMES, PADDED_ONLY, SHAPES, build, reference

ATTENTION = [n for n in NAMES if n not in PADDED_ONLY]


def check(found: Distance) -> None:
    assert found.logprob <= TOLERANCE, found
    assert found.entropy <= TOLERANCE, found
    assert found.gradient <= TOLERANCE, found


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_is_sensitive(name: str) -> None:
    """The first prompt token, and the order of two others, move the last log-prob far more than the tolerance."""
    shape = SHAPES["one completion"]
    model = build(name)
    with torch.no_grad():
        scores = []
        for change in ("nothing", "first token", "swap"):
            groups = shape.groups()
            ids = groups[0].prompt_ids
            if change == "first token":
                ids[0] = ids[0] + 1
            if change == "swap":
                ids[[7, 8]] = ids[[8, 7]]
            scores.append(reference(model, groups).logprobs[0, 0])
    assert float((scores[0] - scores[1]).abs().max()) > 1e-4
    assert float((scores[0] - scores[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_all_parameters(name: str, shape: str, record: Record) -> None:
    found = cases.full(name, shape)
    record(name, "all parameters", found)
    check(found)


@pytest.mark.parametrize("name", ATTENTION)
def test_padded_path(name: str, record: Record) -> None:
    for shape in (
        "empty prompt without BOS",
        "prompt targets",
        "split, prompts repeated",
        "both sides of the original context",
        "the original context and BOS",
    ):
        found = cases.on_the_padded_path(name, shape)
        record(name, "padded path", found)
        check(found)


@pytest.mark.parametrize("kind", cases.ADAPTERS)
@pytest.mark.parametrize("name", ATTENTION)
def test_adapters(name: str, kind: str, record: Record) -> None:
    for shape in ("prompt targets", "split, prompts repeated"):
        found = cases.adapted(name, kind, shape)
        record(name, kind, found)
        check(found)


@pytest.mark.parametrize("kind", [None, "LoRA with lm_head"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing(name: str, kind: str | None, record: Record) -> None:
    if name in PADDED_ONLY and kind is not None:
        pytest.skip("Mamba has none of these projections")
    for shape in ("ragged K", "both sides of the original context"):
        found = cases.checkpointed(name, shape, kind)
        record(name, "gradient checkpointing", found)
        check(found)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", ["score_last", "split, prompts repeated"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "phi3_longrope", "gpt2"])
def test_roles(name: str, shape: str, checkpointing: bool, record: Record) -> None:
    for role, found in cases.roles(name, shape, checkpointing=checkpointing).items():
        record(name, f"role {role}", found)
        check(found)


def test_a_pair_over_both_regimes_is_scored_as_one_padded_batch(record: Record) -> None:
    """A pair cannot be cut, so a short answer takes its long neighbour's frequencies: what a padded batch does too."""
    shape = replace(SHAPES["both sides of the original context"], unit="pair")
    model, groups = build("phi3_longrope"), shape.groups()[:2]
    theirs = plain(model, groups, shape, together="group")
    apart = plain(model, groups, shape, together="completion")
    fm = cases.wrap("phi3_longrope", model, shape)
    # Group 0's first pair stays within the original context, its second one does not: compare what shares a batch.
    keys = [(0, 2), (0, 3), (1, 0), (1, 1)]
    ours = packed(fm, groups, shape)
    assert (
        score_distance({k: ours.scores.logprobs[k] for k in keys}, {k: theirs.scores.logprobs[k] for k in keys})
        <= TOLERANCE
    )
    assert score_distance({0: apart.scores.logprobs[1, 0]}, {0: theirs.scores.logprobs[1, 0]}) > 1e-3


def test_computed_tokens_follow_unique_tokens() -> None:
    """Without splitting nothing is computed twice: every prompt once, every branch once."""
    shape = SHAPES["ragged K"]
    model, groups = build("llama"), shape.groups()
    fm = cases.wrap("llama", model, shape)
    computed = sum(f.num_tokens for f in forests(fm, groups, shape))
    assert computed <= 1.02 * sum(g.unique_tokens for g in groups)
