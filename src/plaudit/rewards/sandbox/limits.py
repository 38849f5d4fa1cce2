"""What a program may use."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program and all processes that it starts.

    Attributes:
        cpu_seconds: computing time of all of its processes together.
        wall_seconds: time by the clock; None = three times the computing time and two seconds, so that a loaded
            machine fails nobody, and a program that sleeps is ended.
        memory_mib: of each process (address space) and of all together (resident), in MiB.
        processes: processes and threads at the same time, with two of the sandbox's own.
        file_mib: the longest file.
        tmp_mib: all that it can write to /tmp, and as much again to /dev/shm.
        output_kib: kept of each of stdout and stderr; who prints more to stdout is ended.
    """

    cpu_seconds: float = 10.0
    wall_seconds: float | None = None
    memory_mib: int = 512
    processes: int = 16
    file_mib: int = 16
    tmp_mib: int = 64
    output_kib: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} is {value}, must be positive")
        if self.processes < 3:
            raise ValueError(f"processes is {self.processes}, must be 3 or more: two are the sandbox's own")

    @property
    def wall(self) -> float:
        """Seconds by the clock."""
        return 3 * self.cpu_seconds + 2 if self.wall_seconds is None else self.wall_seconds

    def to_json(self) -> dict[str, Any]:
        """For a sandbox on another machine."""
        return asdict(self)
