"""The comparison of fused layers with a model's own switches between the two, and both compute the same."""

from __future__ import annotations

import torch

from benchmarks.fused_layers import decoders
from plaudit.models import fused


def test_it_switches_and_both_compute_the_same(monkeypatch):
    calls = []
    kept = fused._normed
    monkeypatch.setattr(fused, "_normed", lambda *given: calls.append(1) or kept(*given))
    model, switch = decoders("10m")
    ids = torch.arange(12)[None]
    found = []
    for to_fused in (False, True, False):
        switch(to_fused)
        calls.clear()
        found.append(model(input_ids=ids, use_cache=False)[0])
        assert bool(calls) == to_fused
    switch(True)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
