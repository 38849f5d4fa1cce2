"""Every method makes the known reward rise on prompts it has not seen, and falls with it when the labels are turned.

The default run trains each method once; the slow run takes five seeds, and turned labels.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.facts_model import PolicyTrial, RewardTrial, Taught, Trial, trial
from plaudit.methods import available
from tests.learning.settings import METHODS, SEEDS, setting_of


def run(method: str, world: Taught, folder: Path, seed: int = 0, flipped: float = 0.0) -> Trial:
    return trial(method, world, folder / f"run-{seed}", seed=seed, options=setting_of(method).options, flipped=flipped)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if available()[m].variant_of else ()) for m in METHODS]
)
def test_it_learns(method: str, world: Taught, tmp_path: Path) -> None:
    found = run(method, world, tmp_path)
    assert found.gain >= setting_of(method).worst, found
    if isinstance(found, RewardTrial):
        assert found.best_of_n > 0.1 * found.possible, found
    else:
        # It won by the facts: answers kept their form and, within one word, their length.
        assert found.well_formed > 0.85, found
        assert abs(found.tokens - taught_tokens(world)) < 1, found


def taught_tokens(world: Taught) -> float:
    return fmean(a.tokens for answers in world.held_out.values() for a in answers)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_from_every_seed(method: str, world: Taught, tmp_path: Path) -> None:
    gains = [run(method, world, tmp_path, seed).gain for seed in SEEDS]
    assert min(gains) >= setting_of(method).worst, gains
    assert fmean(gains) >= setting_of(method).mean, gains


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_the_opposite_from_turned_labels(method: str, world: Taught, tmp_path: Path) -> None:
    """What a loss with the wrong sign would do: the bounds above would catch it."""
    found = run(method, world, tmp_path, flipped=1)
    assert found.gain < -0.05, found
    if isinstance(found, PolicyTrial):
        assert found.gain < -0.1, found


@pytest.mark.slow
def test_discopop_with_the_papers_tau_learns_the_opposite_here(world: Taught, tmp_path: Path) -> None:
    """Why its setting is another one: near the reference its slope has the wrong sign."""
    options = {**setting_of("discopop").options, "tau": 0.05}
    found = trial("discopop", world, tmp_path / "run", seed=0, options=options)
    assert found.gain < -0.1, found
