"""`python -m tests.gpu.on_both LIBRARY FOLDER CELLS`: the same trainings on the CPU and on a pretended GPU.

CELLS is JSON, a list of [method, options]. Writes `FOLDER/outcome.json`: for each cell the lines of both metrics files,
the traceback of whichever failed, and what was found about kernels.
"""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.gpu import building

library, folder = Path(sys.argv[1]), Path(sys.argv[2])
building.load(library)

from plaudit.forest.attention.choose import kernel_notes  # noqa: E402
from tests.conftest import write_tiny_model  # noqa: E402
from tests.gpu.pretended import gpu  # noqa: E402
from tests.train import runs  # noqa: E402


def outcome(method: str, changes: dict[str, Any], model: Path, place: Path) -> dict[str, Any]:
    """What came of one training on both."""
    kind = runs.available()[method].data_kind
    place.mkdir()
    data = runs.write_rows(place / f"{kind}.jsonl", runs.rows_of(kind))
    found: dict[str, Any] = {}
    for name in ("cpu", "gpu"):
        options = runs.options_for(model, data, place / name, **changes)
        try:
            with gpu() if name == "gpu" else nullcontext():
                runs.train_here(method, options)
        except Exception:
            found["traceback"] = f"on the {name}: {traceback.format_exc()}"
            break
        found[name] = runs.lines(place / name / "metrics.jsonl")
    return found


def main() -> None:
    """One after the other."""
    model = write_tiny_model(folder / "model")
    cells = json.loads(sys.argv[3])
    found = [outcome(method, changes, model, folder / str(i)) for i, (method, changes) in enumerate(cells)]
    (folder / "outcome.json").write_text(json.dumps({"cells": found, "kernels": kernel_notes()}), encoding="utf-8")


if __name__ == "__main__":
    main()
