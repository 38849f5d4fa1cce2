"""Compile and load `pretended.cpp`. Imports nothing of PyTorch's Python part, which has to come after it."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("pretended.cpp")


def torch_folder() -> Path:
    """Where the package lies, without importing it."""
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def build(compiler: str, library: Path) -> None:
    """Compile it, in some seconds."""
    torch = torch_folder()
    headers = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    linked = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(
        [compiler, "-O0", "-shared", "-fPIC", "-std=c++20", *headers, str(SOURCE), "-o", str(library), *linked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def load(library: Path) -> None:
    """Before `import torch`: it asks once what its CUDA part is."""
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
