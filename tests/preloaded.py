"""What the server of warm processes imports and prepares (see warm.py): at import it must not compute with tensors,
because threads do not survive a fork."""

from __future__ import annotations

import gc
import importlib
import importlib.util

import plaudit.runs.report
import tests.forest.parallel_worker
import tests.train.runs
import tests.train.sharded_worker
import tests.train.steps  # noqa: F401

FURTHER = ("numpy.ma", "torch.utils.serialization", "torch.distributed.checkpoint", "datasets")
"""Imported by a run when it gets there."""

for name in FURTHER:
    if importlib.util.find_spec(name) is not None:
        importlib.import_module(name)

# The page of a run is a template that is compiled once in a process …
plaudit.runs.report.page_engine()[0].get_template("report.html.jinja")
# … and to load its first model, transformers compiles a thousand patterns.
mapping = importlib.util.find_spec("transformers.conversion_mapping")
if mapping is not None:
    found = importlib.import_module("transformers.conversion_mapping")
    getattr(found, "get_checkpoint_conversion_mapping", lambda name: None)("llama")

gc.collect()
gc.freeze()  # a collection in a fork would copy all of this
