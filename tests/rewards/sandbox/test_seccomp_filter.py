"""The filter, run instruction by instruction for both machines, and its numbers against the kernel's headers."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from plaudit.rewards.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = (0x00050000 | n for n in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    # name: numbers on x86_64 and aarch64
    "read": (0, 63), "write": (1, 64), "mmap": (9, 222), "clone": (56, 220), "execve": (59, 221), "clone3": (435, 435),
    "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29), "futex": (202, 98), "openat": (257, 56),
    "ptrace": (101, 117), "mount": (165, 40), "unshare": (272, 97), "bpf": (321, 280), "keyctl": (250, 219),
    "memfd_create": (319, 279), "shmget": (29, 194), "io_uring_setup": (425, 425), "userfaultfd": (323, 282),
    "setns": (308, 268), "process_vm_writev": (311, 271), "kexec_load": (246, 104), "perf_event_open": (298, 241),
}  # fmt: skip


def judged(machine: str, number: int, first: int = 0, second: int = 0, audit: int | None = None) -> int:
    """What the filter says of a call."""
    program = seccomp.program(machine)
    assert program is not None
    data = struct.pack(
        "<IIQ6Q", number & 0xFFFFFFFF, AUDIT[machine] if audit is None else audit, 0, first, second, 0, 0, 0, 0
    )
    instructions = list(struct.iter_unpack("<HBBI", program))
    value, at = 0, 0
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
            continue
        holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
        at += yes if holds else no


@pytest.mark.parametrize("machine", AUDIT)
def test_calls(machine: str) -> None:
    number = {name: numbers[list(AUDIT).index(machine)] for name, numbers in CALLS.items()}
    for name in ("read", "write", "mmap", "execve", "futex", "openat"):
        assert judged(machine, number[name]) == ALLOW, name
    for name in list(CALLS)[list(CALLS).index("ptrace") :]:
        assert judged(machine, number[name]) == EPERM, name
    assert judged(machine, number["clone3"]) == ENOSYS
    assert judged(machine, 0x40000000 | number["read"]) == ENOSYS
    assert judged(machine, -1) == ENOSYS
    assert judged(machine, number["read"], audit=0x40000003) == KILL  # 32-bit x86
    assert judged(machine, number["clone"], 0x01200011) == ALLOW  # fork
    assert judged(machine, number["clone"], 0x003D0F00) == ALLOW  # a thread
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x02000000, 0x04000000, 0x08000000):
        assert judged(machine, number["clone"], flag | 17) == EPERM, hex(flag)
    for family, verdict in (
        (1, ALLOW),
        (2, ALLOW),
        (10, ALLOW),
        (16, EAFNOSUPPORT),
        (40, EAFNOSUPPORT),
        (38, EAFNOSUPPORT),
    ):
        assert judged(machine, number["socket"], family) == verdict, family
    assert judged(machine, number["socketpair"], 1) == ALLOW
    assert judged(machine, number["socketpair"], 2) == EAFNOSUPPORT
    assert judged(machine, number["ioctl"], 0, 0x5401) == ALLOW
    assert judged(machine, number["ioctl"], 0, 0x5412) == EPERM  # TIOCSTI
    assert judged(machine, number["ioctl"], 0, 0x541C) == EPERM  # TIOCLINUX


def test_a_machine_that_is_not_known() -> None:
    assert seccomp.program("riscv64") is None


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_the_kernels(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    denied = seccomp.denied(machine)
    assert len(denied) > 70
    compared = {name: number for name, number in denied.items() if name in known}
    assert len(compared) > 60
    assert compared == {name: int(known[name]) for name in compared}
