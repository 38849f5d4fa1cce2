"""KTO: values known to the last digit, the reference point, the pairing that it is estimated with, class weights.

Each known way to get it wrong (matched pairs, no clamp, a gradient through z0, a mean per class) changes a number here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from plaudit.errors import TrainingError
from plaudit.methods import find
from plaudit.methods.base import Batch, Method, Scored, Scores, Sums, View
from plaudit.methods.kto import KTO, KTOConfig, baseline_of, class_weights, kto_loss, mismatched_answers
from plaudit.runs.observer import SilentObserver
from plaudit.types import Completion, PromptGroup
from tests.methods.views import view
from tests.train.runs import lines, options_for, rows_of, train_here, write_rows

CASES = {"weights": {"desirable_weight": "auto", "undesirable_weight": "auto", "beta": 0.5}}


def feedback(
    labels: Sequence[bool], *, prompts: Sequence[Sequence[int]] | None = None, lengths: Sequence[int] | None = None
) -> list[PromptGroup]:
    """One answer to each prompt. Answer i consists of the token 100 + i."""
    prompts = [[i, i] for i in range(len(labels))] if prompts is None else prompts
    lengths = [2 + i % 3 for i in range(len(labels))] if lengths is None else lengths
    return [
        PromptGroup(
            np.array(p, np.int32),
            [Completion(np.full(n, 100 + i, np.int32), np.ones(n, np.bool_), label=label)],
        )
        for i, (label, p, n) in enumerate(zip(labels, prompts, lengths, strict=True))
    ]


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# -- the loss as a function -------------------------------------------------------------------------------------------


def test_at_the_reference() -> None:
    """½ for both classes, slope ∓β/4."""
    ratio = _t(0.0, 0.0)
    losses = kto_loss(ratio, torch.tensor([True, False]), torch.zeros(()), 0.1)
    assert losses.tolist() == [0.5, 0.5]
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([-0.025, 0.025], abs=1e-17)


@pytest.mark.parametrize("baseline", [0.0, 2.0, 31.5])
def test_at_the_reference_point(baseline: float) -> None:
    """ρ = z0: ½ and ∓β/4 again, wherever z0 is."""
    ratio = _t(baseline, baseline)
    losses = kto_loss(ratio, torch.tensor([True, False]), torch.tensor(baseline, dtype=torch.float64), 0.4)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert ratio.grad is not None
    assert losses.tolist() == [0.5, 0.5]
    assert ratio.grad.tolist() == pytest.approx([-0.1, 0.1], abs=1e-16)


def test_values() -> None:
    """σ(−1), σ(1) and σ(−2.5), computed apart."""
    losses = kto_loss(_t(12.0, 12.0, 27.0), torch.tensor([1.0, 0.0, 1.0]), _t(2.0), 0.1)
    expected = [0.2689414213699951, 0.7310585786300049, 0.07585818002124355]
    assert losses.tolist() == pytest.approx(expected, abs=1e-15)


@given(st.floats(-300, 300), st.floats(0, 50), st.floats(0.01, 2))
def test_the_classes_mirror_each_other(ratio: float, baseline: float, beta: float) -> None:
    losses = kto_loss(_t(ratio, ratio), torch.tensor([True, False]), torch.tensor(baseline, dtype=torch.float64), beta)
    assert losses.sum().item() == pytest.approx(1.0, abs=1e-15)
    assert (losses >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_saturates_on_both_sides(value: float, dtype: torch.dtype) -> None:
    """Bounded loss and vanishing slope for answers far on either side."""
    ratio = torch.tensor([value, value], dtype=dtype, requires_grad=True)
    losses = kto_loss(ratio, torch.tensor([True, False]), torch.zeros((), dtype=dtype), 1.0)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert sorted(losses.tolist()) == [0.0, 1.0]
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, 0.0]


def test_gradients_agree_with_differences() -> None:
    desirable, baseline = torch.tensor([True, False, True, False]), torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: kto_loss(r, desirable, baseline, 0.3), (_t(0.0, 1.5, -4.0, 9.0),))


# -- the reference point ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "expected"), [((-1.0, -1.0), 0.0), ((1.0, 3.0), 2.0), ((-4.0, 6.0), 1.0), ((-6.0, 4.0), 0.0)]
)
def test_clamped_after_the_mean(ratios: tuple[float, float], expected: float) -> None:
    """(−4, 6) is 1: a clamp before the mean would make it 3."""
    assert baseline_of(ratios) == expected


def test_without_mismatched_answers() -> None:
    assert baseline_of([]) == 0.0


# -- the pairing ------------------------------------------------------------------------------------------------------


def partners(groups: Sequence[PromptGroup], seed: int, max_length: int | None = None) -> list[int]:
    """Whose answer stands behind each prompt."""
    found = mismatched_answers(groups, max_length, np.random.default_rng(seed))
    return [int(answer.token_ids[0]) - 100 for row in found for answer, _ in row]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=14), st.integers(0, 10_000))
def test_no_answer_meets_its_own_prompt(owners: list[int], seed: int) -> None:
    """Prompts that occur several times are compared by their tokens, and where no prompt has more than half of the
    rows every answer is used once."""
    groups = feedback([True] * len(owners), prompts=[[o, 0, 0] for o in owners])
    found = partners(groups, seed)
    if len(set(owners)) == 1:
        assert found == []
        return
    assert len(found) == len(owners)
    assert all(owners[i] != owners[k] for i, k in enumerate(found))
    if max(owners.count(o) for o in owners) <= len(owners) / 2:
        assert sorted(found) == list(range(len(owners)))


def test_prompts_that_differ_in_trailing_zeros_or_are_empty() -> None:
    """Token 0 is a token: [1], [1, 0] and [] are three prompts."""
    groups = feedback([True] * 3, prompts=[[1], [1, 0], []])
    for seed in range(20):
        assert sorted(partners(groups, seed)) == [0, 1, 2]
        assert all(i != k for i, k in enumerate(partners(groups, seed)))


def test_fresh_for_every_step_and_the_same_for_a_seed() -> None:
    groups = feedback([True] * 8)
    pairings = {tuple(partners(groups, seed)) for seed in range(12)}
    assert len(pairings) > 6
    assert partners(groups, 3) == partners(groups, 3)


def test_every_partner_is_as_likely() -> None:
    groups = feedback([True] * 5)
    counts = np.zeros((5, 5))
    for seed in range(2000):
        for i, k in enumerate(partners(groups, seed)):
            counts[i, k] += 1
    assert (np.diag(counts) == 0).all()
    off = counts[~np.eye(5, dtype=bool)] / 2000
    assert np.abs(off - 0.25).max() < 0.05


def test_a_prompt_with_most_of_the_rows() -> None:
    groups = feedback([True] * 6, prompts=[[1]] * 5 + [[2]])
    for seed in range(10):
        found = partners(groups, seed)
        assert found[:5] == [5] * 5
        assert found[5] in range(5)


def test_several_answers_to_a_prompt() -> None:
    one, two = feedback([True, False])
    one.completions.append(replace(one.completions[0], token_ids=np.full(2, 102, np.int32), label=False))
    found = mismatched_answers([one, two], None, np.random.default_rng(0))
    assert [len(row) for row in found] == [2, 1]
    assert all(int(a.token_ids[0]) == 101 for a, _ in found[0])
    assert int(found[1][0][0].token_ids[0]) in (100, 102)


def test_what_is_too_long_is_replaced_or_cut() -> None:
    # Behind the prompt of 9 tokens only 3 fit: of the others' answers (8, 2 and 8 tokens) the one with 2.
    groups = feedback([True] * 4, prompts=[[1] * 9, [2], [3], [4]], lengths=[3, 8, 2, 8])
    for seed in range(10):
        found = mismatched_answers(groups, 12, np.random.default_rng(seed))
        assert int(found[0][0][0].token_ids[0]) == 102
        assert not any(cut for row in found for _, cut in row)
    groups[2] = feedback([True] * 3, lengths=[1, 1, 7])[2]
    for seed in range(10):
        (answer, cut), *_ = (row[0] for row in mismatched_answers(groups, 12, np.random.default_rng(seed)))
        assert cut
        assert len(answer.token_ids) == len(answer.action_mask) == 3
        longest = [len(g.prompt_ids) + len(g.completions[0].token_ids) for g in groups]
        assert max(longest) <= 12


def test_a_first_token_without_context_is_no_target() -> None:
    """An empty prompt and no BOS: the readers have masked the own answer's first token, so the other's is masked."""
    groups = feedback([True, False], prompts=[[], [1, 2]])
    groups[0].completions[0].action_mask[0] = False
    (behind_nothing,), (behind_prompt,) = mismatched_answers(groups, None, np.random.default_rng(0))
    assert behind_nothing[0].action_mask.tolist() == [False, True, True]
    assert groups[1].completions[0].action_mask.all()
    assert behind_prompt[0].action_mask.tolist() == [False, True]
    groups[0].completions[0].action_mask[0] = True  # there is a BOS
    assert mismatched_answers(groups, None, np.random.default_rng(0))[0][0][0].action_mask.all()


# -- the method -------------------------------------------------------------------------------------------------------


def logprob(prompt: Sequence[int], token: int, policy: bool) -> float:
    """A log-prob that depends on prompt and answer; policy and reference differ by it too."""
    spread = np.sin(31.0 * token + sum((k + 1) * 7.0 * p for k, p in enumerate(prompt)))
    return float(-2.0 + 0.5 * spread + (0.8 * np.cos(3.0 * token + sum(prompt)) + 0.3 if policy else 0.0))


class Scoring:
    """Scores of both roles; remembers the answers to other prompts that the policy was asked for."""

    def __init__(self) -> None:
        self.others: list[PromptGroup] = []

    def __call__(self, role: Any, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
        if role == "policy":
            self.others = list(groups)
        return [
            [
                Scored(
                    np.array(
                        [logprob(g.prompt_ids, t, role == "policy") for t in c.token_ids[c.action_mask]], np.float32
                    )
                )
                for c in g.completions
            ]
            for g in groups
        ]


def prepared(method: Method, groups: Sequence[PromptGroup], seed: int = 1, max_length: int | None = None) -> Batch:
    batch = Batch([replace(g, completions=list(g.completions)) for g in groups], max_length=max_length)
    method.observe(groups)
    scoring = Scoring()
    method.prepare_batch(batch, scoring, np.random.default_rng(seed))
    OTHERS[id(batch)] = scoring.others
    return batch


OTHERS: dict[int, list[PromptGroup]] = {}
"""the answers to other prompts that a batch's z0 comes from"""


def step(batch: Batch) -> tuple[View, Tensor]:
    """The view of a prepared batch in float64, and the policy's log-probs as a leaf."""
    reference = np.concatenate([np.concatenate(row) for row in batch.per_token["reference"]])
    columns = {"reference": torch.from_numpy(reference.astype(np.float64))}
    for name, rows in batch.per_completion.items():
        columns[name] = torch.from_numpy(np.concatenate(rows).astype(np.float64))
    policy = [
        logprob(g.prompt_ids, t, True) for g in batch.groups for c in g.completions for t in c.token_ids[c.action_mask]
    ]
    return view(batch.groups, columns), torch.tensor(policy, dtype=torch.float64, requires_grad=True)


def run(groups: Sequence[PromptGroup], seed: int = 1, **options: Any) -> tuple[Sums, Tensor, Batch]:
    method = KTO(KTOConfig(**options))
    batch = prepared(method, groups, seed)
    seen, logprobs = step(batch)
    return method.loss("policy", Scores(logprobs_N=logprobs), seen), logprobs, batch


def by_hand(batch: Batch, beta: float, weight_d: float, weight_u: float) -> tuple[float, float]:
    """(sum of the losses, z0), with loops."""

    def rho(prompt: Any, c: Completion) -> float:
        return sum(
            logprob(prompt, t, True) - float(np.float32(logprob(prompt, t, False))) for t in c.token_ids[c.action_mask]
        )

    ratios = [[(c, rho(g.prompt_ids, c)) for c in g.completions] for g in batch.groups]

    def scored(prompt: Any, c: Completion) -> float:
        tokens = c.token_ids[c.action_mask]
        return sum(float(np.float32(logprob(prompt, t, True)) - np.float32(logprob(prompt, t, False))) for t in tokens)

    others = [scored(g.prompt_ids, c) for g in OTHERS[id(batch)] for c in g.completions]
    # A prepared column is fp32.
    baseline = float(np.float32(max(0.0, sum(others) / len(others)))) if others else 0.0
    total = 0.0
    for c, r in itertools.chain.from_iterable(ratios):
        z = beta * (baseline - r if c.label else r - baseline)
        total += c.weight * (weight_d if c.label else weight_u) / (1 + np.exp(-z))
    return total, baseline


LABELS = [True, True, False, True, False, True, False]


def test_the_whole_step() -> None:
    groups = feedback(LABELS)
    groups[1].completions[0].weight = 2.5
    got, logprobs, batch = run(groups, beta=0.7, desirable_weight=1.3, undesirable_weight=0.9)
    total, baseline = by_hand(batch, 0.7, 1.3, 0.9)
    assert got.terms["loss"].item() == pytest.approx(total, abs=1e-12)
    assert baseline > 0.05, "the case must not be one where z0 does not matter"
    assert value_of(got, "kl") == pytest.approx(baseline, abs=1e-6)
    assert value_of(got, "kto/baseline_pairs") == 7.0
    assert not any(m.requires_grad for pair in got.metrics.values() for m in pair)
    matched = float(_ratios(batch, logprobs).mean())
    assert abs(max(0.0, matched) - baseline) > 0.05, "matched answers would give another z0"


def _ratios(batch: Batch, logprobs: Tensor) -> Tensor:
    seen, _ = step(batch)
    return seen.sum_C(logprobs.detach() - seen.columns["reference"])


def value_of(sums: Sums, name: str) -> float:
    total, count = sums.metrics[name]
    return float(total) / float(count)


def test_no_gradient_through_the_reference_point() -> None:
    """The slope of each trained token is ∓λβσ', as if z0 were a number."""
    beta = 0.7
    got, logprobs, batch = run(feedback(LABELS), beta=beta)
    got.terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    ratio = _ratios(batch, logprobs)
    _, baseline = by_hand(batch, beta, 1.0, 1.0)
    seen, _ = step(batch)
    answers = [c for g in batch.groups for c in g.completions]
    for slopes, r, c in zip(logprobs.grad.split(seen.lengths_C.tolist()), ratio.tolist(), answers, strict=True):
        s = 1 / (1 + np.exp(-beta * (r - baseline)))
        expected = (-1 if c.label else 1) * beta * s * (1 - s)
        assert slopes.tolist() == pytest.approx([expected] * len(slopes), abs=1e-13)


def test_one_mean_over_all_answers() -> None:
    """The denominator counts answers, not classes and not mismatched answers, and is additive."""
    method = KTO()
    groups = feedback(LABELS)
    batch = prepared(method, groups)
    assert method.weights(groups) == method.weights(batch.groups) == {"loss": 7.0}
    for cut in range(8):
        assert method.weights(groups[:cut])["loss"] + method.weights(groups[cut:])["loss"] == 7.0
    assert KTO(KTOConfig(desirable_weight=9.0)).weights(groups) == {"loss": 7.0}


def test_doubling_a_weight_doubles_its_class_only() -> None:
    groups = feedback(LABELS)
    losses = {d: run(groups, desirable_weight=d)[0].terms["loss"].item() for d in (1.0, 2.0)}
    only = by_hand(prepared(KTO(), groups), 0.1, 1.0, 0.0)[0]
    assert losses[2.0] - losses[1.0] == pytest.approx(only, abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_is_finite(label: bool) -> None:
    got, logprobs, batch = run(feedback([label] * 4), desirable_weight="auto")
    got.terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert got.terms["loss"].item() == pytest.approx(by_hand(batch, 0.1, 1.0, 1.0)[0], abs=1e-12)
    assert torch.isfinite(logprobs.grad).all()  # type: ignore[arg-type]
    absent = "rejected" if label else "chosen"
    assert [x.item() for x in got.metrics[f"rewards/{absent}"]] == [0.0, 0.0]
    assert [x.item() for x in got.metrics["labels/desirable"]] == [4.0 * label, 4.0]


def test_one_prompt_for_all() -> None:
    groups = feedback([True, False, True], prompts=[[1, 2]] * 3)
    got, _, batch = run(groups)
    assert not any(g.completions for g in OTHERS[id(batch)])
    assert value_of(got, "kl") == 0.0
    assert value_of(got, "kto/baseline_pairs") == 0.0
    assert float(got.metrics["kto/baseline_cut"][1]) == 0.0
    assert got.terms["loss"].item() == pytest.approx(by_hand(batch, 0.1, 1.0, 1.0)[0], abs=1e-12)


def test_policy_equal_to_its_reference() -> None:
    method = KTO()
    batch = Batch(feedback(LABELS))
    scoring = Scoring()
    method.prepare_batch(batch, lambda _, groups: scoring("reference", groups), np.random.default_rng(1))
    seen, _ = step(batch)
    same = seen.columns["reference"].clone()
    got = method.loss("policy", Scores(logprobs_N=same), seen)
    assert got.terms["loss"].item() == 3.5
    assert got.metrics["kl"][0].item() == 0.0
    for name, expected in KTO.at_start.items():
        assert got.metrics[name][0].item() == expected


def test_metrics_by_class() -> None:
    got, logprobs, batch = run(feedback(LABELS), beta=0.7)
    own = (0.7 * _ratios(batch, logprobs)).tolist()
    for name, wanted in (("chosen", True), ("rejected", False)):
        mine = [r for r, label in zip(own, LABELS, strict=True) if label == wanted]
        total, count = got.metrics[f"rewards/{name}"]
        assert (total.item() / count.item()) == pytest.approx(np.mean(mine), abs=1e-5)
        assert count.item() == len(mine)
    assert [x.item() for x in got.metrics["labels/desirable"]] == [4.0, 7.0]
    means = {n: float(t) / float(c) for n, (t, c) in got.metrics.items() if float(c)}
    margin = KTO().derived(means)["rewards/margins"]
    assert margin == pytest.approx(means["rewards/chosen"] - means["rewards/rejected"])
    assert KTO().derived({}) == {}


def test_mismatched_answers_are_not_trained_and_new_each_time() -> None:
    groups = feedback(LABELS)
    batches = [prepared(KTO(), groups, seed) for seed in (1, 2)]
    assert all([len(g.completions) for g in b.groups] == [1] * 7 for b in batches)
    drawn = [[int(g.completions[0].token_ids[0]) for g in OTHERS[id(b)]] for b in batches]
    assert drawn[0] != drawn[1]


def test_a_micro_batch_has_the_reference_point_of_the_step() -> None:
    """Loss and metrics of parts of a step add up to those of the whole."""
    method = KTO(KTOConfig(beta=0.7))
    batch = prepared(method, feedback(LABELS))
    seen, logprobs = step(batch)
    whole = method.loss("policy", Scores(logprobs_N=logprobs), seen)
    parts = []
    ends = seen.lengths_C.cumsum(0).tolist()
    for groups, first, last in (((0, 3), 0, ends[2]), ((3, 7), ends[2], ends[6])):
        columns = {
            name: values[first:last] if name == "reference" else values[groups[0] : groups[1]]
            for name, values in seen.columns.items()
        }
        part = view(batch.groups[groups[0] : groups[1]], columns)
        parts.append(method.loss("policy", Scores(logprobs_N=logprobs[first:last]), part))
    assert sum(p.terms["loss"].item() for p in parts) == pytest.approx(whole.terms["loss"].item(), abs=1e-12)
    for name, (total, count) in whole.metrics.items():
        assert sum(float(p.metrics[name][0]) for p in parts) == pytest.approx(float(total), abs=1e-6)
        assert sum(float(p.metrics[name][1]) for p in parts) == float(count)


def test_what_is_cut_is_counted() -> None:
    method = KTO()
    groups = feedback([True, False], prompts=[[1] * 6, [2]], lengths=[2, 7])
    batch = prepared(method, groups, max_length=8)
    seen, logprobs = step(batch)
    got = method.loss("policy", Scores(logprobs_N=logprobs), seen)
    assert value_of(got, "kto/baseline_cut") == 0.5


# -- class weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "options", "expected"),
    [
        ((100, 1000), {"desirable_weight": "auto", "undesirable_weight": "auto"}, (10.0, 1.0)),
        ((100, 1000), {"desirable_weight": "auto"}, (10.0, 1.0)),
        ((1000, 100), {"desirable_weight": "auto", "undesirable_weight": "auto"}, (1.0, 1000 / 150)),
        ((1000, 100), {"undesirable_weight": "auto"}, (1.0, 1000 / 150)),
        ((1000, 100), {"desirable_weight": "auto"}, (0.15, 1.0)),
        ((120, 100), {"desirable_weight": "auto", "undesirable_weight": "auto"}, (1.0, 1.0)),
        ((150, 100), {"desirable_weight": "auto", "undesirable_weight": "auto"}, (1.0, 1.0)),
        ((100, 100), {"desirable_weight": "auto", "undesirable_weight": 4.0}, (4.0, 4.0)),
        ((100, 1000), {}, (1.0, 1.0)),
        ((100, 1000), {"desirable_weight": 13.33}, (13.33, 1.0)),
        ((7, 0), {"desirable_weight": "auto"}, (1.0, 1.0)),
    ],
)
def test_weights_from_counts(counts: tuple[int, int], options: dict[str, Any], expected: tuple[float, float]) -> None:
    found = class_weights(*counts, KTOConfig(**options))
    assert found == pytest.approx(expected, rel=1e-12)
    if "auto" in options.values() and counts[1]:
        assert 1 - 1e-12 <= found[0] * counts[0] / (found[1] * counts[1]) <= 1.5 + 1e-12


def test_counts_come_from_the_whole_data_set() -> None:
    """The step has one class more often, the data the other."""
    method = KTO(KTOConfig(desirable_weight="auto", undesirable_weight="auto"))
    method.observe(feedback([True] + [False] * 5))
    assert method.class_weights() == (5.0, 1.0)
    assert "1 desirable rows with weight 5, 5 undesirable rows with weight 1: 1 to 1" in method.notes()[0]
    heavier = feedback([True, False])
    heavier[1].completions[0].weight = 3.0
    method.observe(heavier)
    assert method.class_weights() == (3.0, 1.0)


def test_the_log_says_when_the_classes_are_far_apart() -> None:
    method = KTO()
    method.observe(feedback([True] + [False] * 5))
    assert "0.2 to 1 (the paper advises 1 to 1.5" in method.notes()[0]
    assert "auto" in method.notes()[0]
    method.observe(feedback([True] * 5 + [False] * 4))
    assert "advises" not in method.notes()[0]


# -- in a run ---------------------------------------------------------------------------------------------------------


class _Messages(SilentObserver):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)


def test_pairs_taken_apart(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt is there twice, side by side; all of its answers find one to another prompt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = write_rows(tmp_path / "pairs.jsonl", rows_of("preference", 8))
    more = {"data.convert": "pairs_to_feedback", "method.desirable_weight": "auto", "log.every": 1}
    options = options_for(tiny_model_dir, data, tmp_path / "run", **more)
    told = _Messages()
    result = train_here("kto", options, observers=[told])
    steps = [line for line in lines(result.run_dir / "metrics.jsonl") if "kl" in line]
    assert steps
    assert all(line["kto/baseline_pairs"] >= 2 for line in steps)
    assert all(line["kl"] >= 0 and np.isfinite(line["loss"]) for line in steps)
    assert any("undesirable rows with weight 1" in line for line in told.lines)


def test_a_single_row_is_too_few(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "one.jsonl", rows_of("feedback", 1))
    options = options_for(tiny_model_dir, data, tmp_path / "run", **{"data.invalid": "drop"})
    with pytest.raises(TrainingError, match="at least 2 rows") as caught:
        train_here("kto", {k: v for k, v in options.items() if k not in ("data.eval_fraction", "eval.every")})
    assert caught.value.code == "PL401"


def test_declaration_and_options() -> None:
    assert find("kto") is KTO
    assert (KTO.scope, KTO.fresh_completions, KTO.min_groups) == ("group", True, 2)
    assert KTO.data_kind == "feedback"
    wrong: list[dict[str, Any]] = [{"beta": 0.0}, {"desirable_weight": 0.0}, {"undesirable_weight": -1.0}]
    for options in [*wrong, {"desirable_weight": "automatic"}, {"bta": 0.1}]:
        with pytest.raises(ValidationError):
            KTOConfig.model_validate(options)
