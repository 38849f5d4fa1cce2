"""The packed row, token by token."""

from __future__ import annotations

import numpy as np
import torch

from plaudit.forest.layout import Piece, build_forest, context_ids, piece_tokens
from plaudit.types import Completion, PromptGroup
from tests.zoo import SHAPES, Maker


def _completion(ids: list[int], mask: list[int] | None = None) -> Completion:
    array = np.array(ids, np.int32)
    return Completion(array, np.array(mask if mask is not None else [1] * len(ids), np.bool_))


def _group(prompt: list[int], *completions: Completion, targets: list[int] | None = None) -> PromptGroup:
    mask = None if targets is None else np.array(targets, np.bool_)
    return PromptGroup(np.array(prompt, np.int32), list(completions), prompt_mask=mask)


def _whole(*groups: PromptGroup) -> list[Piece]:
    return [Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(groups)]


def test_a_pair_by_hand() -> None:
    """Prompt 10 11 12 once without its last token; each branch repeats 12 and drops its own last token."""
    f = build_forest(_whole(_group([10, 11, 12], _completion([20, 21]), _completion([30, 31, 32]))), bos_id=None)
    assert f.token_ids_T.tolist() == [10, 11, 12, 20, 12, 30, 31]
    assert f.position_ids_T.tolist() == [0, 1, 2, 3, 2, 3, 4]
    assert f.target_positions_N.tolist() == [2, 3, 4, 5, 6]
    assert f.targets_N.tolist() == [20, 21, 30, 31, 32]
    assert f.lengths_C.tolist() == [2, 3]
    assert f.piece_of_C.tolist() == [0, 0]
    assert f.trees[0].prompt == (0, 2)
    assert f.trees[0].branches == ((2, 4), (4, 7))
    assert f.last_positions_C is None


def test_masked_tokens_are_context_and_no_target() -> None:
    """Nothing behind the last target is computed."""
    f = build_forest(_whole(_group([10, 11], _completion([20, 21, 22, 23], [1, 0, 1, 0]))), bos_id=None)
    assert f.token_ids_T.tolist() == [10, 11, 20, 21]
    assert f.target_positions_N.tolist() == [1, 3]
    assert f.targets_N.tolist() == [20, 22]


def test_score_last_packs_every_last_token() -> None:
    f = build_forest(
        _whole(_group([10, 11], _completion([20, 21], [1, 0]), _completion([30]))), bos_id=None, score_last=True
    )
    assert f.token_ids_T.tolist() == [10, 11, 20, 21, 11, 30]
    assert f.last_positions_C is not None
    assert f.last_positions_C.tolist() == [3, 5]
    assert f.token_ids_T[f.last_positions_C].tolist() == [21, 30]


def test_empty_prompt() -> None:
    """Without BOS the first token is no target; with BOS it is; a completion that brings BOS keeps its own."""
    group = _group([], _completion([20, 21, 22]))
    f = build_forest(_whole(group), bos_id=None)
    assert (f.token_ids_T.tolist(), f.targets_N.tolist(), f.target_positions_N.tolist()) == ([20, 21], [21, 22], [0, 1])
    f = build_forest(_whole(group), bos_id=1)
    assert (f.token_ids_T.tolist(), f.targets_N.tolist()) == ([1, 20, 21], [20, 21, 22])
    f = build_forest(_whole(_group([], _completion([1, 21, 22]))), bos_id=1)
    assert (f.token_ids_T.tolist(), f.targets_N.tolist()) == ([1, 21], [21, 22])
    assert context_ids(group, 1).tolist() == [1]


def test_prompt_targets() -> None:
    """Position i−1 predicts prompt token i; token 0 never is one; the last one is predicted within the prompt."""
    f = build_forest(_whole(_group([10, 11, 12, 13], _completion([20]), targets=[1, 0, 1, 1])), bos_id=None)
    assert f.prompt_target_positions_M.tolist() == [1, 2]
    assert f.prompt_targets_M.tolist() == [12, 13]
    assert f.prompt_lengths_P.tolist() == [2]


def test_only_the_carrying_piece_has_prompt_targets() -> None:
    group = _group([10, 11, 12], _completion([20]), _completion([30]), targets=[0, 1, 1])
    pieces = [Piece(group, 0, (0,), prompt_targets=True), Piece(group, 0, (1,), prompt_targets=False)]
    assert build_forest(pieces, bos_id=None).prompt_lengths_P.tolist() == [2, 0]


def test_documents_in_a_row_restart_their_positions() -> None:
    """k packed documents: exactly k positions have position id 0, and none of those tokens is a target."""
    make = Maker(3)
    groups = [make.group(0, [n]) for n in (7, 4, 9, 2, 5)]
    f = build_forest(_whole(*groups), bos_id=None)
    starts = torch.nonzero(f.position_ids_T == 0).flatten()
    assert len(starts) == 5
    assert f.targets_N.tolist() == [int(t) for g in groups for t in g.completions[0].token_ids[1:]]
    # A target is predicted from within its own document: at the position right before its own.
    owner = torch.bucketize(f.target_positions_N, starts, right=True)
    assert owner.tolist() == [d + 1 for d, n in enumerate((7, 4, 9, 2, 5)) for _ in range(n - 1)]


def test_position_floor() -> None:
    """The filler is one lone token; it is added only where no token has that position yet."""
    pieces = _whole(_group([10, 11], _completion([20, 21])))
    f = build_forest(pieces, bos_id=None, position_floor=24)
    assert f.position_ids_T.tolist()[-1] == 24
    assert f.num_tokens == piece_tokens(pieces[0], None, False) + 1
    assert f.targets_N.tolist() == [20, 21]
    assert build_forest(pieces, bos_id=None, position_floor=2).num_tokens == piece_tokens(pieces[0], None, False)


def test_the_oracle_of_every_shape() -> None:
    """Walking each branch back through its tree gives the sequence, its positions and its targets."""
    for shape in SHAPES.values():
        groups = shape.groups()
        f = build_forest(_whole(*groups), bos_id=shape.bos, score_last=shape.score_last)
        at = f.target_positions_N.split(f.lengths_C.tolist())
        number = 0
        for piece, tree in zip(f.pieces, f.trees, strict=True):
            context = context_ids(piece.group, shape.bos).tolist()
            for completion, branch in zip(piece.members(), tree.branches, strict=True):
                path = [*range(*tree.prompt), *range(*branch)]
                sequence = context + completion.token_ids.tolist()
                assert f.token_ids_T[path].tolist() == sequence[: len(path)] or not path
                assert f.position_ids_T[path].tolist() == list(range(len(path)))
                wanted = [len(context) + int(i) for i in np.flatnonzero(completion.action_mask) if len(context) + i > 0]
                assert [path.index(p) + 1 for p in at[number].tolist()] == wanted
                number += 1
