"""The comparison under flipped labels, small: one method, one rate, one seed of each sort."""

from __future__ import annotations

import pytest

from benchmarks.facts_model import Taught
from benchmarks.flipped_labels import CONTENDERS, measure


@pytest.mark.slow
def test_a_cell_is_measured_with_seeds_that_chose_nothing(world: Taught) -> None:
    found = measure(world, CONTENDERS[0], 0.3, rates=(1e-3,), tuning_seeds=(10,), seeds=(0, 1))
    assert (found.label, found.flipped, found.rate) == ("DPO", 0.3, 1e-3)
    assert len(found.wins) == 2
    assert min(found.wins) > 0.6, "learns in spite of the noise"
    assert found.tuning["0.001"][0] not in found.wins
