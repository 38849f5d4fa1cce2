"""Write the generated pages of docs/: the configuration from the schema, the methods and metrics from their tables."""

from __future__ import annotations

import sys
from pathlib import Path

from plaudit.config.docs import configuration_page, methods_page
from plaudit.methods import available
from plaudit.runs.metrics import docs_table

DOCS = Path(__file__).parents[1] / "docs"

METRICS_HEAD = """# Metrics

<!-- Written by `python scripts/write_docs.py` from the metrics table; a test fails when it is not current. -->

`metrics.jsonl` in the run directory has one line per logged step. `eval/<name>` is the same quantity on held-out data.
Rewards are those that preference methods imply: β × the log-ratio of policy to reference.

"""


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    available()  # methods add their metrics when they are imported
    return {
        "configuration.md": configuration_page(),
        "methods.md": methods_page(),
        "metrics.md": METRICS_HEAD + docs_table(),
    }


def main() -> None:
    """Write the pages that have changed."""
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
