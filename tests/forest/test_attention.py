"""The attention function itself: what it refuses, its two kernels, windows, sinks and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plaudit.errors import ModelError
from plaudit.forest.attention import LAYOUT_KEYWORD, forest_attention, portable, rectangles
from plaudit.forest.layout import Forest, Piece, build_forest
from tests.zoo import Maker

ROOT = Path(__file__).parents[2]
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def _forest(*shapes: tuple[int, list[int]]) -> Forest:
    make = Maker(1)
    groups = [make.group(p, lengths) for p, lengths in shapes]
    return build_forest([Piece(g, i, tuple(range(len(g.completions)))) for i, g in enumerate(groups)], bos_id=None)


def _inputs(forest: Forest, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    t = forest.num_tokens
    shapes = [(1, HEADS, t, WIDTH), (1, KEY_HEADS, t, WIDTH), (1, KEY_HEADS, t, WIDTH)]
    return [(torch.randn(s, generator=generator) * 1.5).to(dtype).requires_grad_() for s in shapes]


def visible(forest: Forest, window: int | None) -> Tensor:
    """[T, T] who sees whom, straight from the definition: same sequence, not later, within the window."""
    allowed = torch.zeros(forest.num_tokens, forest.num_tokens, dtype=torch.bool)
    for tree in forest.trees:
        for branch in [*tree.branches, (0, 0)]:
            path = [*range(*tree.prompt), *range(*branch)]
            for i, query in enumerate(path):
                for j, key in enumerate(path[: i + 1]):
                    allowed[query, key] |= window is None or i - j < window
    return allowed


def dense(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, *, cap: float | None = None, sinks: Tensor | None = None
) -> Tensor:
    """Attention with an explicit mask in fp64, [1, T, H, Dh]."""
    k, v = (x.double().repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * WIDTH**-0.5
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    scores = scores.masked_fill(~allowed, -torch.inf)
    if sinks is not None:
        column = sinks.double()[None, :, None, None].expand(1, -1, q.shape[2], 1)
        scores = torch.cat([scores, column], -1)
    weights = torch.softmax(scores, -1)[..., : v.shape[2]]
    return (weights @ v).transpose(1, 2)


def _ours(q: Tensor, k: Tensor, v: Tensor, forest: Forest, **more: Any) -> Tensor:
    return forest_attention(nn.Module(), q, k, v, None, **{LAYOUT_KEYWORD: forest}, **more)[0]


def _compare(forest: Forest, inputs: list[Tensor], call: Callable[..., Tensor], oracle: Callable[..., Tensor]) -> None:
    g = torch.randn(1, forest.num_tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(9))
    out, want = call(*inputs), oracle(*inputs)
    torch.testing.assert_close(out.double(), want, atol=3e-6, rtol=0)
    ours = torch.autograd.grad((out * g).sum(), inputs)
    theirs = torch.autograd.grad((want * g).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), atol=2e-5, rtol=0)


SHAPES = [((12, [5, 9]),), ((30, [3, 12, 20]), (1, [4, 1]), (0, [6]), (2, [9]))]


@pytest.fixture(params=["flash", "portable", "portable in chunks"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one kernel; the chunked one sees rows that begin in the middle of a rectangle."""
    if request.param != "flash":
        monkeypatch.setattr(rectangles, "cpu_flash", lambda q, v, cap: False)
    if request.param == "portable in chunks":
        monkeypatch.setattr(portable, "QUERY_CHUNK", 4)
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", [None, 1, 3, 7, 64])
def test_equals_the_definition(kernel: str, shape: Any, window: int | None) -> None:
    """Windows of 1 and 3: no branch token but the first few sees anything of the prompt."""
    forest = _forest(*shape)
    allowed = visible(forest, window)
    _compare(
        forest,
        _inputs(forest),
        lambda q, k, v: _ours(q, k, v, forest, sliding_window=window),
        lambda q, k, v: dense(q, k, v, allowed),
    )


@pytest.mark.parametrize("window", [None, 5])
def test_soft_cap(kernel: str, window: int | None) -> None:
    forest = _forest(*SHAPES[1])
    allowed = visible(forest, window)
    _compare(
        forest,
        _inputs(forest),
        lambda q, k, v: _ours(q, k, v, forest, softcap=0.7, sliding_window=window),
        lambda q, k, v: dense(q, k, v, allowed, cap=0.7),
    )


@pytest.mark.parametrize("window", [None, 5])
def test_sinks_and_their_gradient(kernel: str, window: int | None) -> None:
    forest = _forest(*SHAPES[1])
    allowed = visible(forest, window)
    sinks = torch.tensor([-2.0, 0.0, 1.0, 4.0], requires_grad=True)
    _compare(
        forest,
        [*_inputs(forest), sinks],
        lambda q, k, v, s: _ours(q, k, v, forest, s_aux=s, sliding_window=window),
        lambda q, k, v, s: dense(q, k, v, allowed, sinks=s),
    )


def test_other_scale_and_value_width() -> None:
    """An explicit scale is used, and values may be narrower than keys (portable kernel)."""
    forest = _forest(*SHAPES[0])
    q, k, v = _inputs(forest)
    torch.testing.assert_close(_ours(q, k, v, forest, scaling=0.9), _ours(q * (0.9 * WIDTH**0.5), k, v, forest))
    torch.testing.assert_close(_ours(q, k, v[..., :3], forest), _ours(q, k, v, forest)[..., :3])


def test_bfloat16_within_its_rounding() -> None:
    """bf16 has 8 bits: outputs of order one agree to 0.02."""
    forest = _forest(*SHAPES[1])
    q, k, v = _inputs(forest, dtype=torch.bfloat16)
    want = dense(q, k, v, visible(forest, None))
    assert float((_ours(q, k, v, forest).double() - want).detach().abs().max()) < 0.02


def test_one_tree_does_not_see_another() -> None:
    """Replacing every token of document A leaves document B's output unchanged to the bit."""
    forest = _forest((9, [5]), (7, [4, 6]))
    q, k, v = (x.detach() for x in _inputs(forest))
    first = forest.trees[0].branches[-1][1]
    before = _ours(q, k, v, forest)[:, first:]
    for x in (q, k, v):
        x[:, :, :first] = torch.randn_like(x[:, :, :first])
    assert torch.equal(before, _ours(q, k, v, forest)[:, first:])


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("PL304", {"position_bias": torch.zeros(1)}),
        ("PL304", {"alibi": torch.zeros(1)}),
        ("PL304", {"is_causal": False}),
        ("PL305", {"dropout": 0.1}),
    ],
)
def test_unknown_options_are_refused(code: str, options: dict[str, Any]) -> None:
    forest = _forest(*SHAPES[0])
    with pytest.raises(ModelError) as caught:
        _ours(*_inputs(forest), forest, **options)
    assert caught.value.code == code
    assert next(iter(options)).split("=")[0] in str(caught.value)


def test_a_bidirectional_module_is_refused() -> None:
    forest = _forest(*SHAPES[0])
    module = nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    with pytest.raises(ModelError, match="is_causal=False"):
        forest_attention(module, *_inputs(forest), None, **{LAYOUT_KEYWORD: forest})


def test_a_mask_is_refused() -> None:
    forest = _forest(*SHAPES[0])
    q, k, v = _inputs(forest)
    with pytest.raises(ModelError, match="attention_mask"):
        forest_attention(nn.Module(), q, k, v, torch.zeros(1, 1, 4, 4), **{LAYOUT_KEYWORD: forest})


def test_no_layout_is_refused() -> None:
    with pytest.raises(ModelError, match="without a forest"):
        forest_attention(nn.Module(), *_inputs(_forest(*SHAPES[0])), None)


def test_options_without_effect_pass() -> None:
    forest = _forest(*SHAPES[0])
    inputs = _inputs(forest)
    plain = _ours(*inputs, forest)
    told = _ours(*inputs, forest, use_cache=False, position_ids=forest.position_ids_T[None], alibi=None, dropout=0.0)
    assert torch.equal(plain, told)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_many_branches_cost_what_flat_data_costs() -> None:
    """One prompt of 1,024 tokens with 128 branches of 32 against 40 groups of 64 + 64: peak bytes per unique token.

    With a sliding window as well, whose masks must not grow with the number of branches.

    The peak is the largest running sum of the allocator's own events (allocations and frees) over forward and backward,
    in a process of its own; it does not depend on the machine's memory state.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.forest.memory_probe"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["branches"]["tokens"] > 5000
    assert found["flat"]["tokens"] > 5000
    per_token = {name: d["peak_bytes"] / d["unique_tokens"] for name, d in found.items()}
    assert per_token["branches"] <= 1.10 * per_token["flat"], per_token
    assert per_token["branches, window"] <= 1.10 * per_token["flat"], per_token
