"""Log-probabilities of given tokens from hidden states, never holding [tokens, vocabulary].

Logits exist for one chunk of targets at a time, log-sum-exp is taken in fp32, and the backward pass recomputes each
chunk but the last. A plain linear head takes the fused path (its own autograd function); a head with bias, LoRA,
quantisation, scaling or soft-capping goes through the model's own head module, chunked and checkpointed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CHUNK_BYTES = 32 * 1024 * 1024
"""of fp32 logits on a CPU, whose caches are small"""
_CUDA_CHUNK_BYTES = 1024 * 1024 * 1024
"""the most on a GPU: there a chunk has to outweigh reading the head's weight, and adding to its gradient, once"""
_CUDA_SHARE = 64
"""a chunk takes at most this part of the GPU's memory"""
Stats = frozenset[str]


@dataclass(slots=True)
class TokenStats:
    """Per-target statistics of the full softmax at the sampling temperature, fp32, shape [N] each."""

    logprob: Tensor
    entropy: Tensor | None = None
    """−Σ_v p log p, in nats"""
    log_sum_p2: Tensor | None = None
    """log Σ_v p² (WPO's normaliser); carries no gradient"""


def chunk_rows(vocabulary: int, memory: int | None = None) -> int:
    """Targets per chunk.

    A chunk of fp32 logits is 32 MiB; on a GPU of `memory` bytes a sixty-fourth of them, at most 1 GiB. What exists at a
    time of all logits, copies in other precisions and their gradients included, is two chunks, and five while entropies
    are computed.
    """
    chunk = _CHUNK_BYTES if memory is None else min(_CUDA_CHUNK_BYTES, memory // _CUDA_SHARE)
    return max(16, chunk // (4 * vocabulary))


def _rows_for(hidden: Tensor, vocabulary: int) -> int:
    on_gpu = hidden.device.type == "cuda"
    return chunk_rows(vocabulary, torch.cuda.get_device_properties(hidden.device).total_memory if on_gpu else None)


def _statistics(logits: Tensor, targets: Tensor, stats: Stats) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """logits [n, V] fp32 → logprob [n], entropy [n] | None, log Σp² [n] | None."""
    lse = torch.logsumexp(logits, -1)
    logprob = logits.gather(-1, targets[:, None]).squeeze(-1) - lse
    entropy = log_sum_p2 = None
    if "entropy" in stats:
        entropy = lse - (torch.softmax(logits, -1) * logits).sum(-1)
    if "log_sum_p2" in stats:
        log_sum_p2 = (torch.logsumexp(2 * logits.detach(), -1) - 2 * lse.detach()).detach()
    return logprob, entropy, log_sum_p2


def _chunks(n: int, rows: int) -> list[slice]:
    """Chunks of at most `rows` targets; the last one, which the backward pass finds still there, is a full one."""
    first = min(n, n % rows or rows)
    return [slice(0, first), *(slice(start, start + rows) for start in range(first, n, rows))] if n else []


class _Logits:
    """Logits of one chunk after the other, fp32 [n, V], on a CPU all in the memory of the first."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, rows: int, temperature: float, memory: Tensor | None = None
    ) -> None:
        self._hidden, self._weight, self._temperature = hidden, weight, temperature
        # Fresh memory of this size comes from the system a page at a time, which takes a third of the product's time.
        # A GPU's memory is kept by PyTorch.
        if memory is None and hidden.device.type == "cpu" and hidden.dtype == weight.dtype == torch.float32:
            memory = hidden.new_empty(min(rows, hidden.shape[0]), weight.shape[0])
        self.memory = memory

    def __call__(self, part: slice) -> Tensor:
        hidden = self._hidden[part]
        if self.memory is None:
            logits = (hidden @ self._weight.T).float()
        else:
            logits = torch.mm(hidden, self._weight.T, out=self.memory[: hidden.shape[0]])
        return logits.div_(self._temperature) if self._temperature != 1.0 else logits


class _FusedHead(torch.autograd.Function):
    """hidden [N, D], weight [V, D], targets [N] → logprob [N], entropy [N], log Σp² [N] (empty where not asked for)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, stats: Stats
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, rows = hidden.shape[0], _rows_for(hidden, weight.shape[0])
        logprob = torch.empty(n, dtype=torch.float32, device=hidden.device)
        entropy = torch.empty(n if "entropy" in stats else 0, dtype=torch.float32, device=hidden.device)
        log_sum_p2 = torch.empty(n if "log_sum_p2" in stats else 0, dtype=torch.float32, device=hidden.device)
        lse = torch.empty(n, dtype=torch.float32, device=hidden.device)
        # With a frozen head the gradient's direction W[y] − Σ_v p_v W[v] is known now; keeping it ([N, D]) saves the
        # recomputation of every logit in the backward pass.
        keep = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and "entropy" not in stats
        direction = torch.empty_like(hidden) if keep else None
        # The backward pass begins while the last chunk is still there: it costs no memory at the peak.
        recompute = ctx.needs_input_grad[1] or (ctx.needs_input_grad[0] and not keep)
        ctx.last = None
        logits_of = _Logits(hidden, weight, rows, temperature)
        for part in _chunks(n, rows):
            logits = logits_of(part)
            chosen = logits.gather(-1, targets[part, None]).squeeze(-1)
            top = logits.amax(-1, keepdim=True)
            if log_sum_p2.numel():
                square = torch.logsumexp(2 * logits, -1)
            if entropy.numel():
                lse[part] = torch.logsumexp(logits, -1)
                entropy[part] = lse[part] - (torch.softmax(logits, -1) * logits).sum(-1)
            else:
                # The exponentials are made in place of the logits: this pass is bound by memory traffic.
                weights = logits.sub_(top).exp_()
                mass = weights.sum(-1, keepdim=True)
                lse[part] = (mass.log() + top).squeeze(-1)
                if recompute and part.stop == n:
                    ctx.last = weights, mass, logits_of.memory
                if direction is not None:
                    mean = (weights.div_(mass).to(weight.dtype) @ weight).float()
                    direction[part] = ((weight[targets[part]].float() - mean) / temperature).to(hidden.dtype)
            if log_sum_p2.numel():
                log_sum_p2[part] = square - 2 * lse[part]
            logprob[part] = chosen - lse[part]
        ctx.save_for_backward(hidden, weight, targets, lse, direction, entropy)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.mark_non_differentiable(log_sum_p2)
        return logprob, entropy, log_sum_p2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden, weight, targets, lse, direction, entropy = ctx.saved_tensors
        grad, grad_entropy = grads[0], grads[1]
        if direction is not None:
            return (direction.float() * grad[:, None]).to(hidden.dtype), None, None, None, None
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = None
        if ctx.needs_input_grad[1]:
            make = torch.empty if weight.dtype == torch.float32 and hidden.shape[0] else torch.zeros
            dweight = make(weight.shape, dtype=torch.float32, device=weight.device)
        n = hidden.shape[0]
        weights, mass, memory = ctx.last or (None, None, None)
        ctx.last = None  # its memory is overwritten below: a second backward pass computes everything again
        logits_of = _Logits(hidden, weight, ctx.rows, ctx.temperature, memory)
        for part in reversed(_chunks(n, ctx.rows)):
            if weights is not None and mass is not None:
                dlogits = weights.mul_(-grad[part, None] / mass)
                weights = None
            else:
                logp = logits_of(part).sub_(lse[part, None])
                if entropy.numel():
                    p = logp.exp()
                    dlogits = p * (-grad[part, None] - grad_entropy[part, None] * (logp + entropy[part, None]))
                else:
                    dlogits = logp.exp_().mul_(-grad[part, None])
            dlogits.scatter_add_(-1, targets[part, None], grad[part, None])
            if ctx.temperature != 1.0:
                dlogits /= ctx.temperature
            dlogits = dlogits.to(weight.dtype)
            if dhidden is not None:
                dhidden[part] = dlogits @ weight
            if dweight is not None:
                if weight.dtype == torch.float32 and part.stop == n:
                    torch.mm(dlogits.T, hidden[part], out=dweight)
                elif weight.dtype == torch.float32:
                    dweight.addmm_(dlogits.T, hidden[part])
                else:
                    dweight += dlogits.T @ hidden[part]
        return dhidden, None if dweight is None else dweight.to(weight.dtype), None, None, None


def fused_token_stats(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, stats: Stats = frozenset()
) -> TokenStats:
    """Statistics of a plain linear head.

    Args:
        hidden_ND: [N, D] hidden states that predict the targets.
        weight_VD: [V, D] head weight.
        targets_N: [N] token ids.
        temperature: logits are divided by it, for old, new and reference alike.
        stats: any of "entropy", "log_sum_p2".
    """
    logprob, entropy, log_sum_p2 = _FusedHead.apply(hidden_ND, weight_VD, targets_N, temperature, stats)  # type: ignore[no-untyped-call]
    return TokenStats(logprob, entropy if "entropy" in stats else None, log_sum_p2 if "log_sum_p2" in stats else None)


def module_token_stats(
    hidden_ND: Tensor,
    head: nn.Module,
    transform: Callable[[Tensor], Tensor],
    targets_N: Tensor,
    vocabulary: int,
    *,
    temperature: float = 1.0,
    stats: Stats = frozenset(),
) -> TokenStats:
    """Statistics through the model's own head module, a chunk at a time, each recomputed in the backward pass.

    Args:
        transform: what the model does to its head's output (scaling, soft-capping).
        vocabulary: size of the head's output.
    """

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        logits = transform(head(hidden)).float()
        return _statistics(logits / temperature if temperature != 1.0 else logits, targets, stats)

    rows = _rows_for(hidden_ND, vocabulary)
    parts = []
    for start in range(0, max(hidden_ND.shape[0], 1), rows):
        part = slice(start, start + rows)
        if torch.is_grad_enabled():
            parts.append(checkpoint(chunk, hidden_ND[part], targets_N[part], use_reentrant=False))
        else:
            parts.append(chunk(hidden_ND[part], targets_N[part]))

    def joined(i: int) -> Tensor | None:
        return None if parts[0][i] is None else torch.cat([p[i] for p in parts])

    logprob = joined(0)
    assert logprob is not None
    return TokenStats(logprob, joined(1), joined(2))
