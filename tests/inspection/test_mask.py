"""The mask that is shown is what the loss reads: held against the gradients of real optimiser steps, and against the
text of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import plaudit
from plaudit.forest.layout import Forest
from plaudit.inspection.cells import Cell
from plaudit.inspection.mask import Packer, WithoutWeights
from plaudit.inspection.results import Inspection
from plaudit.methods.base import Scores
from plaudit.methods.sft import SFT
from plaudit.models.positions import PositionRegime
from plaudit.train.step import StepRunner
from plaudit.types import Completion, PromptGroup
from tests.inspection.conftest import PAIRS

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft": ("sft", "chats", {}),
    "sft-completion": ("sft", "chats", {"train_on": "completion"}),
    "sft-sequence": ("sft", "chats", {"train_on": "sequence"}),
    "sft-cut": ("sft", "chats", {"max_length": 60, "overlong": "truncate_completion"}),
    "dpo": ("dpo", "pairs", {}),
    "dpo-small-budget": ("dpo", "pairs", {"tokens_per_microbatch": 40}),
    "orpo": ("orpo", "pairs", {}),
    "kto": ("kto", "feedback", {}),
    "kto-of-pairs": ("kto", "pairs", {"convert": "pairs_to_feedback"}),
    "reward": ("reward", "rankings", {}),
}
Place = tuple[int, tuple[int, ...], int]
"""(row, tokens of the completion or none of it, index of a token)"""


class Gradients:
    """Where the gradient of each score of a step is not 0."""

    def __init__(self) -> None:
        self.trained: set[Place] = set()
        self.of_prompts: set[tuple[int, int]] = set()
        self.scored: set[Place] = set()

    def watch(self, forest: Forest, scores: Scores) -> None:
        for name, take in (("logprobs_N", self.targets), ("prompt_logprobs_M", self.prompts), ("last_C", self.last)):
            values = getattr(scores, name)
            if isinstance(values, torch.Tensor) and values.requires_grad and len(values):
                values.register_hook(lambda grad, take=take: take(forest, (grad != 0).tolist()))

    def branches(self, forest: Forest) -> list[tuple[int, tuple[int, ...], int, bool]]:
        """(row, completion, packed place of its branch, whether the branch begins with the prompt's last token)"""
        found = []
        for piece, tree in zip(forest.pieces, forest.trees, strict=False):
            assert piece.group.source is not None
            for k, (start, _) in zip(piece.completions, tree.branches, strict=True):
                ids = tuple(piece.group.completions[k].token_ids.tolist())
                found.append((piece.group.source.row, ids, start, len(piece.group.prompt_ids) > 0))
        return found

    def targets(self, forest: Forest, moved: list[bool]) -> None:
        n = 0
        for (row, ids, start, head), count in zip(self.branches(forest), forest.counts_C, strict=True):
            for at in range(n, n + count):
                index = int(forest.target_positions_N[at]) - start + (0 if head else 1)
                assert ids[index] == int(forest.targets_N[at])
                self.trained |= {(row, ids, index)} if moved[at] else set()
            n += count

    def prompts(self, forest: Forest, moved: list[bool]) -> None:
        m = 0
        for piece, tree, count in zip(forest.pieces, forest.trees, forest.prompt_counts_P, strict=False):
            assert piece.group.source is not None
            for at in range(m, m + count):
                index = int(forest.prompt_target_positions_M[at]) - tree.prompt[0] + 1
                self.of_prompts |= {(piece.group.source.row, index)} if moved[at] else set()
            m += count

    def last(self, forest: Forest, moved: list[bool]) -> None:
        assert forest.last_positions_C is not None
        for (row, ids, start, head), at, ok in zip(
            self.branches(forest), forest.last_positions_C.tolist(), moved, strict=True
        ):
            self.scored |= {(row, ids, at - start - (1 if head else 0))} if ok else set()


def marked(cells: Iterable[Cell], mark: str) -> set[int]:
    """Indices of the tokens that are shown with a mark."""
    found, at = set(), 0
    for cell in cells:
        found |= set(range(at, at + len(cell.ids))) if cell.mark == mark else set()
        at += len(cell.ids)
    return found


def shown(found: Inspection, mark: str) -> set[Place]:
    places = set()
    for example in found.examples:
        assert example.source is not None
        for branch in example.branches:
            ids = tuple(i for cell in branch.cells for i in cell.ids)
            places |= {(example.source.row, ids, index) for index in marked(branch.cells, mark)}
    return places


@pytest.mark.parametrize("case", CASES)
def test_what_is_coloured_is_what_moves_the_loss(
    case: str, files: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, name, options = CASES[case]
    found = plaudit.inspect(f"{name}.jsonl", model=tiny_model_dir, method=method, rows=99, **options)
    assert found.problem is None
    gradients, forward = Gradients(), StepRunner._forward

    def watched(self: StepRunner, role: Any, forest: Forest, stream: Any) -> Scores:
        scores = forward(self, role, forest, stream)
        gradients.watch(forest, scores)
        return scores

    monkeypatch.setattr(StepRunner, "_forward", watched)
    plaudit.train(
        method,
        model=str(tiny_model_dir),
        data=f"{name}.jsonl",
        lora_r=4,
        max_steps=1,
        reference_cache="off",
        observers=(),
        **options,
    )
    assert gradients.trained or gradients.scored
    assert shown(found, "trained") == gradients.trained
    assert shown(found, "scored") == gradients.scored
    prompts = {(e.source.row, i) for e in found.examples if e.source for i in marked(e.prompt, "trained")}
    assert prompts == gradients.of_prompts
    assert found.tally.trained == len(gradients.trained) + len(gradients.of_prompts)


def trained_text(found: Inspection, row: int = 0) -> list[str]:
    """What is trained of each answer of an example, stretch by stretch."""
    texts = []
    for branch in found.examples[row].branches:
        text = "".join(c.text if c.mark == "trained" else "\0" for c in branch.cells)
        texts += [part.replace("⏎\n", "\n") for part in text.split("\0") if part]
    return texts


def test_train_on_decides_what_is_coloured(files: Path, tiny_model_dir: Path) -> None:
    def trained(how: str) -> list[str]:
        return trained_text(plaudit.inspect("chats.jsonl", model=tiny_model_dir, train_on=how))

    both = ["It is blue.<|im_end|>", "Yes. <|im_end|>"]
    assert trained("assistant") == both
    assert trained("completion") == both[1:]
    whole = plaudit.inspect("chats.jsonl", model=tiny_model_dir, train_on="sequence")
    assert trained_text(whole) == [f"{both[0]}\n<|im_start|>user\nSure 0?<|im_end|>\n<|im_start|>assistant\n{both[1]}"]
    prompt = whole.examples[0].prompt
    assert [c.mark for c in prompt] == ["masked"] + ["trained"] * (len(prompt) - 1)  # nothing predicts the first token


def test_tokens_that_are_shown_are_those_of_the_template(files: Path, tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    example = plaudit.inspect("pairs.jsonl", model=tiny_model_dir, row=2).examples[0]
    prompt = tokenizer.apply_chat_template(PAIRS[1]["prompt"], add_generation_prompt=True, tokenize=True)
    ids = [i for cell in example.prompt for i in cell.ids]
    assert ids == list(prompt["input_ids"] if hasattr(prompt, "keys") else prompt)
    for branch, column in zip(example.branches, ("chosen", "rejected"), strict=True):
        assert branch.label == column
        text = tokenizer.apply_chat_template([*PAIRS[1]["prompt"], *PAIRS[1][column]], tokenize=False)
        whole = tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert ids + [i for cell in branch.cells for i in cell.ids] == whole


def test_a_template_and_tokens_of_the_configuration_are_those_of_the_run(
    files: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "own.jinja").write_text(
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        encoding="utf-8",
    )
    added = ["<|user|>", "<|assistant|>"]
    options = {"chat_template": "own.jinja", "added_tokens": added}
    found = plaudit.inspect("pairs.jsonl", model={"path": str(tiny_model_dir), **options}, row=1)
    prompt = found.examples[0].prompt
    text = "<|user|>Which colour is the sky?<|im_end|><|assistant|>"
    assert "".join(c.text for c in prompt) == text
    assert [c.text for c in prompt if c.special] == ["<|user|>", "<|im_end|>", "<|assistant|>"]
    computed, forward = [], StepRunner._forward

    def watched(self: StepRunner, role: Any, forest: Forest, stream: Any) -> Scores:
        computed.extend(piece.group for piece in forest.pieces)
        return forward(self, role, forest, stream)

    monkeypatch.setattr(StepRunner, "_forward", watched)
    model = {"path": str(tiny_model_dir), **options}
    plaudit.train("dpo", model=model, data="pairs.jsonl", max_steps=1, reference_cache="off", observers=())
    ids = [i for cell in prompt for i in cell.ids]
    assert ids in [group.prompt_ids.tolist() for group in computed]


def test_pieces_of_different_position_regimes_share_no_micro_batch() -> None:
    groups = [
        PromptGroup(np.arange(3, 3 + n, dtype=np.int32), [Completion(np.full(2, 7, np.int32), np.ones(2, np.bool_))])
        for n in (4, 30, 5)
    ]
    packer = Packer(SFT(), WithoutWeights(1, PositionRegime(original=16)), 1000)
    slots = packer.slots(groups)
    assert sorted(sorted(piece.index for piece in slot.pieces) for slot in slots) == [[0, 2], [1]]
    assert [mask.trained for mask in packer.masks(groups)] == [2, 2, 2]


def test_of_prompts_nothing_is_trained(files: Path, tiny_model_dir: Path) -> None:
    found = plaudit.inspect("prompts.jsonl", model=tiny_model_dir, max_new_tokens=8)
    assert found.method.name == "grpo"
    assert found.reserve == 8
    assert found.tally.trained == 0
    assert [e.branches for e in found.examples] == [(), ()]
    assert {c.mark for e in found.examples for c in e.prompt} == {"masked"}
    assert found.end_line is None
    assert found.packing is None
    assert found.sampling is not None
    assert (found.sampling.answers, found.sampling.prompts) == (8, 2)


def test_a_prompt_that_is_empty_shows_the_token_that_stands_for_it(files: Path, tiny_model_dir: Path) -> None:
    found = plaudit.inspect([{"text": "The sky is blue."}], model=tiny_model_dir)
    example = found.examples[0]
    assert [c.text for c in example.prompt] == ["<|im_start|>"]
    assert example.remarks == ("the prompt is empty: the BOS token stands in for it",)
    assert trained_text(found) == ["The sky is blue.<|im_end|>"]


def test_a_group_that_is_split_is_read_whole() -> None:
    """And where it is split, one piece alone carries the prompt's targets."""
    rng = np.random.default_rng(0)
    group = PromptGroup(
        rng.integers(3, 50, 9).astype(np.int32),
        [Completion(rng.integers(3, 50, n).astype(np.int32), rng.random(n) < 0.6) for n in (7, 5, 11, 6)],
        prompt_mask=rng.random(9) < 0.5,
    )
    assert group.prompt_mask is not None
    for budget, pieces in ((1000, 1), (30, 2), (8, 4)):
        packer = Packer(SFT(), WithoutWeights(1, PositionRegime()), budget)
        assert sum(len(slot.pieces) for slot in packer.slots([group])) == pieces
        mask = packer.masks([group])[0]
        assert sorted(mask.answers) == [0, 1, 2, 3]
        for k, completion in enumerate(group.completions):
            assert mask.answers[k].trained.tolist() == completion.action_mask.tolist()
            assert mask.answers[k].score_at is None
        assert mask.prompt.tolist() == [False, *group.prompt_mask[1:].tolist()]
