"""`python -m tests.gpu.as_program LIBRARY MODULE ARGUMENTS`: a program where there is a pretended GPU."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tests.gpu import building

library, module = Path(sys.argv[1]), sys.argv[2]
building.load(library)

from tests.gpu.pretended import gpu  # noqa: E402

sys.argv = [module, *sys.argv[3:]]
with gpu():
    runpy.run_module(module, run_name="__main__", alter_sys=True)
