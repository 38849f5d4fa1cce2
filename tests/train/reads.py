"""Finds where a step makes the host wait for the device, while it runs on a CPU.

What would wait on CUDA is known by name: reading a value (item, tolist, bool, float, int, numpy, cpu), operations whose
result has a size that depends on values, and tensors made on the device from Python numbers. On a CPU host tensors look
like device tensors, so tensors that the host is known to own are made under `on_host`.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_DISPATCHED = {
    _aten._local_scalar_dense.default: "a value is read",
    _aten.is_nonzero.default: "a value is read",
    _aten.equal.default: "tensors are compared on the host",
    _aten.nonzero.default: "a size depends on values",
    _aten.masked_select.default: "a size depends on values",
    _aten._unique2.default: "a size depends on values",
    _aten.unique_dim.default: "a size depends on values",
    _aten.bincount.default: "a size depends on values",
    _aten.repeat_interleave.Tensor: "a size depends on values",
}
_CALLED = {
    torch.Tensor.tolist: "values are read",
    torch.Tensor.numpy: "values are read",
    torch.Tensor.cpu: "values are read",
    torch.Tensor.item: "a value is read",
}


@dataclass
class Reads:
    """What was found: (reason, where)."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, reason: str) -> None:
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and "reads.py" not in f.filename]
        place = frames[-1]
        ours = next((f for f in reversed(frames) if "/plaudit/" in f.filename), place)
        self.found.append((reason, f"{ours.filename.rpartition('/src/')[2]}:{ours.name} ({place.name})"))

    def moved(self, tensor: torch.Tensor) -> None:
        """A tensor is moved, by plaudit and not through `plaudit.forest.transfer`."""
        caller = next(f for f in reversed(traceback.extract_stack()) if f.filename != __file__)
        if "/plaudit/" in caller.filename and not caller.filename.endswith("transfer.py"):
            self.add("a tensor is moved with a copy that waits")


class _Dispatch(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reason = _DISPATCHED.get(func)
        if func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
            reason = None
        if func in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                reason = "a size depends on values"
        if reason:
            self.reads.add(reason)
        return func(*args, **kwargs)


class _Function(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CALLED:
            self.reads.add(_CALLED[func])
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            self.reads.add("a tensor is made on the device from host values")
        if func in (torch.Tensor.to, torch.Tensor.cuda) and _has_device(args[1:], kwargs) and not args[0].requires_grad:
            self.reads.moved(args[0])
        if func is torch.Tensor.__getitem__ and _has_list(args[1]):
            self.reads.add("an index is made on the device from host values")
        return func(*args, **kwargs)


def _has_device(args: Any, kwargs: Any) -> bool:
    return any(isinstance(a, (str, torch.device)) for a in args) or kwargs.get("device") is not None


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(i, list) for i in index))


@contextmanager
def watched(reads: Reads) -> Iterator[None]:
    """Everything inside is watched."""
    with _Function(reads), _Dispatch(reads):
        yield
