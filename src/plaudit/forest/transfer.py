"""From the host to the device without waiting: pinned memory, and copies that go on while the host does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray[Any, Any] | Tensor, device: Any) -> Tensor:
    """The values on a device, in their own dtype.

    A copy from pageable memory makes the host wait until it is done. From pinned memory it is queued behind the work
    that the device has; PyTorch keeps the pinned block until the copy has read it.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def all_to_device(arrays: Sequence[np.ndarray[Any, Any]], device: Any) -> list[Tensor]:
    """Flat arrays of one dtype on a device, there as parts of one tensor: one copy instead of many small ones."""
    if torch.device(device).type != "cuda":
        return [torch.from_numpy(a).to(device) for a in arrays]
    return list(to_device(np.concatenate(arrays), device).split([len(a) for a in arrays]))
