"""How much memory the cache of keys and values may take when nobody says."""

from __future__ import annotations

from pathlib import Path

import torch

_MOST_ON_CPU = 4 * 2**30
_UNKNOWN = 2 * 2**30


def default_budget(device: torch.device) -> int:
    """Bytes: half of the free memory of a GPU; a quarter of the free memory of the machine, at most 4 GiB."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return min(free_bytes() // 4, _MOST_ON_CPU)


def free_bytes() -> int:
    """What the machine could give without swapping; a fixed guess where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 4 * _UNKNOWN
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 4 * _UNKNOWN
