"""Whether this machine can isolate at all, found without our own sandbox: a broken one must fail, and not skip."""

from __future__ import annotations

import subprocess
import sys

import pytest

from plaudit.rewards.sandbox.bubblewrap import find_bwrap


def skip_where_impossible() -> None:
    """Skip the test where bubblewrap is missing, or the kernel gives it no namespaces."""
    bwrap = find_bwrap()
    if sys.platform != "linux" or bwrap is None:
        pytest.skip("there is no bubblewrap here")
    command = [bwrap, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the kernel gives bubblewrap no namespaces: {done.stderr.strip()}")
