"""fp32 masters behind a model that may compute in bf16.

No autocast: in bf16 the parameters themselves are bf16, each trained one has an fp32 master, every micro-batch's
gradient is added to the master's fp32 gradient as soon as autograd has produced it, and after the optimiser step the
masters are rounded back into the model. In fp32 the parameters are their own masters and nothing is copied; nor is it
of sharded weights, whose shards are fp32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plaudit.models.shards import put


class Masters:
    """The weights that the optimiser sees, by name.

    Args:
        modules: what is trained; parameters with requires_grad take part, in the order of `named_parameters`.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        self.compute: dict[str, nn.Parameter] = {}
        self.weights: dict[str, nn.Parameter] = {}
        self._hooks: list[RemovableHandle] = []
        for prefix, module in modules:
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self._add(f"{prefix}{name}", parameter)

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        self.compute[name] = parameter
        if parameter.dtype == torch.float32:
            self.weights[name] = parameter
            return
        master = nn.Parameter(parameter.detach().float())
        self.weights[name] = master

        def collect(p: Tensor) -> None:
            assert p.grad is not None
            if master.grad is None:
                master.grad = p.grad.float()
            else:
                master.grad.add_(p.grad)
            p.grad = None

        self._hooks.append(parameter.register_post_accumulate_grad_hook(collect))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.weights.values())

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model. Nothing to do in fp32."""
        for name, master in self.weights.items():
            target = self.compute[name]
            if target is not master:
                target.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """fp32 tensors by name, detached."""
        return {name: w.detach() for name, w in self.weights.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned, exactly. The names must be the same; a value may be whole where the weight is
        sharded."""
        assert state.keys() == self.weights.keys()
        for name, value in state.items():
            put(self.weights[name], value)
        self.publish()

    def clear_gradients(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def release(self) -> None:
        """Give the parameters their own gradients back: the model may be trained again, by another run or by hand."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def without_gradient(self) -> list[str]:
        """Names of trained parameters that no micro-batch reached."""
        return [name for name, weight in self.weights.items() if weight.grad is None]
