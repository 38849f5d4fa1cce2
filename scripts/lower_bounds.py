"""Print the lower bounds of the libraries in pyproject.toml that plaudit runs on as constraints, with the torch of CI.

torch's own lower bound is not tried: its older builds for the CPU alone are not on the Python package index.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write the constraints to stdout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["train"], *extras["serve"], *extras["verify"]]:
        match = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} in pyproject.toml has no plain lower bound")
        if match[1] != "torch":
            sys.stdout.write(f"{match[1]}=={match[2]}\n")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    sys.stdout.write(next(line for line in pinned.splitlines() if line.startswith("torch==")) + "\n")


if __name__ == "__main__":
    main()
