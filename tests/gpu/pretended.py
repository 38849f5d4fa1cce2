"""A GPU that is none: tensors say they lie on CUDA, and are computed with on the CPU.

It finds what a program that was never run on a GPU gets wrong: operations between tensors on two devices, tensors that
stay on the host or come back to it, NumPy arrays made of device tensors, branches on the device's type. Its memory is
counted, and can be short. It knows no streams, so it says nothing about order or speed; kernels that only CUDA has are
computed by their definition, with CUDA's conventions (tests/forest/varlen_reference.py).

`building.load` must have been called before PyTorch is imported.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from tests.forest.varlen_reference import FakeAten

PLENTY = 80 * 2**30
"""Bytes, more than any test needs."""
_aten = torch.ops.aten
_CUDA, _CPU = torch.device("cuda", 0), torch.device("cpu")
_KERNELS: dict[Any, Callable[..., Any]] = {
    getattr(_aten, name).default: getattr(FakeAten, name)
    for name in (
        *("_flash_attention_forward", "_flash_attention_backward"),
        *("_efficient_attention_forward", "_efficient_attention_backward"),
    )
}
_KERNELS[_aten.histc.default] = lambda x, *args, **kwargs: _aten.histc(x.float(), *args, **kwargs).to(x.dtype)
_BETWEEN_DEVICES = {
    *(_aten.copy_.default, _aten._to_copy.default),
    *(_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default),
}
"""Operations that CUDA lets read a tensor of the host: copies, and indices."""


class Memory:
    """What the tensors of a GPU hold: bytes of memory that at least one of them shows."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = self.peak = 0
        self._owners: dict[int, int] = {}
        self._lock = threading.RLock()  # a tensor may end while another one is being counted

    def hold(self, tensor: OnGpu) -> None:
        """Until the tensor is gone.

        Raises:
            OutOfMemoryError: there is not enough.
        """
        storage = tensor.host.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        with self._lock:
            if address not in self._owners:
                if self.used + size > self.total:
                    raise torch.OutOfMemoryError(
                        f"pretended: {self.used} of {self.total} bytes are used, not {size} more"
                    )
                self.used += size
                self.peak = max(self.peak, self.used)
            self._owners[address] = self._owners.get(address, 0) + 1
        # Not of the tensor itself: weights that have weak references cannot be swapped.
        weakref.finalize(tensor.host, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        with self._lock:
            self._owners[address] -= 1
            if not self._owners[address]:
                del self._owners[address]
                self.used -= size

    def functions(self) -> dict[str, Callable[..., Any]]:
        """What `torch.cuda` says of it."""

        def forget() -> None:
            self.peak = self.used

        return {
            "get_device_properties": lambda *_: SimpleNamespace(name="pretended", total_memory=self.total),
            "mem_get_info": lambda *_: (self.total - self.used, self.total),
            "memory_allocated": lambda *_: self.used,
            "memory_reserved": lambda *_: self.used,
            "max_memory_allocated": lambda *_: self.peak,
            "reset_peak_memory_stats": lambda *_: forget(),
        }


_memory = Memory(0)
"""of the GPU that there is"""


class OnGpu(Tensor):
    """A tensor that says it lies on a GPU. `host` has its numbers."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        assert type(host) is Tensor or isinstance(host, torch.nn.Parameter), type(host)
        made = Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=_CUDA,
        )  # fmt: skip
        made.host = host
        _memory.hold(made)
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.host})"

    def storage(self) -> Any:
        """That of the numbers: whoever saves weights asks whose memory is the same."""
        return self.host.storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _host(x: Any) -> Any:
    return x.host if isinstance(x, OnGpu) else x


def _gpu(x: Any) -> Any:
    return OnGpu(x) if isinstance(x, Tensor) and not isinstance(x, OnGpu) else x


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the numbers, after a look at where its tensors lie."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnGpu)]
    # Single numbers of the host go with the launch of a kernel.
    there = [tuple(x.shape) for x in tensors if not isinstance(x, OnGpu) and x.ndim]
    if here and there and func not in _BETWEEN_DEVICES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of host tensors {there}")
    asked = kwargs.get("device")
    on_gpu = bool(here) if asked is None else torch.device(asked).type == "cuda"
    call = {**kwargs, "device": _CPU} if asked is not None and on_gpu else kwargs
    out = _KERNELS.get(func, func)(*tree_map(_host, args), **tree_map(_host, call))
    if func._schema.is_mutable:  # what was written to is what comes back
        written = {id(_host(x)): x for x in tensors}
        return tree_map(lambda x: written.get(id(x), _gpu(x) if on_gpu else x), out)
    if not on_gpu:
        return out
    out = tree_map(_gpu, out)
    views = any(returned.alias_info is not None for returned in func._schema.returns)
    return return_and_correct_aliasing(func, args, kwargs, out) if here and views else out


class _Operations(TorchDispatchMode):
    """Tensors that are made on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What goes by the operations: numbers from Python and back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == "cuda":
            return func(*args, **{**kwargs, "device": "cpu"}).to(device)
        if func is Tensor.pin_memory:
            return args[0]
        if args and isinstance(args[0], OnGpu):
            if func is Tensor.new_tensor:
                return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
            if func is Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
        return func(*args, **kwargs)


class _NoGraph:
    def __init__(self) -> None:
        raise RuntimeError("a pretended GPU records nothing")


_DEVICE = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "is_bf16_supported": lambda *_: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda _: None,
    "device": lambda _: nullcontext(),
    "get_device_name": lambda *_: "pretended",
    "get_device_capability": lambda *_: (9, 0),
    "empty_cache": lambda: None,
    "synchronize": lambda *_: None,
    "get_rng_state_all": list,
    "set_rng_state_all": lambda _: None,
    "Stream": lambda *_: None,
    "current_stream": lambda *_: None,
    "set_stream": lambda _: None,
    "CUDAGraph": _NoGraph,
}


@contextmanager
def gpu(total: int = PLENTY) -> Iterator[Memory]:
    """Meanwhile there is a GPU, for whoever asks `torch.cuda` or makes tensors there.

    Args:
        total: bytes of its memory.
    """
    global _memory
    import safetensors.torch
    import transformers.modeling_utils

    _memory = Memory(total)

    def without_devices(write: Callable[..., None]) -> Callable[..., None]:
        return lambda found, *args, **kwargs: write(
            tree_map(lambda x: _host(x.detach()) if isinstance(x, Tensor) else x, found), *args, **kwargs
        )

    def run(thread: threading.Thread) -> None:  # modes belong to a thread
        with _Calls(), _Operations():
            run_thread(thread)

    def place(tensor: Tensor) -> tuple[Any, ...]:
        storage = _host(tensor).untyped_storage()
        return tensor.device, storage.data_ptr(), storage.nbytes()

    changes: list[tuple[Any, str, Any]] = [
        (torch.cuda, name, value) for name, value in {**_DEVICE, **_memory.functions()}.items()
    ]
    run_thread = threading.Thread.run
    changes += [
        (threading.Thread, "run", run),
        (torch, "save", without_devices(torch.save)),
        (safetensors.torch, "save_file", without_devices(safetensors.torch.save_file)),
        (transformers.modeling_utils, "safe_save_file", without_devices(transformers.modeling_utils.safe_save_file)),
        (transformers.modeling_utils, "id_tensor_storage", place),
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for where, name, value in changes:
            setattr(where, name, value)
        # A weight is swapped for the one on the GPU, whose Python class is another, and tied ones stay tied.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(_Calls())
        stack.enter_context(_Operations())
        try:
            yield _memory
        finally:
            for where, name, value in before:
                setattr(where, name, value)
            torch.__future__.set_swap_module_params_on_conversion(swapping)
