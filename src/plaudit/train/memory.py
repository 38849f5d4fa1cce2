"""How much memory a piece of work takes, and how much could be had.

On CUDA the allocator counts. On a CPU nobody does: what counts is the process's resident memory, whose highest value
Linux keeps and lets a process reset; elsewhere a thread looks at the present value every few milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

_LOOKS_PER_SECOND = 500
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class Meter(Protocol):
    """Measures one process's memory. All numbers are bytes."""

    careful: bool
    """whether running out of memory kills the process, so that it must never be tried"""

    def used(self) -> int:
        """What the process holds now."""
        ...

    def limit(self) -> int:
        """What the process could hold at most, with what it holds now."""
        ...

    def reset(self) -> None:
        """Let `peak` begin anew."""
        ...

    def peak(self) -> int:
        """The most that the process has held since `reset`."""
        ...

    def close(self) -> None:
        """Nothing is measured any more; what was highest meanwhile is forgotten where that can be."""
        ...


def meter_for(device: torch.device) -> Meter | None:
    """The meter of a device's memory; None where nothing tells."""
    if device.type == "cuda":
        return CudaMeter(device)
    if device.type != "cpu":
        return None
    if (_PROC / "self" / "status").exists() and (_PROC / "meminfo").exists():
        return LinuxMeter()
    try:
        return PsutilMeter(importlib.import_module("psutil"))
    except ImportError:
        return None


class CudaMeter:
    """What torch's allocator has given out. Blocks that it holds and does not use can be used again; memory of other
    processes on the device is theirs."""

    careful = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        torch.cuda.empty_cache()

    def used(self) -> int:
        """See `Meter`."""
        return torch.cuda.memory_allocated(self._device)

    def limit(self) -> int:
        """See `Meter`."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return torch.cuda.memory_reserved(self._device) + free

    def reset(self) -> None:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """See `Meter`."""
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)

    def close(self) -> None:
        """See `Meter`."""
        gc.collect()
        torch.cuda.empty_cache()
        self.reset()


class Watcher:
    """A thread that looks at a value all the time and keeps the highest."""

    def __init__(self, look: Callable[[], int]) -> None:
        self._look, self._highest = look, look()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(1 / _LOOKS_PER_SECOND):
            self._highest = max(self._highest, self._look())

    def reset(self) -> None:
        """Begin anew."""
        self._highest = self._look()

    def highest(self) -> int:
        """Since `reset`."""
        return max(self._highest, self._look())

    def close(self) -> None:
        """Stop looking."""
        self._done.set()
        self._thread.join()


class LinuxMeter:
    """Resident memory of this process, from /proc.

    What the kernel calls available counts file pages that could be read again, and weights that were loaded from a
    mapped file are such pages: they are in use, and become the process's own when they are first changed. So the limit
    is what is this process's own (anonymous) with what is available.
    """

    careful = True

    def __init__(self) -> None:
        gc.collect()
        _trim()
        self._watcher: Watcher | None = None
        if not _forget_highest():
            self._watcher = Watcher(lambda: _status("VmRSS"))

    @property
    def exact(self) -> bool:
        """Whether the kernel keeps the highest value, so that none is missed."""
        return self._watcher is None

    def used(self) -> int:
        """See `Meter`."""
        return _status("VmRSS")

    def limit(self) -> int:
        """See `Meter`. Processes of one run on one machine share what is available alike."""
        free = available_bytes() - _status("RssFile")
        return _status("VmRSS") + max(free, 0) // local_processes()

    def reset(self) -> None:
        """See `Meter`."""
        _trim()
        if self._watcher is None:
            _forget_highest()
        else:
            self._watcher.reset()

    def peak(self) -> int:
        """See `Meter`."""
        return _status("VmHWM") if self._watcher is None else self._watcher.highest()

    def close(self) -> None:
        """See `Meter`."""
        self.reset()
        if self._watcher is not None:
            self._watcher.close()


class PsutilMeter:
    """Resident memory on systems without /proc; peaks shorter than a few milliseconds are missed."""

    careful = True

    def __init__(self, psutil: Any) -> None:
        self._psutil, self._process = psutil, psutil.Process()
        self._watcher = Watcher(self.used)

    def used(self) -> int:
        """See `Meter`."""
        return int(self._process.memory_info().rss)

    def limit(self) -> int:
        """See `Meter`."""
        return self.used() + int(self._psutil.virtual_memory().available) // local_processes()

    def reset(self) -> None:
        """See `Meter`."""
        self._watcher.reset()

    def peak(self) -> int:
        """See `Meter`."""
        return self._watcher.highest()

    def close(self) -> None:
        """See `Meter`."""
        self._watcher.close()


def local_processes() -> int:
    """Processes of this run on this machine, as torchrun says."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """What Linux could give without swapping: of the machine, or of the control groups that this process is in where
    they allow less."""
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([machine, *_group_bytes(proc, cgroups)])


def _group_bytes(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each limit on the way up from this process's control group still allows. File pages are not counted as
    used, as the kernel does not when it says what is available."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for mount in (cgroups, cgroups / "unified"):
                yield from _up(mount, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            yield from _up(cgroups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _up(mount: Path, path: str, most: str, now: str, prefix: str) -> Iterator[int]:
    folder = mount / path.lstrip("/")
    while True:  # in a container the path may be the host's, which is not there: then only the mount itself is asked
        try:
            limit, used = (folder / most).read_text(encoding="ascii").strip(), int((folder / now).read_text())
            pairs = (line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            stat = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
            if limit != "max":
                files = stat.get(f"{prefix}active_file", 0) + stat.get(f"{prefix}inactive_file", 0)
                yield max(0, int(limit) - used + files)
        except (OSError, ValueError):
            pass
        if folder == mount:
            return
        folder = folder.parent


def _trim() -> None:
    """Give freed memory back that the C library keeps, or what is measured would hide in it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; others keep little
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    text = (_PROC / "self" / "status").read_text(encoding="utf-8", errors="replace")
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{name}:")), 0)


def _forget_highest() -> bool:
    """Reset VmHWM; False where the system does not allow it."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return _status("VmHWM") > 0
