"""Linear layers with their weights in the order in which the processor reads them.

A product of few rows with a large matrix spends much of its time on bringing the matrix into the order of the inner
loops; while completions are generated the same matrices are multiplied at every token. oneDNN can do that once, for a
copy of the weights. The model's own modules run as before, only the product inside of them is another: so this works
for every architecture, adapters included.

Where it pays was measured (two cores, 4 to 512 rows): in bf16 every layer gains, 1.1 to 2 times; in fp32 on AMD
processors too, while on Intel's, which PyTorch's own product is tuned for, only large matrices do. The choice goes by
these facts and not by a stopwatch, so that two runs on one machine give the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.engines.local.memory import free_bytes

_ROWS = 64
"""What the order is chosen for; the gain is about the same for 8 to 512 rows."""
_LARGE = 1 << 20
"""Entries of a matrix from which on packing gains in fp32 on every processor."""
_SAMPLE = 61
"""Entries of each weight that are compared before a copy is used again."""


class PackedLinears:
    """Packed copies of a model's linear layers, there only while somebody holds them.

    Nothing is packed off the CPU, in other precisions than fp32 and bf16, where PyTorch has no such product, or where
    the copies would take more than half of the free memory; layers of other classes (quantised, parametrised) and those
    that would not gain are left as they are.

    Args:
        model: its weights may change, but not while the copies are held.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._holders = 0
        self._copies: dict[nn.Linear, tuple[Callable[[Tensor], Tensor], Tensor]] = {}
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = []
        self._lock = threading.RLock()
        self._inside = 0
        self._placed: list[nn.Linear] = []

    @property
    def nbytes(self) -> int:
        """Memory of the copies that there are now."""
        return sum(module.weight.nbytes for module in self._copies)

    @property
    def wanted_bytes(self) -> int:
        """Memory that the copies take while they are held, if there is enough."""
        with self._lock:
            return sum(module.weight.nbytes for module in self._linears())

    def hold(self) -> None:
        """Make the copies, or bring those that exist up to date."""
        with self._lock:
            self._hold()

    def _hold(self) -> None:
        found = self._linears()
        if sum(m.weight.nbytes for m in found if m not in self._copies) > free_bytes() // 2:
            self.forget()
        else:
            self._copies = {m: self._current(m) for m in found}
            self._forwards = [(m, call) for m, (call, _) in self._copies.items()]
        self._holders += 1

    def forget(self) -> None:
        """The weights have changed: no copy is used any more."""
        self._copies, self._forwards = {}, []

    def _current(self, module: nn.Linear) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        # A counter of changes exists (`_version`), but does not see what is written through `.data`.
        sample = module.weight.detach().reshape(-1)[:: max(1, module.weight.numel() // _SAMPLE)].clone()
        held = self._copies.get(module)
        return held if held is not None and torch.equal(held[1], sample) else (_packed(module), sample)

    def release(self) -> None:
        """Undo one `hold`; the last one gives the memory back."""
        self._holders -= 1
        if self._holders == 0:
            self.forget()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model's layers use their copies inside. Several threads may be inside; the last to leave tidies up."""
        with self._lock:
            if self._inside == 0:
                # Past `Module.__setattr__`, which would take longer than the step of a small model.
                for module, call in self._forwards:
                    module.__dict__["forward"] = call
                self._placed = [module for module, _ in self._forwards]
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    for module in self._placed:
                        del module.__dict__["forward"]
                    self._placed = []

    def _linears(self) -> list[nn.Linear]:
        # A `forward` of the instance's own, and not from here, means that another library has taken the layer over.
        own = set(self._placed)
        return [
            m
            for m in self._model.modules()
            if type(m) is nn.Linear
            and ("forward" not in m.__dict__ or m in own)
            and m.weight.device.type == "cpu"
            and pays(m.weight)
            and packs(m.weight.dtype)
        ]


def pays(weight: Tensor) -> bool:
    """Whether a product with this matrix is faster packed."""
    return weight.dtype != torch.float32 or weight.numel() >= _LARGE or not _tuned_for_this_processor()


@cache
def _tuned_for_this_processor() -> bool:
    """Whether this is an Intel processor, which MKL, the library behind PyTorch's fp32 product, is made for."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # not Linux
        return bool(torch.backends.mkl.is_available())


def _packed(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    product = torch.ops.mkldnn._linear_pointwise
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), _ROWS)
    # The bias is read at every call: it is small, and a copy of it could be stale.
    return lambda x: product(x, weight, module.bias, "none", [], "")


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether PyTorch multiplies packed weights of this precision here, and rightly."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    ones: dict[str, Any] = {"dtype": dtype, "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        module = nn.Linear(96, 80, dtype=dtype)
        x, module.weight.data = torch.randn(1, 7, 96, **ones), torch.randn(80, 96, **ones)
        expected = nn.functional.linear(x, module.weight, module.bias).float()
        try:
            found = _packed(module)(x).float()
        except (RuntimeError, AttributeError):  # not built with oneDNN, or a processor it does not know
            return False
    return bool((found - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max())
