"""The log-prob head: known values, the gradient identity, equal paths, chunking, and no [N, V] tensor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from plaudit.forest import logprob
from plaudit.forest.logprob import TokenStats, chunk_rows, fused_token_stats, module_token_stats

N, D, V = 45, 16, 61
ALL = frozenset({"entropy", "log_sum_p2"})


def _case(dtype: torch.dtype = torch.float32, n: int = N) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=False, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(torch.randn(V, D) * 0.7)
    return torch.randn(n, D).to(dtype).requires_grad_(), head, torch.randint(0, V, (n,))


def _dense(hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float) -> TokenStats:
    logits = (hidden.double() @ head.weight.double().T) / temperature
    logp = torch.log_softmax(logits, -1)
    chosen = logp.gather(-1, targets[:, None]).squeeze(-1)
    return TokenStats(chosen, -(logp.exp() * logp).sum(-1), (2 * logp).exp().sum(-1).log())


def _run(
    path: str, hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float, stats: frozenset[str]
) -> TokenStats:
    if path == "module":
        return module_token_stats(hidden, head, lambda x: x, targets, V, temperature=temperature, stats=stats)
    return fused_token_stats(hidden, head.weight, targets, temperature=temperature, stats=stats)


PATHS = ["fused", "frozen", "module"]


def _names(stats: frozenset[str]) -> str:
    """A test's name is the same in every process: the order of a set of strings is not."""
    return "+".join(sorted(stats)) or "none"


@pytest.fixture(params=[10**9, 16 * 4 * V, 16 * 4 * V + 4 * V], ids=["one chunk", "16 a chunk", "17 a chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """45 targets in one chunk, in 13+16+16, and in 11+17+17."""
    monkeypatch.setattr(logprob, "_CHUNK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("path", PATHS)
def test_uniform_logits(path: str) -> None:
    """log p = −log V, entropy = log V, Σp² = 1/V."""
    hidden, head, targets = _case()
    found = _run(path, torch.zeros_like(hidden), head, targets, 0.5, ALL)
    assert found.entropy is not None
    assert found.log_sum_p2 is not None
    torch.testing.assert_close(found.logprob, torch.full((N,), -math.log(V)))
    torch.testing.assert_close(found.entropy, torch.full((N,), math.log(V)))
    torch.testing.assert_close(found.log_sum_p2, torch.full((N,), -math.log(V)))


@pytest.mark.parametrize("path", PATHS)
def test_one_hot_logits(path: str) -> None:
    """A logit 30 above the rest: −log p < 1e-9 · V, no entropy."""
    head = nn.Linear(V, V, bias=False)
    with torch.no_grad():
        head.weight.copy_(30 * torch.eye(V))
    targets = torch.arange(V)
    found = _run(path, torch.eye(V), head, targets, 1.0, ALL)
    assert found.entropy is not None
    assert float(-found.logprob.detach().min()) < 1e-9 * V
    assert float(found.entropy.detach().abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("path", PATHS)
def test_huge_logits_stay_finite(path: str, scale: float) -> None:
    hidden, head, targets = _case()
    big = (hidden.detach() * scale).requires_grad_()
    found = _run(path, big, head, targets, 1.0, ALL)
    (found.logprob.sum() + found.entropy.sum()).backward()  # type: ignore[union-attr]
    assert torch.isfinite(found.logprob).all()
    assert torch.isfinite(big.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("path", ["fused", "module"])
def test_gradient_identity(path: str, temperature: float, chunks: int) -> None:
    """∂(−Σ log p)/∂z = (softmax − one-hot) / temperature: with an identity head, the hidden states are the logits."""
    torch.manual_seed(1)
    logits = torch.randn(N, V, requires_grad=True)
    head = nn.Linear(V, V, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(V))
    targets = torch.randint(0, V, (N,))
    _run(path, logits, head, targets, temperature, frozenset()).logprob.sum().neg().backward()
    want = (torch.softmax(logits.detach() / temperature, -1) - nn.functional.one_hot(targets, V)) / temperature
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, want, atol=1e-6, rtol=0)
    assert float(logits.grad.sum(-1).abs().max()) < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("stats", [frozenset(), frozenset({"entropy"}), frozenset({"log_sum_p2"}), ALL], ids=_names)
@pytest.mark.parametrize("path", PATHS)
def test_paths_and_chunks_agree(path: str, stats: frozenset[str], temperature: float, chunks: int) -> None:
    """Values, and the gradients of hidden states and head, against the dense formula in fp64."""
    hidden, head, targets = _case()
    head.weight.requires_grad_(path != "frozen")
    a, b = torch.rand(N) + 0.5, torch.rand(N) - 0.3

    found = _run(path, hidden, head, targets, temperature, stats)
    want = _dense(hidden, head, targets, temperature)
    for name in ("logprob", *stats):
        ours, theirs = getattr(found, name), getattr(want, name)
        # log Σp² is a difference of two log-sum-exps of order 50, whose last bit is 4e-6.
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5 if name == "log_sum_p2" else 3e-6, rtol=0)
    assert (found.entropy is None) == ("entropy" not in stats)
    assert (found.log_sum_p2 is None) == ("log_sum_p2" not in stats)

    inputs = [hidden] if path == "frozen" else [hidden, head.weight]
    loss = (a * found.logprob).sum() + (0 if found.entropy is None else (b * found.entropy).sum())
    truth = (a * want.logprob).sum() + (0 if found.entropy is None else (b * want.entropy).sum())  # type: ignore[operator]
    for mine, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(truth, inputs), strict=True):
        size = float(theirs.abs().max())
        assert float((mine - theirs).abs().max()) / size < 3e-6


@pytest.mark.parametrize("stats", [frozenset(), frozenset({"log_sum_p2"})], ids=_names)
def test_a_second_backward_pass_gives_the_same(stats: frozenset[str], chunks: int) -> None:
    """The first one uses the memory of the last chunk up."""
    hidden, head, targets = _case()
    loss = (torch.rand(N) * fused_token_stats(hidden, head.weight, targets, stats=stats).logprob).sum()
    first, again = (torch.autograd.grad(loss, [hidden, head.weight], retain_graph=True) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


class _Products(TorchDispatchMode):
    """Counts products with as many targets as rows or inner length."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::mm" and V in (args[0].shape[1], args[1].shape[1]):
            self.targets.append(int(args[0].shape[0]))
        return func(*args, **(kwargs or {}))


def test_logits_of_the_last_chunk_are_not_computed_again(chunks: int) -> None:
    """Of each chunk logits and the slope of the hidden states, and again logits but of the last."""
    hidden, head, targets = _case()
    sizes = [p.stop - p.start for p in logprob._chunks(N, chunk_rows(V))]
    assert sum(sizes) == N
    assert sizes[-1] == max(sizes)
    with _Products() as seen:
        fused_token_stats(hidden, head.weight, targets).logprob.sum().backward()
    assert sorted(n for n in seen.targets if n != V) == sorted([*sizes, *sizes, *sizes[:-1]])


def test_log_sum_p2_carries_no_gradient() -> None:
    hidden, head, targets = _case()
    for path in ("fused", "module"):
        found = _run(path, hidden, head, targets, 1.0, ALL)
        assert found.log_sum_p2 is not None
        assert not found.log_sum_p2.requires_grad


def test_a_frozen_trunk_still_trains_the_head() -> None:
    hidden, head, targets = _case()
    fused_token_stats(hidden.detach(), head.weight, targets).logprob.sum().backward()
    want = torch.autograd.grad(_dense(hidden, head, targets, 1.0).logprob.sum(), head.weight)[0]
    torch.testing.assert_close(head.weight.grad, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_no_targets(path: str) -> None:
    """A forest of prompts alone: empty results, a backward that works."""
    hidden, head, _ = _case(n=0)
    found = _run(path, hidden, head, torch.zeros(0, dtype=torch.long), 0.9, ALL)
    assert found.logprob.shape == (0,)
    found.logprob.sum().backward()


@pytest.mark.parametrize("path", PATHS)
def test_bfloat16(path: str) -> None:
    """Logits of a bf16 product are rounded to 8 bits: log-probs to 0.05 nats at logits of order 5; gradients to 2 %."""
    hidden, head, targets = _case(torch.bfloat16)
    head.weight.requires_grad_(path != "frozen")
    found = _run(path, hidden, head, targets, 1.0, frozenset())
    want = _dense(hidden, head, targets, 1.0)
    assert found.logprob.dtype == torch.float32
    assert float((found.logprob - want.logprob).detach().abs().max()) < 0.05
    (mine,) = torch.autograd.grad(found.logprob.sum(), hidden)
    (theirs,) = torch.autograd.grad(want.logprob.sum(), hidden)
    assert mine.dtype == torch.bfloat16
    assert float((mine - theirs).abs().max() / theirs.abs().max()) < 0.02


def test_chunk_rows() -> None:
    """Near 32 MiB of fp32 logits, but never fewer than 16 rows."""
    assert chunk_rows(32_768) == 256
    assert chunk_rows(152_064) == 55
    assert chunk_rows(10_000_000) == 16
    assert chunk_rows(131_072, 80 * 1024**3) == 2048, "at most 1 GiB"
    assert chunk_rows(131_072, 16 * 1024**3) == 512, "a sixty-fourth"


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation returns, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize("stats", [frozenset(), ALL], ids=_names)
@pytest.mark.parametrize("path", PATHS)
def test_targets_by_vocabulary_is_never_held(path: str, stats: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 targets, forward and backward: no tensor beyond one chunk of logits."""
    monkeypatch.setattr(logprob, "_CHUNK_BYTES", 100 * 4 * V)
    hidden, head, targets = _case(n=2000)
    head.weight.requires_grad_(path != "frozen")
    with Largest() as seen:
        found = _run(path, hidden, head, targets, 0.9, stats)
        loss = found.logprob.sum() if found.entropy is None else found.logprob.sum() + found.entropy.sum()
        loss.backward()
    assert 100 * V <= seen.elements <= max(100 * V, 2000 * D)
    assert seen.elements < 2000 * V / 3
