"""Print the lower bounds of the training libraries in pyproject.toml as constraints, with the torch that CI uses."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RANGED = ("transformers", "peft", "datasets")


def main() -> None:
    """Write the constraints to stdout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["optional-dependencies"]["train"]:
        match = re.fullmatch(r"([\w-]+)>=([\d.]+).*", requirement)
        if match and match[1] in RANGED:
            sys.stdout.write(f"{match[1]}=={match[2]}\n")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    sys.stdout.write(next(line for line in pinned.splitlines() if line.startswith("torch==")) + "\n")


if __name__ == "__main__":
    main()
