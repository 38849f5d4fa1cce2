"""A filter of system calls, as the program that the kernel runs at each of them.

Namespaces hide the machine; the filter takes away the calls with which kernels have been broken out of, memory that no
limit counts, and address families that no network namespace confines (vsock reaches the host of a virtual machine).
Numbers: the kernel's unistd tables of x86_64 and aarch64. Format: struct sock_filter, see seccomp(2).
"""

from __future__ import annotations

import errno
import platform
from dataclasses import dataclass
from functools import cache
from struct import pack

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_AT_NUMBER, _AT_MACHINE, _AT_FIRST, _AT_SECOND = 0, 4, 16, 24
"""Offsets in struct seccomp_data; of arguments the lower halves, on little-endian machines."""
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put characters into somebody's terminal."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET and AF_INET6."""

_BOTH_SINCE_425 = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "set_mempolicy_home_node": 450,
}

# fmt: off
_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "shmdt": 67, "msgget": 68,
    "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "ptrace": 101, "syslog": 103, "uselib": 134, "personality": 135,
    "modify_ldt": 154, "pivot_root": 155, "sysctl": 156, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "lookup_dcookie": 212, "semtimedop": 220, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "mq_open": 240, "mq_unlink": 241, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319,
    "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, **_BOTH_SINCE_425,
}
_AARCH64 = {
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
    "quotactl": 60, "acct": 89, "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "mq_unlink": 181, "msgget": 186,
    "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193,
    "shmget": 194, "shmctl": 195, "shmat": 196, "shmdt": 197, "add_key": 217, "request_key": 218, "keyctl": 219,
    "swapon": 224, "swapoff": 225, "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "migrate_pages": 238,
    "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
    **_BOTH_SINCE_425,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    """AUDIT_ARCH_… of the kernel"""
    denied: dict[str, int]
    clone: int
    clone3: int
    socket: int
    socketpair: int
    ioctl: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, _X86_64, 56, 435, 41, 53, 16),
    "aarch64": _Machine(0xC00000B7, _AARCH64, 220, 435, 198, 199, 29),
}


def _op(code: int, yes: int, no: int, value: int) -> bytes:
    return pack("<HBBI", code, yes, no, value)


def _error(number: int) -> bytes:
    return _op(_RETURN, 0, 0, _ERROR | number)


@cache
def program(machine: str = "") -> bytes | None:
    """The filter for a machine (default: this one); None where its numbers are not known here."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    allow, deny = _op(_RETURN, 0, 0, _ALLOW), _error(errno.EPERM)
    load = _op(_LOAD, 0, 0, _AT_NUMBER)
    parts = [
        _op(_LOAD, 0, 0, _AT_MACHINE),
        _op(_EQUAL, 1, 0, known.audit),
        _op(_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        load,
        _op(0x35, 0, 1, 0x40000000),  # numbers of x32, and -1
        _error(errno.ENOSYS),
        _op(_EQUAL, 0, 1, known.clone3),  # its flags lie in memory, out of sight; C libraries fall back to clone
        _error(errno.ENOSYS),
        _op(_EQUAL, 0, 4, known.clone),
        _op(_LOAD, 0, 0, _AT_FIRST),
        _op(_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        deny,
        allow,
        _op(_EQUAL, 0, 2 + 2 * len(_TERMINAL_INPUT), known.ioctl),
        _op(_LOAD, 0, 0, _AT_SECOND),
        *(part for value in _TERMINAL_INPUT for part in (_op(_EQUAL, 0, 1, value), deny)),
        allow,
        *_families(known.socket, _FAMILIES),
        *_families(known.socketpair, _FAMILIES[:1]),
        *(part for number in sorted(known.denied.values()) for part in (_op(_EQUAL, 0, 1, number), deny)),
        allow,
    ]
    return b"".join(parts)


def _families(number: int, allowed: tuple[int, ...]) -> list[bytes]:
    """Where the call is this one: allow the families and nothing else."""
    allow = _op(_RETURN, 0, 0, _ALLOW)
    return [
        _op(_EQUAL, 0, 2 + 2 * len(allowed), number),
        _op(_LOAD, 0, 0, _AT_FIRST),
        *(part for family in allowed for part in (_op(_EQUAL, 0, 1, family), allow)),
        _error(errno.EAFNOSUPPORT),
    ]


def denied(machine: str) -> dict[str, int]:
    """System calls that the filter takes away whatever their arguments are."""
    return dict(_MACHINES[machine].denied)
