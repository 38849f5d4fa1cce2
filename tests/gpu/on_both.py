"""`python -m tests.gpu.on_both LIBRARY FOLDER CELLS`: the same trainings on the CPU and on a pretended GPU.

CELLS is JSON, a list of [method, options, bytes of the GPU's memory or null]. Writes `FOLDER/outcome.json`: for each
cell the lines of both metrics files and the most memory that was used, or the traceback of whichever failed; and what
was found about kernels. A cell with a size of memory runs on the GPU alone.
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
from tests.gpu.pretended import PLENTY, gpu  # noqa: E402
from tests.train import runs  # noqa: E402


def outcome(method: str, changes: dict[str, Any], memory: int | None, model: Path, place: Path) -> dict[str, Any]:
    """What came of one training."""
    kind = runs.available()[method].data_kind
    place.mkdir()
    data = runs.write_rows(place / f"{kind}.jsonl", runs.rows_of(kind, 24 if memory is None else 200))
    found: dict[str, Any] = {}
    for name in ("cpu", "gpu") if memory is None else ("gpu",):
        options = runs.options_for(model, data, place / name, **changes)
        try:
            with gpu(memory or PLENTY) if name == "gpu" else nullcontext() as used:
                runs.train_here(method, options)
                found["peak"] = used and used.peak
        except Exception:
            found["traceback"] = f"on the {name}: {traceback.format_exc()}"
            break
        found[name] = runs.lines(place / name / "metrics.jsonl")
    budget = place / "gpu" / "token_budget.json"
    return found | ({"budget": json.loads(budget.read_text(encoding="utf-8"))} if budget.exists() else {})


def main() -> None:
    """One after the other."""
    model = write_tiny_model(folder / "model")
    cells = json.loads(sys.argv[3])
    found = [outcome(*cell, model, folder / str(i)) for i, cell in enumerate(cells)]
    (folder / "outcome.json").write_text(json.dumps({"cells": found, "kernels": kernel_notes()}), encoding="utf-8")


if __name__ == "__main__":
    main()
